package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/internal/netns"
	"github.com/podcni/podcni/testutils"
)

func readlink(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	require.NoError(t, err)
	return target
}

// create makes a namespace that lasts as long as the test. Its pin may be
// anything at the end.
func create(t *testing.T) *netns.NS {
	t.Helper()
	n, err := netns.Create(t.TempDir(), "pod")
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("no sandbox: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, n.Close())
		_ = unix.Unmount(n.Path(), unix.MNT_DETACH)
	})
	return n
}

func requireStillAt(t *testing.T, n *netns.NS, path string, want bool) {
	t.Helper()
	still, err := n.StillAt(path)
	require.NoError(t, err)
	require.Equal(t, want, still)
}

func loIsUp(t *testing.T, n *netns.NS) bool {
	t.Helper()
	lo, err := n.Interface("lo")
	require.NoError(t, err)
	return lo.Up
}

func TestFromCreateToRemove(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		// It is made when it is missing.
		require.NoError(t, os.Remove(netns.DefaultDir))
		fds := testutils.FDs(t)
		n, err := netns.Create("", "pod-1")
		require.NoError(t, err)
		require.Equal(t, "/run/netns/pod-1", n.Path())
		info, err := os.Stat("/run/netns")
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o755), info.Mode().Perm())
		requireNobodyAway(t)

		_, err = netns.Create("", "pod-1")
		require.ErrorIs(t, err, fs.ErrExist)

		again, err := netns.Open(n.Path())
		require.NoError(t, err)
		require.Equal(t, n.ID(), again.ID())
		require.NotZero(t, n.ID().Ino)
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(string(boot)), n.ID().BootID)
		other, err := netns.Create("", "pod-2")
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
		require.Contains(t, lo.Addrs, netip.MustParsePrefix("127.0.0.1/8"))
		lo.Addrs = nil
		require.Equal(t, netns.Interface{Name: "lo", Index: 1, MTU: 65536, Up: true}, lo)
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

func TestRemoveTakesOnlyItsOwnPin(t *testing.T) {
	t.Parallel()
	t.Run("a link", func(t *testing.T) {
		create(t) // or there is no right to enter
		n, err := netns.Open("/proc/self/ns/net")
		require.NoError(t, err)
		require.ErrorIs(t, n.Remove(), netns.ErrNotNetNS)
		require.NoError(t, n.LoopbackUp(), "it is still open")
		require.NoError(t, n.Close())
	})
	t.Run("a link to the pin", func(t *testing.T) {
		n := create(t)
		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(n.Path(), link))
		linked, err := netns.Open(link)
		require.NoError(t, err)
		require.ErrorIs(t, linked.Remove(), netns.ErrNotNetNS)
		require.NoError(t, linked.Close())
		_, err = os.Lstat(link)
		require.NoError(t, err)
		requireStillAt(t, n, n.Path(), true)
	})
	t.Run("another namespace's pin", func(t *testing.T) {
		n, other := create(t), create(t)
		require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
		require.NoError(t, unix.Mount(other.Path(), n.Path(), "", unix.MS_BIND, ""))
		require.ErrorIs(t, n.Remove(), netns.ErrNotNetNS)
		requireStillAt(t, other, n.Path(), true)
	})
	t.Run("its pin upon another's", func(t *testing.T) {
		n, other := create(t), create(t)
		require.NoError(t, unix.Mount(n.Path(), other.Path(), "", unix.MS_BIND, ""))
		upper, err := netns.Open(other.Path())
		require.NoError(t, err)
		require.Error(t, upper.Remove())
		require.NoError(t, upper.Close())
		requireStillAt(t, other, other.Path(), true)
	})
	t.Run("a file in its place", func(t *testing.T) {
		n := create(t)
		require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
		require.NoError(t, os.Remove(n.Path()))
		require.NoError(t, os.WriteFile(n.Path(), []byte("x"), 0o600))
		require.ErrorIs(t, n.Remove(), netns.ErrNotNetNS)
		require.FileExists(t, n.Path())
	})
	t.Run("a directory in its place", func(t *testing.T) {
		n := create(t)
		require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
		require.NoError(t, os.Remove(n.Path()))
		require.NoError(t, os.Mkdir(n.Path(), 0o700))
		require.ErrorIs(t, n.Remove(), netns.ErrNotNetNS)
		require.DirExists(t, n.Path())
	})
	t.Run("closed", func(t *testing.T) {
		n := create(t)
		require.NoError(t, n.Close())
		require.ErrorIs(t, n.Remove(), os.ErrClosed, "the inode may be another's")
		now, err := netns.Open(n.Path())
		require.NoError(t, err)
		require.NoError(t, now.Remove())
		require.NoError(t, n.Remove())
	})
	t.Run("unmounted by someone", func(t *testing.T) {
		n := create(t)
		require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
		require.NoError(t, n.Remove())
		require.NoFileExists(t, n.Path())
	})
	t.Run("removed by someone", func(t *testing.T) {
		n := create(t)
		require.NoError(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
		require.NoError(t, os.RemoveAll(filepath.Dir(n.Path())))
		require.NoError(t, n.Remove())
	})
}

