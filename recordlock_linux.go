package podcni

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileLocks says that processes can exclude each other.
const fileLocks = true

// lockByte takes or gives back the lock of one byte of a file. The lock belongs
// to the open file, not to the process or the thread, and the kernel gives it
// back when the file is closed, however the process ends. ok is false when
// somebody else has it.
func lockByte(file syscall.RawConn, offset int64, take bool) (ok bool, err error) {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset, Len: 1}
	if !take {
		lk.Type = unix.F_UNLCK
	}
	if ctlErr := file.Control(func(fd uintptr) {
		for {
			if err = unix.FcntlFlock(fd, unix.F_OFD_SETLK, &lk); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}); ctlErr != nil {
		return false, ctlErr
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

// noLocksHere says that an error of lockByte is the file system's way to say
// that it has no locks.
func noLocksHere(err error) bool {
	return errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}
