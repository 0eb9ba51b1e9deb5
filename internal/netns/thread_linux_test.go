package netns_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/internal/netns"
	"github.com/podcni/podcni/testutils"
)

const threadNS = "/proc/thread-self/ns/net"

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

// TestTheMainThreadNeverLeaves calls from the main thread, where the scheduler
// would also run what the call starts.
func TestTheMainThreadNeverLeaves(t *testing.T) {
	// Not parallel: it takes all threads.
	n := create(t)
	for range 20 {
		const most = 64
		var wg sync.WaitGroup
		visited, arrived, leave := make(chan error, most), make(chan struct{}, most), make(chan struct{})
		for range most {
			wg.Go(func() {
				runtime.LockOSThread()
				if unix.Gettid() != unix.Getpid() {
					arrived <- struct{}{}
					<-leave
					runtime.UnlockOSThread()
					return
				}
				runtime.UnlockOSThread()
				visited <- n.Do(func() error {
					if unix.Gettid() == unix.Getpid() {
						return errors.New("the main thread is away")
					}
					return nil
				})
				arrived <- struct{}{}
			})
		}
		for range most {
			<-arrived
		}
		close(leave)
		wg.Wait()
		close(visited) // it is empty if the main thread was busy
		for err := range visited {
			require.NoError(t, err)
		}
	}
}

func TestDo(t *testing.T) {
	// Not parallel: it looks at the whole process.
	n := create(t)
	inside := fmt.Sprintf("net:[%d]", n.ID().Ino)
	own := readlink(t, "/proc/self/ns/net")
	require.NotEqual(t, inside, own)

	errMine := errors.New("mine")
	require.Equal(t, errMine, n.Do(func() error {
		if now := readlink(t, threadNS); now != inside {
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
		n, err := netns.Open(n.Path())
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
					if now, err := os.Readlink(threadNS); now != inside {
						return fmt.Errorf("in %s: %w", now, err)
					}
					if i%4 == 0 {
						panic("boom")
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if now, _ := os.Readlink(threadNS); now != own {
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
		away := readlink(t, threadNS)
		require.NoError(t, n.LoopbackUp())
		require.Equal(t, away, readlink(t, threadNS))
	})
	t.Run("OpenPod from within", func(t *testing.T) {
		require.NoError(t, n.Do(func() error {
			// The pod's namespace is not the runtime's for that.
			pod, err := netns.OpenPod(t.Context(), n.Path(), true)
			if err != nil {
				return err
			}
			if now, err := os.Readlink(threadNS); now != inside {
				return fmt.Errorf("now in %s: %w", now, err)
			}
			if _, err := netns.OpenPod(t.Context(), "/proc/self/ns/net", true); !errors.Is(err, netns.ErrNotNetNS) {
				return fmt.Errorf("the runtime's own namespace was taken: %w", err)
			}
			return pod.Close()
		}))
	})
}

func TestThreadsThatCannotComeBackEnd(t *testing.T) {
	// Not parallel: it looks at the whole process.
	if foreign := os.Getenv(noWayBack); foreign != "" {
		requireThreadsEnd(t, foreign)
		return
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), noWayBack+"="+create(t).Path())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("no user namespace in the sandbox: %v", err)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
}

func requireThreadsEnd(t *testing.T, foreign string) {
	t.Helper()
	own := readlink(t, "/proc/self/ns/net")
	// It may be told apart, but not entered.
	seen, err := netns.OpenPod(t.Context(), foreign, false)
	require.NoError(t, err)
	require.NotZero(t, seen.ID().Ino)
	require.Zero(t, seen.ID().Cookie)
	requireStillAt(t, seen, foreign, true)
	require.NoError(t, seen.Close())
	_, err = netns.OpenPod(t.Context(), foreign, true)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NotErrorIs(t, err, netns.ErrNotNetNS)

	// A new one may be entered, but the own one not again.
	n, err := netns.Create(t.TempDir(), "pod")
	require.NoError(t, err)
	defer func() { require.NoError(t, n.Remove()) }()
	require.ErrorIs(t, n.Do(func() error {
		home, err := os.Open("/proc/self/ns/net")
		if err != nil {
			return err
		}
		defer home.Close()
		return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
	}), unix.EPERM, "this process cannot show what it is for")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			pod, err := netns.OpenPod(t.Context(), n.Path(), true)
			if err != nil {
				t.Error(err)
				return
			}
			if now, err := os.Readlink(threadNS); err != nil || now != own {
				t.Error("left in ", now, err)
			}
			_ = pod.Close()
		})
	}
	wg.Wait()
	require.True(t, loIsUp(t, n))
	require.Equal(t, own, readlink(t, "/proc/self/ns/net"), "the main thread's")

	// One that cannot be made leaves nothing. The limit is of this process's own
	// user namespace.
	if err := os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0); err != nil {
		t.Logf("namespaces cannot be limited here: %v", err)
		return
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	fds := testutils.FDs(t)
	_, err = netns.Create(dir, "pod")
	require.ErrorIs(t, err, unix.ENOSPC)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
	require.Equal(t, fds, testutils.FDs(t))
}
