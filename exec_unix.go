//go:build unix

package podcni

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// groupAttr puts a plugin into a process group of its own, which can be ended
// as a whole, and keeps it off our terminal. Only a new session does the latter
// for sure, but it costs a plugin tens of microseconds: we make one if we have a
// terminal at all.
func groupAttr() syscall.SysProcAttr {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err == nil {
		_ = tty.Close()
	}
	// ENXIO is how the kernel says that there is none.
	if errors.Is(err, unix.ENXIO) {
		return syscall.SysProcAttr{Setpgid: true}
	}
	return syscall.SysProcAttr{Setsid: true}
}

// endGroup sends TERM or KILL to the plugin's group. That it fails matters not:
// the group is gone, or is not ours to end.
func endGroup(p *os.Process, kill bool) { signalGroup(p.Pid, kill) }

func signalGroup(pid int, kill bool) {
	sig := unix.SIGTERM
	if kill {
		sig = unix.SIGKILL
	}
	_ = unix.Kill(-pid, sig)
}

// isBusy says that the binary is being written.
func isBusy(err error) bool { return errors.Is(err, unix.ETXTBSY) }

// binaryNames are the files that a plugin can be.
func binaryNames(typ string) []string { return []string{typ} }

// executable asks the kernel, which knows of access lists and of file systems
// that are mounted without execution.
func executable(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o111 == 0 {
		return errNotExecutable
	}
	if err := unix.Access(path, unix.X_OK); errors.Is(err, unix.EACCES) {
		return errNotExecutable
	}
	return nil
}
