package podcni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/testutils"
)

func loIsUp(t *testing.T, path string) bool {
	t.Helper()
	n, err := OpenNetNS(path)
	require.NoError(t, err)
	defer n.Close()
	lo, err := n.Interface("lo")
	require.NoError(t, err)
	return lo.Up
}

func TestPreparePodNetNS(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		path := testutils.NewNetNS(t)
		fds := testutils.FDs(t)
		seen, err := identifyNetNS(path)
		require.NoError(t, err)
		require.False(t, loIsUp(t, path))
		id, err := preparePodNetNS(path)
		require.NoError(t, err)
		require.True(t, loIsUp(t, path))
		require.Equal(t, seen, id)
		again, err := preparePodNetNS(path)
		require.NoError(t, err)
		require.Equal(t, id, again)
		n, err := OpenNetNS(path)
		require.NoError(t, err)
		require.Equal(t, id, n.ID())
		require.NoError(t, n.Close())

		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(string(boot)), id.BootID)
		require.NotEmpty(t, id.BootID)

		for range 10 {
			_, err = preparePodNetNS("/proc/self/ns/net")
			require.ErrorIs(t, err, ErrNetNS)
		}
		require.Equal(t, fds, testutils.FDs(t))
	})
}

func TestPodNetNSAfterAnother(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		dir := t.TempDir()
		first, err := NewNetNS(dir, "pod")
		require.NoError(t, err)
		before, err := preparePodNetNS(first.Path())
		require.NoError(t, err)
		if before.Cookie == 0 {
			t.Skip("this kernel has no cookies")
		}
		require.NoError(t, first.Remove())
		_, err = identifyNetNS(first.Path())
		require.ErrorIs(t, err, errNetNSGone)
		second, err := NewNetNS(dir, "pod")
		require.NoError(t, err)
		after, err := identifyNetNS(second.Path())
		require.NoError(t, err)
		require.False(t, before.Same(after), "%+v %+v", before, after)
		require.NoError(t, second.Remove())
	})
}

func TestPodNetNSOfAProcess(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		cmd := exec.Command("cat")
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
		// The child must not die of the end of this thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		require.NoError(t, cmd.Start())
		path := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
		id, err := preparePodNetNS(path)
		require.NoError(t, err)
		require.True(t, loIsUp(t, path))
		now, err := identifyNetNS(path)
		require.NoError(t, err)
		require.True(t, id.Same(now))
		require.NoError(t, stdin.Close())
		require.NoError(t, cmd.Wait())
		_, err = preparePodNetNS(path)
		require.ErrorIs(t, err, errNetNSGone)
	})
}

func TestPodNetNSFromAThreadThatIsAway(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		path := testutils.NewNetNS(t)
		n, err := OpenNetNS(path)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, n.Close()) })
		require.NoError(t, n.Do(func() error {
			// In the pod's namespace itself: it is not the runtime's for that.
			if _, err := preparePodNetNS(path); err != nil {
				return err
			}
			if now, err := os.Readlink(ownNetNS); err != nil || now != fmt.Sprintf("net:[%d]", n.ID().Ino) {
				return fmt.Errorf("now in %s: %w", now, err)
			}
			if _, err := preparePodNetNS("/proc/self/ns/net"); !errors.Is(err, ErrNetNS) {
				return fmt.Errorf("the runtime's own namespace was taken: %w", err)
			}
			return nil
		}))
	})
}

func TestPodNetNSRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	leftOver := filepath.Join(dir, "left over")
	require.NoError(t, os.WriteFile(leftOver, nil, 0o444))
	loop := filepath.Join(dir, "loop")
	require.NoError(t, os.Symlink(loop, loop))
	for _, visit := range []func(string) (NetNSID, error){preparePodNetNS, identifyNetNS} {
		for _, path := range []string{leftOver, dir, "/dev/null", "/proc/self/ns/mnt", "a\x00b", "/proc/self/ns/net"} {
			id, err := visit(path)
			require.ErrorIs(t, err, ErrNetNS, path)
			require.NotErrorIs(t, err, errNetNSGone, path)
			require.Zero(t, id)
		}
		for _, path := range []string{filepath.Join(dir, "nothing"), leftOver + "/net", "", "/proc/4194305/ns/net"} {
			_, err := visit(path)
			require.ErrorIs(t, err, errNetNSGone, path)
		}
		_, err := visit(loop)
		require.ErrorIs(t, err, unix.ELOOP)
		require.NotErrorIs(t, err, ErrNetNS)
	}
}

// noWayBack is set in a process whose user namespace owns neither its network
// namespace nor the one at the path that it is set to. TestMain knows it, too.
const noWayBack = "PODCNI_TEST_NO_WAY_BACK"

func TestThreadsThatCannotComeBackEnd(t *testing.T) {
	t.Parallel()
	if foreign := os.Getenv(noWayBack); foreign != "" {
		requireThreadsEnd(t, foreign)
		return
	}
	testutils.Sandbox(t, func(t *testing.T) {
		exe, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
		cmd.Env = append(os.Environ(), noWayBack+"="+testutils.NewNetNS(t))
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
	})
}

func requireThreadsEnd(t *testing.T, foreign string) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.ErrorIs(t, onThread(func(own int) error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Setns(own, unix.CLONE_NEWNET)
	}), unix.EPERM, "this process cannot show what it is for")

	// It may be told apart, but not entered.
	id, err := identifyNetNS(foreign)
	require.NoError(t, err)
	require.NotZero(t, id.Ino)
	require.Zero(t, id.Cookie)
	_, err = preparePodNetNS(foreign)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NotErrorIs(t, err, ErrNetNS)

	// A new one may be entered, but the own one not again.
	n, err := NewNetNS(t.TempDir(), "pod")
	require.NoError(t, err)
	defer func() { require.NoError(t, n.Remove()) }()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := preparePodNetNS(n.Path()); err != nil {
				t.Error(err)
			}
			if now, err := os.Readlink(ownNetNS); err != nil || now != own {
				t.Error("left in ", now, err)
			}
		})
	}
	wg.Wait()
	lo, err := n.Interface("lo")
	require.NoError(t, err)
	require.True(t, lo.Up)
	now, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.Equal(t, own, now, "the main thread's")

	// One that cannot be made leaves nothing. The limit is of this process's
	// own user namespace.
	if err := os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0); err != nil {
		t.Logf("namespaces cannot be limited here: %v", err)
		return
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	fds := testutils.FDs(t)
	_, err = NewNetNS(dir, "pod")
	require.ErrorIs(t, err, unix.ENOSPC)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
	require.Equal(t, fds, testutils.FDs(t))
}
