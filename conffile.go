package podcni

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// maxConfSize is how large a configuration may be, in bytes.
const maxConfSize = 1 << 20

var (
	errTooLarge  = fmt.Errorf("it is larger than %d bytes", maxConfSize)
	errIrregular = errors.New("it is not a regular file")
)

// fileCache reads files and keeps what they parse to, so that a file that has
// not changed costs one stat and one that no longer parses keeps what it last
// was.
type fileCache[T any] struct {
	parse   func([]byte) (T, error)
	entries map[string]*cachedFile[T]
}

type cachedFile[T any] struct {
	id      fileID
	settled bool // no change since can have left id as it is
	// good is what the file last parsed to, if it ever did, and goodHash what
	// was in it then.
	good     T
	hasGood  bool
	goodHash [sha256.Size]byte
	err      error // why the file as it is now cannot be used
	used     bool  // in this load
}

func newFileCache[T any](parse func([]byte) (T, error)) *fileCache[T] {
	return &fileCache[T]{parse: parse, entries: make(map[string]*cachedFile[T])}
}

// read gives what the file parses to. When it cannot be read or parsed, ok says
// whether there is something that it was before.
func (c *fileCache[T]) read(path string, st fileStat) (good T, ok bool, err error) {
	e := c.entries[path]
	if e == nil {
		e = new(cachedFile[T])
		c.entries[path] = e
	}
	e.used = true
	if !e.settled || e.id != st.id {
		e.update(path, c.parse)
	}
	return e.good, e.hasGood, e.err
}

func (e *cachedFile[T]) update(path string, parse func([]byte) (T, error)) {
	e.settled = false
	now := time.Now()
	data, id, err := readConf(path)
	if err != nil {
		e.err = err
		return
	}
	e.id, e.settled, e.err = id, id.settled(now), nil
	hash := sha256.Sum256(data)
	if e.hasGood && hash == e.goodHash {
		return
	}
	good, err := parse(data)
	if err != nil {
		e.err = fmt.Errorf("%w: %w", ErrInvalidConfig, err)
		return
	}
	e.good, e.hasGood, e.goodHash = good, true, hash
}

// keep holds on to what a file was although it could not be looked at.
func (c *fileCache[T]) keep(path string) (good T, ok bool) {
	if e := c.entries[path]; e != nil {
		e.used = true
		return e.good, e.hasGood
	}
	return good, false
}

// sweep forgets the files that were not used since the last sweep.
func (c *fileCache[T]) sweep() {
	for path, e := range c.entries {
		if !e.used {
			delete(c.entries, path)
		}
		e.used = false
	}
}

// readConf reads a regular file, and opens no other kind but by a mishap of
// timing, and then without waiting for anything.
func readConf(path string) ([]byte, fileID, error) {
	f, err := os.OpenFile(path, openFlags, 0)
	if err != nil {
		return nil, fileID{}, err
	}
	defer f.Close()
	st, err := statOpen(f)
	if err != nil {
		return nil, fileID{}, err
	}
	if !st.mode.IsRegular() {
		return nil, fileID{}, errIrregular
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfSize+1))
	if err != nil {
		return nil, fileID{}, err
	}
	if len(data) > maxConfSize {
		return nil, fileID{}, errTooLarge
	}
	return data, st.id, nil
}
