package podcni

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// The bytes of the lock file, none of which exists: the first is held while the
// directory of records is changed, a low one for each sandbox at work, and a
// high one by each store while it lives.
const (
	dirLock    = 0
	lowLocks   = 1
	highLocks  = 1 << 62
	lockMask   = highLocks - 2
	firstPause = time.Millisecond
	lastPause  = 50 * time.Millisecond
)

func lockOffset(base int64, name string) int64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return base + int64(h.Sum64()%lockMask)
}

// recordLocks excludes other processes, and other stores of this process, from
// what this store does. It never excludes two callers of the same store.
type recordLocks struct {
	path string

	mu     sync.Mutex // guards what follows
	file   *os.File   // nil until the first use, and after the last
	raw    syscall.RawConn
	held   int  // locks that keep the file open
	closed bool // close it with the last of them
}

// open opens the lock file and holds it open until done is called; with create
// it makes the file, whose directory must exist.
func (l *recordLocks) open(create bool) (raw syscall.RawConn, first bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		flags := os.O_RDWR
		if create {
			flags |= os.O_CREATE
		}
		file, err := os.OpenFile(l.path, flags, 0o600)
		if err != nil {
			return nil, false, err
		}
		raw, err := file.SyscallConn()
		if err != nil {
			return nil, false, errors.Join(err, file.Close())
		}
		l.file, l.raw, first = file, raw, true
	}
	l.held++
	return l.raw, first, nil
}

// done is the counterpart of open.
func (l *recordLocks) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held--
	l.endLocked()
}

func (l *recordLocks) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.endLocked()
}

func (l *recordLocks) endLocked() {
	if l.closed && l.held == 0 && l.file != nil {
		_ = l.file.Close() // nothing was written
		l.file, l.raw = nil, nil
	}
}

// lockSandbox keeps other processes, and other Plugins with the same cache
// directory, from work on the same sandbox until unlock is called or this
// process ends; while another one has it, it waits under ctx and then fails
// with ErrBusy and the context's error. Callers of the same store are not
// excluded from each other.
//
// With create, for set-ups, it creates the directory if need be. Without, for
// everything else, it creates nothing where nothing is recorded, and goes on
// unlocked where the lock file cannot be written: a read-only or full file
// system must not stop a teardown.
func (s *recordStore) lockSandbox(ctx context.Context, id string, create bool) (unlock func(), err error) {
	pause := firstPause
	for {
		unlock, err := s.tryLockSandbox(id, create)
		if unlock != nil || err != nil {
			return unlock, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: another process is at work on sandbox %s: %w", ErrBusy, id, context.Cause(ctx))
		}
		pause = min(2*pause, lastPause)
	}
}

// tryLockSandbox is lockSandbox that does not wait: unlock is nil when another
// process has the lock.
func (s *recordStore) tryLockSandbox(id string, create bool) (unlock func(), err error) {
	if !fileLocks {
		return func() {}, nil
	}
	raw, err := s.openLocks(create)
	switch {
	case err == nil:
	case create:
		return nil, &RecordError{Path: s.locks.path, Err: err}
	case cannotWrite(err):
		s.logOnce.Do(func() {
			s.log.Warn("records are not locked against other processes", "path", s.locks.path, "error", err)
		})
		return func() {}, nil
	case errors.Is(err, fs.ErrNotExist):
		return func() {}, nil
	default:
		return nil, &RecordError{Path: s.locks.path, Err: err}
	}
	offset := lockOffset(lowLocks, id)
	ok, err := lockByte(raw, offset, true)
	switch {
	case err != nil && noLocksHere(err):
		s.locks.done()
		s.logOnce.Do(func() {
			s.log.Warn("the file system of the records has no locks", "path", s.locks.path, "error", err)
		})
		return func() {}, nil
	case err != nil:
		s.locks.done()
		return nil, &RecordError{Path: s.locks.path, Err: err}
	case !ok:
		s.locks.done()
		return nil, nil
	}
	return sync.OnceFunc(func() {
		// It cannot fail but for a file that is closed, and then the lock is
		// gone as well.
		_, _ = lockByte(raw, offset, false)
		s.locks.done()
	}), nil
}

// openLocks opens the lock file, first creating it and its directory if create
// is set or anything is recorded. The caller calls locks.done.
func (s *recordStore) openLocks(create bool) (syscall.RawConn, error) {
	raw, first, err := s.locks.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		if !create {
			if _, err := os.Stat(s.results); err != nil {
				return nil, err
			}
		}
		if err := s.mkdir(s.extras); err != nil {
			return nil, err
		}
		raw, first, err = s.locks.open(true)
	}
	if err == nil && first {
		// Nobody else can have the byte: the token is random.
		_, _ = lockByte(raw, lockOffset(highLocks, s.files.token), true)
	}
	return raw, err
}

// changeLock keeps other stores from changing the directory of records at the
// same time. It waits for at most longestChange, and says whether it got it.
func (s *recordStore) changeLock() (unlock func(), ok bool) {
	if !fileLocks {
		return func() {}, true
	}
	raw, err := s.openLocks(false)
	if err != nil {
		return func() {}, false
	}
	deadline := time.Now().Add(longestChange)
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, firstPause) {
		ok, err = lockByte(raw, dirLock, true)
		if ok || err != nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(pause)
	}
	if !ok {
		s.locks.done()
		return func() {}, false
	}
	return func() {
		_, _ = lockByte(raw, dirLock, false)
		s.locks.done()
	}, true
}

// cannotWrite says that an error is about a directory that is readable at best,
// or full.
func cannotWrite(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) ||
		errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// mkdir makes one of our directories and what leads to it, for us alone.
func (s *recordStore) mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if !s.sync {
		return nil
	}
	return errors.Join(syncDir(filepath.Dir(dir)), syncDir(filepath.Dir(filepath.Dir(dir))))
}
