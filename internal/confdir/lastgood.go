package confdir

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// maxFile is how large a configuration may be, in bytes.
const maxFile = 1 << 20

var (
	errTooLarge  = fmt.Errorf("it is larger than %d bytes", maxFile)
	errIrregular = errors.New("it is not a regular file")
	errDirectory = errors.New("it is a directory, not a file")
	errDangling  = errors.New("it is a symlink that leads to no file")
	errNoPlugins = errors.New("it has no plugins")
	errUntrusted = errors.New("strict permissions")
)

// fileID tells whether a path still leads to the same file with the same
// content, as far as that can be told without reading it.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // in nanoseconds
}

// coarsest is how far apart two changes of a file can be and still leave the
// same times on it, with room to spare: FAT's clock ticks every two seconds.
const coarsest = 2*time.Second + 100*time.Millisecond

// settled reports whether the file's times are old enough, at the moment that it
// was looked at, for any later change to leave other ones.
func (id fileID) settled(looked time.Time) bool {
	return looked.UnixNano()-max(id.mtime, id.ctime) > int64(coarsest)
}

// file is what is known of a file. One that has not changed costs one stat, and
// one that no longer parses keeps what it last was.
type file struct {
	id      fileID
	settled bool // no change since can have left id as it is
	good    *source
	hash    [sha256.Size]byte // of what good was parsed from
	err     error             // why the file as it is now cannot be used
	used    bool              // in this load
}

// isConfFile reports whether a file of this name may configure a network.
func isConfFile(name string) bool {
	switch filepath.Ext(name) {
	case ".conf", ".conflist", ".json":
		return true
	}
	return false
}

// readFile returns what a file parses to, or last parsed to, or nil. What is
// wrong with it now goes to rejected. network is set for a file of its folder.
func (b *loading) readFile(order int, path, network string) *source {
	looked := time.Now()
	id, mode, err := stat(path)
	var gone error // and not half written
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(path); err != nil {
			return nil // it went away since it was listed
		}
		gone = errDangling
	case err == nil && mode.IsDir():
		gone = errDirectory
	case err == nil && !mode.IsRegular():
		gone = errIrregular
	}
	if gone == nil && b.trust != nil {
		gone = b.trust.file(path)
	}
	if gone != nil {
		b.reject(order, path, network, gone)
		return nil
	}
	f := b.files[path]
	if f == nil {
		f = &file{}
		b.files[path] = f
	}
	f.used = true
	switch {
	case err != nil: // it cannot be looked at
		f.settled, f.err = false, err
	case !f.settled || f.id != id:
		f.id, f.settled = id, id.settled(looked)
		f.update(path, network)
	}
	if f.err != nil {
		b.reject(order, path, network, f.err)
	}
	return f.good
}

func (f *file) update(path, network string) {
	data, err := readConf(path)
	if err != nil {
		f.err, f.settled = err, false
		return
	}
	f.err = nil
	hash := sha256.Sum256(data)
	if f.good != nil && hash == f.hash {
		return
	}
	var good *source
	if network == "" {
		good, err = parseNetwork(data, strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)), false)
	} else {
		good, err = parsePlugin(data)
	}
	if err != nil {
		f.err = invalid(err)
		return
	}
	f.good, f.hash = good, hash
}

// readConf reads a regular file, and opens no other kind but by a mishap of
// timing, and then without waiting for anything.
func readConf(path string) ([]byte, error) {
	f, err := os.OpenFile(path, openFlags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errIrregular
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = errTooLarge
	}
	return data, err
}

// listDir lists a directory by name. When it cannot be read it returns what was
// there before, and the error; one that is not there is fs.ErrNotExist.
func (l *loader) listDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, syscall.ENOTDIR) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		delete(l.listings, dir)
		return nil, err
	}
	if err != nil {
		return l.listings[dir], err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	l.listings[dir] = names
	return names, nil
}
