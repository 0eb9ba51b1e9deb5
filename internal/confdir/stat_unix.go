//go:build unix

package confdir

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// openFlags keep a FIFO that has just taken a file's place from holding us up.
const openFlags = os.O_RDONLY | unix.O_NONBLOCK

// stat follows symlinks. Of the mode it returns the type only.
func stat(path string) (fileID, fs.FileMode, error) {
	var st unix.Stat_t
	if err := retryEINTR(func() error { return unix.Stat(path, &st) }); err != nil {
		return fileID{}, 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	id := fileID{dev: uint64(st.Dev), ino: uint64(st.Ino), size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano()}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return id, 0, nil
	case unix.S_IFDIR:
		return id, fs.ModeDir, nil
	}
	return id, fs.ModeIrregular, nil
}

func retryEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
