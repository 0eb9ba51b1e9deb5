package locks

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// fileLocks says that processes can be kept apart.
const fileLocks = true

// lockFile is one opening of the lock file. Locks belong to it, not to the
// process or the thread, and end when it is closed. All methods work on nil,
// where every lock is free.
type lockFile struct{ fd int }

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
	err := f.set(kind, offset, 1)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

func (f *lockFile) unlock(offset int64) {
	if f != nil {
		_ = f.set(unix.F_UNLCK, offset, 1) // it fails only for a file that is closed
	}
}

// set changes the locks of so many bytes; 0 means all from offset on.
func (f *lockFile) set(kind int16, offset, bytes int64) error {
	lk := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: offset, Len: bytes}
	for {
		if err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &lk); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// close gives all locks back. It does so explicitly: a process that is being forked
// at this moment has the opening, too, until its exec.
func (f *lockFile) close() {
	if f != nil {
		_ = f.set(unix.F_UNLCK, 0, 0) // all of them; it fails only for a file that is closed
		_ = unix.Close(f.fd)          // nothing was written
	}
}

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
