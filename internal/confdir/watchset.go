package confdir

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

// watchSet is what must be watched to notice every change of some directories,
// whether they are there or not: the real directories, and the names that
// matter. Symlinks are followed component by component, because a swap of one
// shows only in the directory that holds it.
type watchSet struct {
	dirs map[string]fs.FileInfo // by their path without symlinks
	// order has the directories as they were found, those above first.
	order []string
	// targets are those in which every name matters; in the others only those on
	// the way do. A name matters everywhere: the kernel has one watch for a
	// directory under all its paths, and reports one of them.
	targets map[string]bool
	names   map[string]bool
	// full says that maxWatched did not suffice.
	full bool

	seen map[string]fs.FileInfo // what Lstat said, nil for an error
}

// newWatchSet looks at the file system as it is now.
func newWatchSet(targets []string) *watchSet {
	s := &watchSet{
		dirs: map[string]fs.FileInfo{}, seen: map[string]fs.FileInfo{},
		targets: map[string]bool{}, names: map[string]bool{},
	}
	for _, target := range targets {
		dir, info := s.follow(target)
		if info == nil || !info.IsDir() || s.targets[dir] || !s.watch(dir, info) {
			continue
		}
		s.targets[dir] = true
		s.followEntries(dir)
	}
	s.seen = nil
	return s
}

// covers reports whether an event about this path may be about a target.
func (s *watchSet) covers(path string) bool {
	dir := filepath.Dir(path)
	_, watched := s.dirs[dir] // of one that is not any more nothing is known
	return !watched || s.targets[dir] || s.names[filepath.Base(path)]
}

// followEntries follows the symlinks in a target: the files of a mounted
// ConfigMap, or plugins that are links into a versioned directory.
func (s *watchSet) followEntries(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return // the loader says what is wrong with it
	}
	defer f.Close()
	entries, _ := f.ReadDir(maxListed) // what could be read will do: polling finds the rest
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			s.follow(filepath.Join(dir, e.Name()))
		}
	}
}

// follow walks along path and notes each directory on the way with the name
// that matters there. It returns the path without symlinks and what is there,
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
			s.watch(at, atInfo)
			s.names[name] = true
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

// watch adds a directory to the set, and reports false when the set is full.
func (s *watchSet) watch(path string, info fs.FileInfo) bool {
	if s.dirs[path] != nil {
		return true
	}
	if len(s.dirs) >= maxWatched {
		s.full = true
		return false
	}
	s.dirs[path] = info
	s.order = append(s.order, path)
	return true
}
