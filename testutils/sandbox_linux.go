package testutils

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sandboxDenied is the exit status of a sandbox that the machine does not allow.
const sandboxDenied = 77

// rerun runs the calling test again, in a sandbox, and ends as that ended.
func rerun(t *testing.T) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatalf("sandbox: %v", err)
	}
	// The kernel ends the child when the thread that started it ends: it must
	// not end before.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	out := &verdict{out: t.Output(), test: t.Name()}
	start := func(withUser bool) (*exec.Cmd, error) {
		cmd := exec.Command(exe, sandboxArgs(t)...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.WaitDelay = 10 * time.Second // for what a plugin left behind
		cmd.SysProcAttr = sandboxAttr(withUser)
		return cmd, cmd.Start()
	}
	cmd, err := start(true)
	if err != nil && os.Geteuid() == 0 {
		var plain error
		if cmd, plain = start(false); plain == nil {
			err = nil
		}
	}
	if err != nil {
		t.Skipf("no sandbox: namespaces cannot be made: %v", err)
	}
	err = cmd.Wait()
	out.flush()
	switch {
	case cmd.ProcessState.ExitCode() == sandboxDenied && !out.passed:
		t.Skip("no sandbox: the machine does not allow what it needs; the reason is above")
	case err != nil:
		t.Fatalf("in the sandbox: %v", err)
	case out.skipped:
		t.Skip("skipped in the sandbox; the reason is above")
	case !out.passed:
		t.Fatal("the test did not come to its end in the sandbox")
	}
}

// rerunAll runs this whole test binary again in a sandbox, and gives its exit
// status; not ok means that there can be no sandbox.
func rerunAll() (code int, ok bool) {
	exe, err := os.Executable()
	if err != nil {
		return 0, false
	}
	runtime.LockOSThread() // see rerun
	defer runtime.UnlockOSThread()
	for _, withUser := range []bool{true, false} {
		cmd := exec.Command(exe, append(slices.Clone(os.Args[1:]), packageMark)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = sandboxAttr(withUser)
		if cmd.Start() != nil {
			continue
		}
		_ = cmd.Wait() // its exit status tells
		if code := cmd.ProcessState.ExitCode(); code != sandboxDenied {
			if code < 0 {
				code = 1 // a signal
			}
			return code, true
		}
	}
	return 0, false
}

// sandboxArgs are the arguments of the test binary in a sandbox: those of this
// run which are about what tests do, not which run and what is written where.
func sandboxArgs(t *testing.T) []string {
	timeout := 10 * time.Minute
	if deadline, ok := t.Deadline(); ok {
		// A little less, so that it is the one that tells where it hangs.
		left := time.Until(deadline)
		timeout = max(left-10*time.Second, left/2, time.Millisecond)
	}
	args := []string{
		mainFlag, "-test.run=" + runPattern(t.Name()), "-test.v=true", "-test.count=1",
		"-test.timeout=" + timeout.String(),
	}
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.short", "test.skip", "test.parallel", "test.paniconexit0", "test.fullpath":
		default:
			if len(f.Name) >= 5 && f.Name[:5] == "test." {
				return
			}
		}
		args = append(args, "-"+f.Name+"="+f.Value.String())
	})
	return append(args, sandboxMark)
}

func sandboxAttr(withUser bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	if withUser {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

// refuseSandbox says why there is no sandbox, and gives the exit status.
func refuseSandbox(err error) int {
	fmt.Fprintln(os.Stderr, "no sandbox:", err)
	for _, denied := range []error{fs.ErrPermission, unix.ENOSYS, unix.ENOSPC, unix.ENODEV} {
		if errors.Is(err, denied) {
			return sandboxDenied
		}
	}
	return 1
}

// enterSandbox makes this process, alone in its new namespaces, ready.
func enterSandbox() error {
	// Whatever is mounted here must not reach the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := emptyDir("/run"); err != nil {
		return err
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return err
	}
	// Temporary files may live below /run.
	if err := os.MkdirAll(os.TempDir(), 0o700); err != nil {
		return err
	}
	for _, dir := range []string{"/var/lib/cni", "/etc/cni", "/opt/cni"} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := emptyDir(dir); err != nil {
			return err
		}
	}
	if err := writableBelow("/var/lib", "cni"); err != nil {
		return err
	}
	return loopbackUp()
}

func emptyDir(path string) error {
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", path, err)
	}
	return nil
}

// writableBelow makes a directory in one of the host's without the host seeing
// it. Where the kernel has no overlays for that, the directory is left out.
func writableBelow(dir, name string) error {
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	upper, work := "/run/.sandbox/upper", "/run/.sandbox/work"
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if unix.Mount("overlay", dir, "overlay", 0, options) != nil {
		return nil
	}
	return os.MkdirAll(path, 0o755)
}

// loopbackUp brings up lo in the calling thread's network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
