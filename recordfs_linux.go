package podcni

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxSpares bounds how many files of removed records are kept to be written
// again. On ext4 a new inode costs several times what writing the record does.
const maxSpares = 1024

// dirState is what tells whether a directory has changed.
type dirState struct {
	dev, ino  uint64
	sec, nsec int64
}

func (d dirState) modified() time.Time { return time.Unix(d.sec, d.nsec) }

func readDirState(dir string) (dirState, error) {
	var st unix.Stat_t
	for {
		err := unix.Stat(dir, &st)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		// The fields' types differ between architectures.
		return dirState{uint64(st.Dev), st.Ino, int64(st.Mtim.Sec), int64(st.Mtim.Nsec)}, err
	}
}

// stampDir sets a directory's time of modification to now in nanoseconds, which
// is finer than what most kernels put there by themselves.
func stampDir(dir string, now time.Time) error {
	ts, err := unix.TimeToTimespec(now)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts}, 0)
}

// renameNew renames a file unless there is one of the new name.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return linkNew(from, to)
	}
	return err
}

// renameOver renames a file, in place of one of the new name if there is one.
// Where the kernel can, that one is left under the old name: swapped is true.
func renameOver(from, to string) (swapped bool, err error) {
	err = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return false, unix.Rename(from, to)
	default:
		return false, err
	}
}

// reusable says whether a file may be written over: it is a file
// that has no other name and that only its owner may read.
func reusable(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode() == 0o600 && st.Nlink == 1 && st.Uid == uint32(os.Geteuid())
}
