package locks

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// fileLocks says that processes can be kept apart.
const fileLocks = true

// lockFile is an opening of the lock file. Locks belong to it, not to the process
// or the thread, and end when it is closed. lock and unlock work on nil, where every
// lock is free.
type lockFile struct {
	fd    int
	users int // guarded by Locks.mu
}

func openLockFile(path string) (*lockFile, error) { return open(path, 0) }

func createLockFile(path string) (*lockFile, error) { return open(path, unix.O_CREAT) }

func open(path string, flags int) (*lockFile, error) {
	for {
		// No symbolic link is followed: what it led to would be locked or made.
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK|flags, 0o600)
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return nil, err
			}
			return &lockFile{fd: fd}, nil
		}
	}
}

// lock takes the lock of one byte, alone or with others who share it. It reports
// whether nobody else stood in the way. A lock that this opening has already is
// granted again.
func (f *lockFile) lock(offset int64, alone bool) (bool, error) {
	if f == nil {
		return true, nil
	}
	kind := int16(unix.F_RDLCK)
	if alone {
		kind = unix.F_WRLCK
	}
	err := f.set(kind, offset)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

// unlock gives a lock back. To close the opening would not do: a process that is
// being forked at this moment has it, too, until its exec.
func (f *lockFile) unlock(offset int64) {
	if f != nil {
		_ = f.set(unix.F_UNLCK, offset) // it fails only for a file that is closed
	}
}

func (f *lockFile) set(kind int16, offset int64) error {
	lk := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: offset, Len: 1}
	for {
		if err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &lk); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (f *lockFile) close() { _ = unix.Close(f.fd) } // nothing was written

// isAt reports whether the path leads to this very file.
func (f *lockFile) isAt(path string) bool {
	var mine, theirs unix.Stat_t
	return unix.Fstat(f.fd, &mine) == nil && unix.Lstat(path, &theirs) == nil &&
		mine.Dev == theirs.Dev && mine.Ino == theirs.Ino
}

// noLocksHere reports whether an error is a file system's way to say that it has
// no locks.
func noLocksHere(err error) bool {
	return errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}
