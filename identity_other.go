//go:build !unix

package podcni

import (
	"io/fs"
	"os"
)

const openFlags = os.O_RDONLY

// fileStat is what is known of a file without opening it.
type fileStat struct {
	id   fileID
	mode fs.FileMode // type and permissions
}

// statFile follows symlinks.
func statFile(path string) (fileStat, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return fileStat{}, err
	}
	return statOf(fi), nil
}

func statOpen(f *os.File) (fileStat, error) {
	fi, err := f.Stat()
	if err != nil {
		return fileStat{}, err
	}
	return statOf(fi), nil
}

func statOf(fi fs.FileInfo) fileStat {
	return fileStat{id: fileID{size: fi.Size(), mtime: fi.ModTime().UnixNano()}, mode: fi.Mode()}
}