// openers are the ways to open a namespace that must refuse the same paths.
var openers = map[string]func(context.Context, string) (*netns.NS, error){
	"Open": func(_ context.Context, path string) (*netns.NS, error) { return netns.Open(path) },
	"OpenPod without lo": func(ctx context.Context, path string) (*netns.NS, error) {
		return netns.OpenPod(ctx, path, false)
	},
	"OpenPod with lo": func(ctx context.Context, path string) (*netns.NS, error) {
		return netns.OpenPod(ctx, path, true)
	},
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
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
	require.NoError(t, os.Symlink(in("loop"), in("loop")))
	gone := []string{"nothing", "nothing behind a link", "below a file", "no path", "no process"}
	paths := map[string]string{
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
	for how, open := range openers {
		for name, path := range paths {
			n, err := open(t.Context(), path)
			require.ErrorIs(t, err, netns.ErrNotNetNS, "%s: %s", how, name)
			require.Nil(t, n)
			require.NotContains(t, err.Error(), "%!", name)
			require.Equal(t, slices.Contains(gone, name), errors.Is(err, netns.ErrGone), "%s: %s", how, name)
			require.Equal(t, slices.Contains(gone, name), errors.Is(err, fs.ErrNotExist), "%s: %s", how, name)
		}
		// The system's trouble says nothing about the namespace.
		_, err = open(t.Context(), in("loop"))
		require.ErrorIs(t, err, unix.ELOOP)
		require.NotErrorIs(t, err, netns.ErrNotNetNS)
	}
}

// TestNothingElseIsOpened watches nodes of which the kernel says when they are
// opened. A terminal stands for devices.
func TestNothingElseIsOpened(t *testing.T) {
	t.Parallel()
	n := create(t)
	dir := t.TempDir()
	text, fifo := filepath.Join(dir, "text"), filepath.Join(dir, "fifo")
	require.NoError(t, os.WriteFile(text, nil, 0o600))
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	nodes := []string{text, fifo, dir}
	if terminal, err := newTerminal(t); err != nil {
		t.Logf("no device to look at: %v", err)
	} else {
		nodes = append(nodes, terminal)
	}
	for _, node := range nodes {
		watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		require.NoError(t, err)
		_, err = unix.InotifyAddWatch(watch, node, unix.IN_OPEN|unix.IN_ACCESS)
		require.NoError(t, err)
		event := make([]byte, 4096)

		for how, open := range openers {
			_, err := open(t.Context(), node)
			require.ErrorIs(t, err, netns.ErrNotNetNS, how)
		}
		requireStillAt(t, n, node, false)
		_, err = unix.Read(watch, event)
		require.ErrorIs(t, err, unix.EAGAIN, "%s was opened", node)

		fd, err := unix.Open(node, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		_, err = unix.Read(watch, event)
		require.NoError(t, err, "an open of %s is not seen", node)
		require.NoError(t, unix.Close(watch))
	}
}

// newTerminal returns the path of a terminal that nobody else knows.
func newTerminal(t *testing.T) (string, error) {
	dir := t.TempDir()
	if err := unix.Mount("devpts", dir, "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666"); err != nil {
		return "", err
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	controller, err := unix.Open(filepath.Join(dir, "ptmx"), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { require.NoError(t, unix.Close(controller)) })
	return filepath.Join(dir, "0"), unix.IoctlSetPointerInt(controller, unix.TIOCSPTLCK, 0)
}

func TestOpenTakesNoPrivilege(t *testing.T) {
	t.Parallel()
	n, err := netns.Open("/proc/self/ns/net")
	require.NoError(t, err)
	require.NotZero(t, n.ID().Ino)
	requireStillAt(t, n, "/proc/self/ns/net", true)
	requireStillAt(t, n, "/proc/self/ns/mnt", false)
	require.NoError(t, n.Close())
	require.NoError(t, n.Close())
}

func TestOpenOfARelativePath(t *testing.T) {
	t.Parallel()
	wd, err := os.Getwd()
	require.NoError(t, err)
	path, err := filepath.Rel(wd, "/proc")
	require.NoError(t, err)
	n, err := netns.Open(filepath.Join(path, "self/ns/net"))
	require.NoError(t, err)
	require.Equal(t, "/proc/self/ns/net", n.Path())
	require.NoError(t, n.Close())
}

func TestCreateWithoutPrivilege(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to root")
	}
	dir := t.TempDir()
	_, err := netns.Create(dir, "pod")
	require.ErrorIs(t, err, fs.ErrPermission)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestOpenPod(t *testing.T) {
	// Not parallel: it looks at the whole process.
	created := create(t)
	path := created.Path()
	fds := testutils.FDs(t)
	seen, err := netns.OpenPod(t.Context(), path, false)
	require.NoError(t, err)
	require.False(t, loIsUp(t, seen))
	ready, err := netns.OpenPod(t.Context(), path, true)
	require.NoError(t, err)
	require.True(t, loIsUp(t, seen))
	require.Equal(t, created.ID(), seen.ID())
	require.Equal(t, created.ID(), ready.ID())
	requireNobodyAway(t)
	require.NoError(t, seen.Close())
	require.NoError(t, ready.Close())

	for _, loUp := range []bool{true, false} {
		_, err = netns.OpenPod(t.Context(), "/proc/self/ns/net", loUp)
		require.ErrorIs(t, err, netns.ErrNotNetNS)
		require.NotErrorIs(t, err, netns.ErrGone)
	}
	require.Equal(t, fds, testutils.FDs(t))
}

func TestOpenPodOfAProcess(t *testing.T) {
	t.Parallel()
	create(t) // or there is no right to make one
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	// The child must not die of the end of this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.NoError(t, cmd.Start())
	path := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	n, err := netns.OpenPod(t.Context(), path, true)
	require.NoError(t, err)
	require.True(t, loIsUp(t, n))
	requireStillAt(t, n, path, true)
	requireStillAt(t, n, "/proc/self/ns/net", false)

	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait())
	requireStillAt(t, n, path, false)
	_, err = netns.OpenPod(t.Context(), path, true)
	require.ErrorIs(t, err, netns.ErrGone)
	require.True(t, loIsUp(t, n), "it lives on while it is open")
	require.NoError(t, n.Close())
}

func TestStillAtSeesAnother(t *testing.T) {
	t.Parallel()
	first := create(t)
	dir := filepath.Dir(first.Path())
	open, err := netns.OpenPod(t.Context(), first.Path(), false)
	require.NoError(t, err)
	requireStillAt(t, open, first.Path(), true)
	require.NoError(t, first.Remove())
	requireStillAt(t, open, first.Path(), false)
	requireStillAt(t, open, filepath.Join(dir, "a", "b"), false)
	second, err := netns.Create(dir, "pod")
	require.NoError(t, err)
	requireStillAt(t, open, first.Path(), false)
	requireStillAt(t, second, first.Path(), true)
	require.False(t, open.ID().Same(second.ID()))

	_, err = open.StillAt("/proc/self/fd/a\x00b")
	require.Error(t, err)
	require.NoError(t, second.Close())
	_, err = second.StillAt(first.Path())
	require.ErrorIs(t, err, os.ErrClosed, "the inode may be another's")
	require.NoError(t, unix.Unmount(second.Path(), unix.MNT_DETACH))
	require.NoError(t, open.Close())
}

func TestAHungPathHoldsNobodyBeyondTheContext(t *testing.T) {
	// Not parallel: it looks at the whole process.
	n := create(t)
	hung := newHungDir(t, n.Path())
	path := filepath.Join(hung.path, "net")
	fds := testutils.FDs(t)

	// It is the file system that is waited for: the context ends in the middle.
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-hung.asked; cancel() }()
	_, err := netns.OpenPod(ctx, path, true)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, netns.ErrNotNetNS)

	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = netns.OpenPod(ctx, path, false)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	// What is opened in the end is closed, and not only by the collector.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	require.False(t, loIsUp(t, n))
	hung.answer()
	requireStillAt(t, n, path, true)
	require.Eventually(t, func() bool { return loIsUp(t, n) && testutils.FDs(t) == fds }, 10*time.Second, time.Millisecond)
	pod, err := netns.OpenPod(t.Context(), path, true)
	require.NoError(t, err)
	require.Equal(t, n.ID(), pod.ID())
	require.NoError(t, pod.Close())
}
