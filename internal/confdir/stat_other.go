//go:build !unix

package confdir

import (
	"io/fs"
	"os"
)

const openFlags = os.O_RDONLY

// stat follows symlinks.
func stat(path string) (fileID, fs.FileMode, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return fileID{}, 0, err
	}
	return fileID{size: fi.Size(), mtime: fi.ModTime().UnixNano()}, fi.Mode().Type(), nil
}
