package podcni_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

const threadNetNS = "/proc/thread-self/ns/net"

func readlink(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	require.NoError(t, err)
	return target
}

// requireNobodyAway fails when a thread of this process is in another network
// namespace than the main thread.
func requireNobodyAway(t *testing.T) {
	t.Helper()
	own := readlink(t, "/proc/self/ns/net")
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	require.NoError(t, err)
	require.NotEmpty(t, tasks)
	for _, task := range tasks {
		// A thread may have ended meanwhile.
		if ns, err := os.Readlink(task); err == nil {
			require.Equal(t, own, ns)
		}
	}
}

func TestNetNSFromNewToRemoved(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		// It is made when it is missing.
		require.NoError(t, os.Remove("/run/netns"))
		fds := testutils.FDs(t)
		n, err := podcni.NewNetNS("", "pod-1")
		require.NoError(t, err)
		require.Equal(t, "/run/netns/pod-1", n.Path())
		info, err := os.Stat("/run/netns")
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o755), info.Mode().Perm())
		requireNobodyAway(t)

		_, err = podcni.NewNetNS("", "pod-1")
		require.ErrorIs(t, err, fs.ErrExist)

		again, err := podcni.OpenNetNS(n.Path())
		require.NoError(t, err)
		require.Equal(t, n.ID(), again.ID())
		require.NotZero(t, n.ID().Ino)
		require.NotEmpty(t, n.ID().BootID)
		other, err := podcni.NewNetNS("", "pod-2")
		require.NoError(t, err)
		require.False(t, n.ID().Same(other.ID()))
		require.NoError(t, other.Remove())

		lo, err := n.Interface("lo")
		require.NoError(t, err)
		require.False(t, lo.Up)
		require.Empty(t, lo.Addrs)
		require.NoError(t, n.LoopbackUp())
		require.NoError(t, n.LoopbackUp())
		lo, err = again.Interface("lo")
		require.NoError(t, err)
		require.True(t, lo.Up)
		require.Equal(t, "lo", lo.Name)
		require.Equal(t, 1, lo.Index)
		require.Equal(t, 65536, lo.MTU)
		require.Empty(t, lo.MAC)
		require.Contains(t, lo.Addrs, netip.MustParsePrefix("127.0.0.1/8"))
		for _, name := range []string{"eth0", "", "a-name-of-far-too-many-bytes", "a\x00b"} {
			_, err = n.Interface(name)
			require.ErrorIs(t, err, fs.ErrNotExist, name)
		}

		require.NoError(t, n.Remove())
		require.NoFileExists(t, n.Path())
		require.NoError(t, n.Remove())
		require.NoError(t, n.Close())
		require.Equal(t, n.ID(), again.ID())
		require.ErrorIs(t, n.LoopbackUp(), os.ErrClosed)
		require.NoError(t, again.LoopbackUp(), "it lives on while it is open")
		require.NoError(t, again.Remove(), "there is nothing left to do")
		require.Equal(t, fds, testutils.FDs(t))
	})
}

func TestNetNSInterfaceOfHardware(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		n, err := podcni.OpenNetNS(testutils.NewNetNS(t))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, n.Close()) })
		mac := net.HardwareAddr{0xc2, 0x11, 0x22, 0x33, 0x44, 0x55}
		err = n.Do(func() error {
			var errs []error
			for _, kind := range []string{"dummy", "veth", "bridge"} {
				err := addInterface(kind, "eth0", mac)
				if err == nil {
					return nil
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		})
		if err != nil {
			t.Skipf("no interface to look at: %v", err)
		}
		eth0, err := n.Interface("eth0")
		require.NoError(t, err)
		require.Equal(t, "c2:11:22:33:44:55", eth0.MAC)
		require.Equal(t, 1500, eth0.MTU)
		require.False(t, eth0.Up)
	})
}

