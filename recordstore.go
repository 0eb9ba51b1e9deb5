package podcni

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// recordStore keeps one file for each attachment, where libcni keeps its own.
// A file is at every moment absent, or whole in its old or its new content,
// whenever this process dies. It is safe for concurrent use, but for two callers
// that work on the same sandbox: they hold the sandbox's lock, first that of the
// Plugin and then lockSandbox.
//
// It goes by an index of the directory's names, and learns of changes by others
// from the directory's time of modification. A change of our own sets that time
// to a value that nobody else can set by chance, so that neither the kernel's
// coarse clock can hide a later change, nor our own changes make us list the
// directory again. Between looking at the time before a change of our own and
// setting it after, stores of this package keep out of each other's way with a
// lock. libcni knows no such lock: what it changes within those microseconds is
// found by the listing that follows at the latest after relistAfter.
//
// The file of the locks stays open for writing from the first use to close, which
// keeps the file system from being made read-only.
type recordStore struct {
	results string // the records, shared with libcni
	extras  string // our own files, on the same file system
	log     *slog.Logger
	logOnce sync.Once // about locks that are not to be had
	sync    bool
	writer  func() writerID
	locks   recordLocks
	files   stagedFiles
	swept   sync.Once

	listings, reads atomic.Int64 // what was done, for tests

	mu     sync.Mutex // guards what follows; under it, only renames and listings
	index  recordIndex
	seen   dirState  // of results, as index knows it
	listed time.Time // when; zero when the index must be made anew
}

const (
	// relistAfter bounds how old the index gets.
	relistAfter = time.Minute
	// longestChange is how long another store is waited for that is changing
	// the directory. One that takes longer trusts its index no more.
	longestChange = 100 * time.Millisecond
	// coarsestClock is more than the steps in which kernels set times.
	coarsestClock = 50 * time.Millisecond
	// attempts bounds how often a directory is made again that somebody removes.
	attempts = 4
)

// openRecords makes a store over the cache directory. It touches nothing on
// disk: the first record does.
func openRecords(o *options) *recordStore {
	s := &recordStore{
		results: filepath.Join(o.cacheDir, "results"),
		extras:  filepath.Join(o.cacheDir, "podcni"),
		log:     o.log,
		sync:    o.sync,
		writer:  sync.OnceValue(thisWriter),
	}
	s.locks.path = filepath.Join(s.extras, "lock")
	s.files.dir, s.files.token = s.extras, newToken()
	return s
}

// close removes our spare files and lets go of the lock file as soon as no
// sandbox is locked. It waits for nothing; the store still works after it.
// Again is fine.
func (s *recordStore) close() {
	s.files.close()
	s.locks.close()
}

func (s *recordStore) path(name string) string {
	return s.results + string(filepath.Separator) + name
}

// claim writes the first record of an attachment, before any of its plugins
// runs. It fails with a *FieldError when the names do not make a file name, with
// a *RecordError that wraps ErrAlreadyAttached when there is a record of this
// attachment, ErrNameTaken when there is one of another under the same name, and
// ErrBadRecord when there is something that cannot be read as a record.
func (s *recordStore) claim(rec *record) error {
	for range attempts {
		err := s.write(rec, func(from, to string) (bool, error) { return false, renameNew(from, to) })
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := s.free(rec); err != nil {
			return err
		}
	}
	return &RecordError{Path: s.path(rec.fileName()), Err: ErrBusy}
}

// free says why a record's name is not free, or nil.
func (s *recordStore) free(rec *record) error {
	old, bad, err := s.read(rec.fileName())
	switch {
	case err != nil:
		return err
	case bad != nil:
		return bad
	case old == nil:
		return nil
	case old.same(rec):
		return &RecordError{Path: s.path(rec.fileName()), Err: ErrAlreadyAttached}
	default:
		return &RecordError{Path: s.path(rec.fileName()), Err: ErrNameTaken}
	}
}

// put writes a record that was claimed, in place of its last version.
func (s *recordStore) put(rec *record) error { return s.write(rec, renameOver) }

// write writes a record beside its place and moves it there.
func (s *recordStore) write(rec *record, move func(from, to string) (swapped bool, err error)) error {
	if err := rec.checkNames(); err != nil {
		return err
	}
	name := rec.fileName()
	path := s.path(name)
	data, err := rec.encode(s.writer())
	if err != nil {
		return err
	}
	for range attempts {
		err = s.writeOnce(name, path, data, move)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		// One of the directories is missing: it is the first record, or
		// somebody has removed them.
		if err = errors.Join(s.mkdir(s.extras), s.mkdir(s.results)); err != nil {
			break
		}
		err = fs.ErrNotExist
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENAMETOOLONG):
		return nameTooLong(name)
	default:
		return &RecordError{Path: path, Err: err}
	}
}

