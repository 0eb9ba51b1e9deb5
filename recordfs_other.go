//go:build !linux

package podcni

import (
	"os"
	"time"
)

// maxSpares: no files are kept to be written again.
const maxSpares = 0

// dirState is what tells whether a directory has changed.
type dirState struct{ mod time.Time }

func (d dirState) modified() time.Time { return d.mod }

func readDirState(dir string) (dirState, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return dirState{}, err
	}
	return dirState{info.ModTime().UTC()}, nil
}

// stampDir sets a directory's time of modification to now, which is finer than
// what the system puts there by itself.
func stampDir(dir string, now time.Time) error { return os.Chtimes(dir, time.Time{}, now) }

// renameNew renames a file unless there is one of the new name.
func renameNew(from, to string) error { return linkNew(from, to) }

// renameOver renames a file, in place of one of the new name if there is one.
func renameOver(from, to string) (swapped bool, err error) { return false, os.Rename(from, to) }

// reusable says whether a file may be emptied and written again.
func reusable(os.FileInfo) bool { return false }