// addInterface adds an interface in the calling thread's namespace.
func addInterface(kind, name string, mac net.HardwareAddr) error {
	attr := func(kind uint16, value []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	body = append(body, attr(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	body = append(body, attr(unix.IFLA_ADDRESS, mac)...)
	body = append(body, attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, []byte(kind)))...)
	head := make([]byte, unix.SizeofNlMsghdr)
	binary.NativeEndian.PutUint32(head, uint32(len(head)+len(body)))
	binary.NativeEndian.PutUint16(head[4:], unix.RTM_NEWLINK)
	binary.NativeEndian.PutUint16(head[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if err := unix.Sendto(socket, append(head, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	if _, err = unix.Read(socket, answer); err != nil {
		return err
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

func TestNetNSDo(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		// Not testutils' NewNetNS: it leaves a thread that is just ending.
		n, err := podcni.NewNetNS(t.TempDir(), "pod")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, n.Remove()) })
		inside := fmt.Sprintf("net:[%d]", n.ID().Ino)
		own := readlink(t, "/proc/self/ns/net")
		require.NotEqual(t, inside, own)

		errMine := errors.New("mine")
		require.Equal(t, errMine, n.Do(func() error {
			if now := readlink(t, threadNetNS); now != inside {
				return errors.New("in " + now)
			}
			if now := readlink(t, "/proc/self/ns/net"); now != own {
				return errors.New("the main thread is in " + now)
			}
			return errMine
		}))
		requireNobodyAway(t)

		t.Run("a panic goes on", func(t *testing.T) {
			require.PanicsWithValue(t, "boom", func() { _ = n.Do(func() error { panic("boom") }) })
			requireNobodyAway(t)
		})
		t.Run("Goexit goes on", func(t *testing.T) {
			var wg sync.WaitGroup
			returned := false
			wg.Go(func() {
				_ = n.Do(func() error { runtime.Goexit(); return nil })
				returned = true
			})
			wg.Wait()
			require.False(t, returned)
			requireNobodyAway(t)
		})
		t.Run("Close waits for nobody and cuts nobody off", func(t *testing.T) {
			n, err := podcni.OpenNetNS(n.Path())
			require.NoError(t, err)
			require.NoError(t, n.Do(n.Close))
			require.ErrorIs(t, n.Do(func() error { return errMine }), os.ErrClosed)
		})
		t.Run("many at once", func(t *testing.T) {
			const visits = 64
			var wg sync.WaitGroup
			arrived := make(chan struct{}, visits)
			leave := make(chan struct{})
			for i := range visits {
				wg.Go(func() {
					defer func() { _ = recover() }()
					err := n.Do(func() error {
						arrived <- struct{}{}
						<-leave
						if now := readlink(t, threadNetNS); now != inside {
							return errors.New("in " + now)
						}
						if i%4 == 0 {
							panic("boom")
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
					if now := readlink(t, threadNetNS); now != own {
						t.Error("left in ", now)
					}
				})
			}
			// Every thread that was idle is in use now.
			for range visits {
				<-arrived
			}
			main := readlink(t, "/proc/self/ns/net")
			close(leave)
			require.Equal(t, own, main, "the main thread is away")
			wg.Wait()
			requireNobodyAway(t)
		})
		t.Run("from a thread that is away", func(t *testing.T) {
			runtime.LockOSThread() // and the thread ends with the subtest
			require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
			away := readlink(t, threadNetNS)
			require.NoError(t, n.LoopbackUp())
			require.Equal(t, away, readlink(t, threadNetNS))
		})
	})
}

func TestNetNSRemoveTakesOnlyItsOwnPin(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		pinned := func(t *testing.T) *podcni.NetNS {
			t.Helper()
			n, err := podcni.NewNetNS(t.TempDir(), "pin")
			require.NoError(t, err)
			t.Cleanup(func() {
				require.NoError(t, n.Close())
				_ = unix.Unmount(n.Path(), unix.MNT_DETACH)
			})
			return n
		}
		t.Run("a link", func(t *testing.T) {
			n, err := podcni.OpenNetNS("/proc/self/ns/net")
			require.NoError(t, err)
			require.ErrorIs(t, n.Remove(), podcni.ErrNetNS)
			require.NoError(t, n.LoopbackUp(), "it is still open")
			require.NoError(t, n.Close())
		})
		t.Run("a link to the pin", func(t *testing.T) {
			n := pinned(t)
			link := filepath.Join(t.TempDir(), "link")
			require.NoError(t, os.Symlink(n.Path(), link))
			linked, err := podcni.OpenNetNS(link)
			require.NoError(t, err)
			require.ErrorIs(t, linked.Remove(), podcni.ErrNetNS)
			require.NoError(t, linked.Close())
			_, err = os.Lstat(link)
			require.NoError(t, err)
		})
		t.Run("another namespace's pin", func(t *testing.T) {
			n, other := pinned(t), pinned(t)
			require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
			require.NoError(t, unix.Mount(other.Path(), n.Path(), "", unix.MS_BIND, ""))
			require.ErrorIs(t, n.Remove(), podcni.ErrNetNS)
			now, err := podcni.OpenNetNS(n.Path())
			require.NoError(t, err)
			require.True(t, now.ID().Same(other.ID()))
			require.NoError(t, now.Close())
		})
		t.Run("a file in its place", func(t *testing.T) {
			n := pinned(t)
			require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
			require.NoError(t, os.Remove(n.Path()))
			require.NoError(t, os.WriteFile(n.Path(), []byte("x"), 0o600))
			require.ErrorIs(t, n.Remove(), podcni.ErrNetNS)
			require.FileExists(t, n.Path())
		})
		t.Run("a directory in its place", func(t *testing.T) {
			n := pinned(t)
			require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
			require.NoError(t, os.Remove(n.Path()))
			require.NoError(t, os.Mkdir(n.Path(), 0o700))
			require.ErrorIs(t, n.Remove(), podcni.ErrNetNS)
			require.DirExists(t, n.Path())
		})
		t.Run("unmounted by someone", func(t *testing.T) {
			n := pinned(t)
			require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
			require.NoError(t, n.Remove())
			require.NoFileExists(t, n.Path())
		})
		t.Run("removed by someone", func(t *testing.T) {
			n := pinned(t)
			require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
			require.NoError(t, os.RemoveAll(filepath.Dir(n.Path())))
			require.NoError(t, n.Remove())
		})
	})
}

// notNetNS are paths that lead to no network namespace.
func notNetNS(t *testing.T) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "netns") // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	in := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(in("left over"), nil, 0o444))
	require.NoError(t, os.WriteFile(in("text"), []byte("net:[4026531840]"), 0o600))
	require.NoError(t, unix.Mkfifo(in("fifo"), 0o600))
	l, err := net.Listen("unix", in("socket"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	require.NoError(t, os.Symlink(in("nothing"), in("dangling")))
	return map[string]string{
		"a pin without its mount": in("left over"),
		"a text":                  in("text"),
		"a directory":             dir,
		"a FIFO":                  in("fifo"),
		"a socket":                in("socket"),
		"a device":                "/dev/null",
		"another kind":            "/proc/self/ns/mnt",
		"a NUL":                   in("a\x00b"),
		"nothing":                 in("nothing"),
		"nothing behind a link":   in("dangling"),
		"below a file":            in("text/net"),
		"no path":                 "",
		"no process":              "/proc/4194305/ns/net",
	}
}

func TestOpenNetNSRefuses(t *testing.T) {
	t.Parallel()
	gone := []string{"nothing", "nothing behind a link", "below a file", "no path", "no process"}
	for name, path := range notNetNS(t) {
		_, err := podcni.OpenNetNS(path)
		require.ErrorIs(t, err, podcni.ErrNetNS, name)
		require.NotContains(t, err.Error(), "%!", name)
		if slices.Contains(gone, name) {
			require.ErrorIs(t, err, fs.ErrNotExist, name)
		} else {
			require.NotErrorIs(t, err, fs.ErrNotExist, name)
		}
	}
	// The system's trouble says nothing about the namespace.
	loop := filepath.Join(t.TempDir(), "loop")
	require.NoError(t, os.Symlink(loop, loop))
	_, err := podcni.OpenNetNS(loop)
	require.ErrorIs(t, err, unix.ELOOP)
	require.NotErrorIs(t, err, podcni.ErrNetNS)
}

func TestOpenNetNSTakesNoPrivilege(t *testing.T) {
	t.Parallel()
	n, err := podcni.OpenNetNS("/proc/self/ns/net")
	require.NoError(t, err)
	require.NotZero(t, n.ID().Ino)
	require.NoError(t, n.Close())
	require.NoError(t, n.Close())
}

func TestNewNetNSWithoutPrivilege(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to root")
	}
	dir := t.TempDir()
	_, err := podcni.NewNetNS(dir, "pod")
	require.ErrorIs(t, err, fs.ErrPermission)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}