func (s *recordStore) writeOnce(name, path string, data []byte, move func(from, to string) (bool, error)) error {
	if fileLocks {
		// Staged files are known as ours by the lock that this takes.
		if _, err := s.openLocks(true); err != nil {
			return err
		}
		defer s.locks.done()
	}
	s.swept.Do(func() { s.files.sweep(s.alive) })
	staged, err := s.files.stage(data, s.sync)
	if err != nil {
		return err
	}
	var swapped bool
	err = s.change(func() error {
		var err error
		if swapped, err = move(staged, path); err == nil {
			s.index.add(name)
		}
		return err
	})
	if err != nil || swapped {
		s.files.keep(staged)
	}
	if err == nil && s.sync {
		err = syncDir(s.results)
	}
	return err
}

// alive says whether the store with this token is still in use.
func (s *recordStore) alive(token string) bool {
	if !fileLocks {
		return false
	}
	raw, err := s.openLocks(false)
	if err != nil {
		return true
	}
	defer s.locks.done()
	offset := lockOffset(highLocks, token)
	ok, err := lockByte(raw, offset, true)
	if ok && err == nil {
		_, _ = lockByte(raw, offset, false)
	}
	return !ok
}

// remove removes an attachment's record. That there is none is fine; a record
// of another attachment under the same name stays.
func (s *recordStore) remove(rec *record) error {
	if err := rec.checkNames(); err != nil {
		return err
	}
	name := rec.fileName()
	if len(splitName(name, 2)) > 1 {
		switch old, bad, err := s.read(name); {
		case err != nil:
			return err
		case bad != nil:
			return bad
		case old == nil || !old.same(rec):
			return nil
		}
	}
	return s.drop(name)
}

// drop removes the file of this name.
func (s *recordStore) drop(name string) error {
	path := s.path(name)
	spare, moved := s.files.room(), false
	err := s.change(func() error {
		var err error
		if spare != "" {
			moved = os.Rename(path, spare) == nil
		}
		if !moved {
			err = os.Remove(path)
		}
		if err != nil {
			// A read-only file system says so before it looks for the file.
			if _, gone := os.Lstat(path); !errors.Is(gone, fs.ErrNotExist) {
				return err
			}
		}
		s.index.remove(name)
		return nil
	})
	if err == nil && s.sync {
		// Before it is written over: no record must come back with the content of another.
		if err = syncDir(s.results); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	switch {
	case moved:
		s.files.arrived(spare)
	case spare != "":
		s.files.forgo()
	}
	if err != nil {
		return &RecordError{Path: path, Err: err}
	}
	return nil
}

// change changes the directory of records by op, and keeps the index in step
// with it: see recordStore.
func (s *recordStore) change(op func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	unlock, locked := s.changeLock()
	defer unlock()
	start := time.Now()
	before, beforeErr := readDirState(s.results)
	if err := op(); err != nil {
		return err
	}
	// Where the directory is not ours to stamp, the kernel's time must do.
	_ = stampDir(s.results, time.Now())
	after, afterErr := readDirState(s.results)
	if !locked || before != s.seen || beforeErr != nil || afterErr != nil || time.Since(start) > longestChange {
		s.listed = time.Time{}
	}
	s.seen = after
	return nil
}

// refreshLocked brings the index up to date if somebody else has changed the
// directory.
func (s *recordStore) refreshLocked() error {
	state, err := readDirState(s.results)
	if errors.Is(err, fs.ErrNotExist) {
		s.index, s.seen, s.listed = recordIndex{}, dirState{}, time.Time{}
		return nil
	}
	if err != nil {
		return &RecordError{Path: s.results, Err: err}
	}
	now := time.Now()
	if !s.listed.IsZero() && state == s.seen && now.Sub(s.listed) < relistAfter {
		return nil
	}
	if now.Sub(state.modified()) < coarsestClock {
		// A change that comes now might leave the same time behind.
		if stampDir(s.results, now) == nil {
			if state, err = readDirState(s.results); err != nil {
				return &RecordError{Path: s.results, Err: err}
			}
		}
	}
	s.listings.Add(1)
	dir, err := os.Open(s.results)
	if err != nil {
		return &RecordError{Path: s.results, Err: err}
	}
	names, err := dir.Readdirnames(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return &RecordError{Path: s.results, Err: err}
	}
	s.index.replace(names)
	s.seen, s.listed = state, now
	return nil
}

// read reads one record: see readRecord. A file that is no record is read again:
// who holds no lock of the sandbox may have opened it just before it was
// replaced, and have read a spare that is being emptied or written.
func (s *recordStore) read(name string) (rec *record, bad *RecordError, err error) {
	for range attempts {
		s.reads.Add(1)
		if rec, bad, err = readRecord(s.results, name); bad == nil {
			break
		}
	}
	return rec, bad, err
}

var errMany = errors.New("and more")

// joinSome joins errors, the first few of many: a file system that fails does
// so for each of thousands of records.
func joinSome(errs []error) error {
	const some = 8
	if len(errs) > some {
		return fmt.Errorf("%w; %w: %d", errors.Join(errs[:some]...), errMany, len(errs)-some)
	}
	return errors.Join(errs...)
}
