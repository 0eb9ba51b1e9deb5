package podcni

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	// maxWatched bounds how many directories are watched; what is beyond is
	// found by polling. Far more than the three or four levels of a few paths
	// and a folder for each network.
	maxWatched = 512
	// maxLinks bounds how many symlinks one path may lead through, as the
	// kernel does.
	maxLinks = 40
	// maxListed bounds how many entries of one directory are looked at for
	// symlinks.
	maxListed = 4096

	// watchAncestors says that every directory on the way is watched, not only
	// the last. Elsewhere than on Linux a watch holds descriptors open, on the
	// BSDs one for each file in the directory, so there polling has to notice
	// a change further up.
	watchAncestors = runtime.GOOS == "linux"
)

// watchTarget is a directory whose content matters, whether it is there or not.
type watchTarget struct {
	dir string
	// all says that every name in it matters; else those of configurations.
	all bool
}

// watchSet is what must be watched to notice every change of some targets:
// the real directories, and the names in them that matter. Symlinks are
// followed component by component, because a swap of one shows only in the
// directory that holds it.
type watchSet struct {
	dirs map[string]*watchedDir
	// order has the directories as they were found, those above first.
	order []*watchedDir
	// full says that maxWatched did not suffice.
	full bool

	seen map[string]fs.FileInfo // what Lstat said, nil for an error
}

// watchedDir is one directory to watch.
type watchedDir struct {
	path string // without symlinks
	info fs.FileInfo
	*interest
}

// interest is which names in a directory matter. Two paths of one directory,
// as bind mounts make them, share it: the kernel reports only one of them.
type interest struct {
	all, conf bool
	names     map[string]struct{}
}

func (i *interest) covers(name string) bool {
	if i.all || i.conf && isConfFileName(name) {
		return true
	}
	_, ok := i.names[name]
	return ok
}

// isConfFileName says whether a file of this name may configure a network.
func isConfFileName(name string) bool {
	switch filepath.Ext(name) {
	case ".conf", ".conflist", ".json":
		return true
	}
	return false
}

// newWatchSet looks at the file system as it is now.
func newWatchSet(targets []watchTarget) *watchSet {
	s := &watchSet{dirs: map[string]*watchedDir{}, seen: map[string]fs.FileInfo{}}
	for _, t := range targets {
		end, info := s.follow(t.dir)
		if info == nil || !info.IsDir() {
			continue
		}
		dir := s.watch(end, info)
		if dir == nil {
			continue
		}
		if t.all {
			dir.all = true
		} else {
			dir.conf = true
		}
		s.followEntries(dir)
	}
	s.seen = nil
	return s
}

// followEntries follows the symlinks in a target: the files of a mounted
// ConfigMap, or plugins that are links into a versioned directory.
func (s *watchSet) followEntries(dir *watchedDir) {
	f, err := os.Open(dir.path)
	if err != nil {
		return // the loader says what is wrong with it
	}
	defer f.Close()
	entries, _ := f.ReadDir(maxListed) // what could be read will do: polling finds the rest
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 && (dir.all || isConfFileName(e.Name())) {
			s.follow(filepath.Join(dir.path, e.Name()))
		}
	}
}

// follow walks along path and notes each directory on the way with the name
// that matters there. It answers the path without symlinks and what is there,
// nil when it cannot be reached.
func (s *watchSet) follow(path string) (string, fs.FileInfo) {
	root := filepath.VolumeName(path) + string(filepath.Separator)
	at, atInfo := root, s.lstat(root)
	rest := components(path)
	links := 0
	for i := 0; i < len(rest); i++ {
		name := rest[i]
		if name == ".." {
			at = filepath.Dir(at) // at is no symlink, so that this is its parent
			atInfo = s.lstat(at)
			continue
		}
		if atInfo == nil || !atInfo.IsDir() {
			return at, nil
		}
		next := filepath.Join(at, name)
		info := s.lstat(next)
		isLink := info != nil && info.Mode()&fs.ModeSymlink != 0
		if watchAncestors || info == nil || i == len(rest)-1 {
			if dir := s.watch(at, atInfo); dir != nil {
				dir.names[name] = struct{}{}
			}
		}
		if !isLink {
			at, atInfo = next, info
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return next, nil
		}
		rest = append(components(target), rest[i+1:]...)
		i = -1
		if filepath.IsAbs(target) {
			at = filepath.VolumeName(target) + string(filepath.Separator)
			atInfo = s.lstat(at)
		}
	}
	return at, atInfo
}

// components splits a path; "." and empty ones are left out.
func components(path string) []string {
	path = path[len(filepath.VolumeName(path)):]
	parts := strings.FieldsFunc(path, func(r rune) bool { return r < 0x80 && os.IsPathSeparator(uint8(r)) })
	kept := parts[:0]
	for _, part := range parts {
		if part != "." {
			kept = append(kept, part)
		}
	}
	return kept
}

func (s *watchSet) lstat(path string) fs.FileInfo {
	info, ok := s.seen[path]
	if !ok {
		info, _ = os.Lstat(path) // whatever the error is, the way ends here
		s.seen[path] = info
	}
	return info
}

// watch adds a directory to the set, or answers nil when the set is full.
func (s *watchSet) watch(path string, info fs.FileInfo) *watchedDir {
	if dir := s.dirs[path]; dir != nil {
		return dir
	}
	if len(s.dirs) >= maxWatched {
		s.full = true
		return nil
	}
	dir := &watchedDir{path: path, info: info}
	for _, other := range s.order {
		if os.SameFile(other.info, info) {
			dir.interest = other.interest
			break
		}
	}
	if dir.interest == nil {
		dir.interest = &interest{names: map[string]struct{}{}}
	}
	s.dirs[path] = dir
	s.order = append(s.order, dir)
	return dir
}
