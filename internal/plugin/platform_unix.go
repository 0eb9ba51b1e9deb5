//go:build unix

package plugin

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// groupAttr puts a plugin into a process group of its own, which can be ended as
// a whole. It makes no session: a process that leads one is a daemon, and is
// never taken for an orphan.
func groupAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// endGroup sends TERM or KILL to the plugin's group. An error does not matter:
// the group is gone, or it is not ours to end.
func endGroup(p *os.Process, kill bool) { signalGroup(p.Pid, kill) }

func signalGroup(pid int, kill bool) {
	sig := unix.SIGTERM
	if kill {
		sig = unix.SIGKILL
	}
	_ = unix.Kill(-pid, sig)
}

// peek reads the beginning of the binary. When its file system hangs, this does,
// in an ordinary system call. In Go's fork the same would keep a processor, so
// that the next garbage collection would stop the whole process. What remains is
// what hangs in the execution alone: a program that holds up executions and not
// reads (fanotify's FAN_OPEN_EXEC_PERM), an interpreter on another file system,
// or a file system that dies after the peek.
//
// A binary that cannot be read may still be executed, so that errors are left to
// the start.
func peek(path string) {
	// Without O_NONBLOCK a FIFO in its place would be waited for.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	var magic [64]byte
	_, _ = unix.Read(fd, magic[:])
	_ = unix.Close(fd)
}

// isBusy reports whether the binary is being written.
func isBusy(err error) bool { return errors.Is(err, unix.ETXTBSY) }

// binaryNames returns the files that a plugin can be.
func binaryNames(typ string) []string { return []string{typ} }

// executable asks the kernel, which knows access lists and file systems that are
// mounted without execution.
func executable(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o111 == 0 {
		return errNotExecutable
	}
	if err := unix.Access(path, unix.X_OK); errors.Is(err, unix.EACCES) {
		return errNotExecutable
	}
	return nil
}
