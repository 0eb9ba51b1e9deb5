// Package locks keeps operations apart that must not run at the same time: two on
// one sandbox, and a GC of a network beside anything else on it. It does so
// within this process and between processes that share a cache directory.
//
// Between processes, a lock is a byte of the file <cache>/podcni/.lock. None of
// these bytes exists. The kernel gives the locks of a process that dies back.
// Where the system has no such locks (they are Linux's), or the file system has
// none, only this process is kept in order.
package locks

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// ErrBusy says that somebody else holds the lock.
var ErrBusy = errors.New("in use by another operation")

// FileError is about the lock file.
type FileError struct {
	Path string
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("lock file %s: %v", e.Path, e.Err) }

func (e *FileError) Unwrap() error { return e.Err }

// Locks are the locks of one cache directory. It holds nothing open while nothing
// is locked, and is safe for concurrent use.
type Locks struct {
	dir, path string
	results   string
	log       *slog.Logger
	logOnce   sync.Once // about locks that cannot be had

	// What this process holds is kept apart by semaphores. The file's locks are
	// the process's: all operations share one opening of it, because each fork
	// goes through all locks for each opening.
	sandboxes keyed // each held by one
	names     keyed // each held by one
	networks  keyed // each held by many, or by a GC alone

	mu     sync.Mutex    // guards what follows; under it only the lock file is looked at
	file   *lockFile     // the opening that new locks are taken with; nil when there is none
	shares map[share]int // operations on a network
}

// New makes the locks. It touches nothing on disk: the first set-up does.
func New(cacheDir string, log *slog.Logger) *Locks {
	dir := filepath.Join(cacheDir, "podcni")
	return &Locks{
		dir: dir, path: filepath.Join(dir, ".lock"), results: filepath.Join(cacheDir, "results"), log: log,
		sandboxes: keyed{places: 1}, names: keyed{places: 1}, networks: keyed{places: wholeNetwork},
		shares: make(map[share]int),
	}
}

// share is a network's lock in one opening of the lock file.
type share struct {
	file *lockFile
	name string
}

const (
	wholeNetwork = 1 << 30 // more than the operations that can share one

	firstPause = time.Millisecond
	lastPause  = 50 * time.Millisecond

	// gcWindow is how long a GC that waits for a network holds new operations
	// on it back: what a hung plugin may cost the other pods.
	gcWindow = 2 * time.Second
	// gcPatience is how long it lets them through in between.
	gcPatience = 10 * time.Second
)

// Sandbox is the lock of one sandbox, held.
type Sandbox struct {
	locks   *Locks
	file    *lockFile // nil where processes are not kept apart
	release []func()  // in reverse
}

// Sandbox waits for the sandbox under ctx. The error wraps ctx's, and ErrBusy
// when it is another process that has the sandbox.
//
// With create, for set-ups, it makes the lock file, and fails with a *FileError
// where that cannot be made. Without, it makes none where nothing is recorded, and goes on without
// a lock between processes where there can be none: a file system that is full
// or read-only must not stop a tear-down.
func (l *Locks) Sandbox(ctx context.Context, id string, create bool) (*Sandbox, error) {
	release, err := l.sandboxes.acquire(ctx, id, 1)
	if err != nil {
		return nil, fmt.Errorf("wait for the operation under way on sandbox %s: %w", id, err)
	}
	file, err := l.wait(ctx, create, sandboxByte(id), true)
	if err != nil {
		release()
		if errors.Is(err, ErrBusy) {
			err = fmt.Errorf("another process is at work on sandbox %s: %w", id, err)
		}
		return nil, err
	}
	return l.newSandbox(file, sandboxByte(id), release), nil
}

// TrySandbox is Sandbox without waiting; nil when somebody else has it.
func (l *Locks) TrySandbox(id string) (*Sandbox, error) {
	release := l.sandboxes.try(id, 1)
	if release == nil {
		return nil, nil
	}
	file, ok, err := l.try(false, sandboxByte(id), true)
	if !ok || err != nil {
		release()
		return nil, err
	}
	return l.newSandbox(file, sandboxByte(id), release), nil
}

func (l *Locks) newSandbox(file *lockFile, offset int64, release func()) *Sandbox {
	return &Sandbox{locks: l, file: file, release: []func(){release, func() { l.give(file, offset) }}}
}

// Busy reports which sandboxes this process is at work on.
func (l *Locks) Busy() map[string]bool { return l.sandboxes.held() }

// KeptApart reports whether other processes are locked out of the sandbox.
func (s *Sandbox) KeptApart() bool { return s.file != nil }

// Release gives the sandbox back. Call it once.
func (s *Sandbox) Release() {
	for _, release := range slices.Backward(s.release) {
		release()
	}
}

// Claim keeps a name, for which sandboxes may compete, for as long as the
// sandbox is held. It reports whether nobody else has it.
func (s *Sandbox) Claim(name string) (bool, error) {
	release := s.locks.names.try(name, 1)
	if release == nil {
		return false, nil
	}
	ok, err := s.file.lock(nameByte(name), true)
	if !ok || err != nil {
		release()
		return false, err
	}
	s.release = append(s.release, release, func() { s.file.unlock(nameByte(name)) })
	return true, nil
}

// Network waits, under ctx, until no GC has the network. The error wraps ErrBusy
// and ctx's. The caller calls release once, before the sandbox is released.
func (s *Sandbox) Network(ctx context.Context, name string) (release func(), err error) {
	l := s.locks
	leave, err := l.networks.acquire(ctx, name, 1)
	if err != nil {
		return nil, fmt.Errorf("%w: a GC has network %q: %w", ErrBusy, name, err)
	}
	// Operations of this process share one lock between processes.
	l.mu.Lock()
	key := share{s.file, name}
	l.shares[key]++
	l.mu.Unlock()
	release = func() {
		l.mu.Lock()
		l.shares[key]--
		if l.shares[key] == 0 {
			delete(l.shares, key)
			s.file.unlock(networkByte(name))
		}
		l.mu.Unlock()
		leave()
	}
	err = poll(ctx, func() (bool, error) { return s.file.lock(networkByte(name), false) })
	if err != nil {
		release()
		return nil, fmt.Errorf("GC of network %q in another process: %w", name, err)
	}
	return release, nil
}

// Network waits, under ctx, until nobody works on the network, and keeps it so.
// It holds new operations back for two seconds at a time, and lets them through
// for ten in between. The error wraps ErrBusy and ctx's. The caller calls release
// once.
func (l *Locks) Network(ctx context.Context, name string) (release func(), err error) {
	for {
		release, err := l.networkWithin(ctx, name)
		if err == nil || !errors.Is(err, ErrBusy) {
			return release, err
		}
		timer := time.NewTimer(gcPatience)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: operations on network %q: %w", ErrBusy, name, context.Cause(ctx))
		}
	}
}

func (l *Locks) networkWithin(ctx context.Context, name string) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, gcWindow)
	defer cancel()
	leave, err := l.networks.acquire(ctx, name, wholeNetwork)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	file, err := l.wait(ctx, false, networkByte(name), true)
	if err != nil {
		leave()
		return nil, err
	}
	return func() {
		l.give(file, networkByte(name))
		leave()
	}, nil
}

// wait polls for a byte's lock, since a wait in the kernel would not end with
// ctx.
func (l *Locks) wait(ctx context.Context, create bool, offset int64, alone bool) (file *lockFile, err error) {
	err = poll(ctx, func() (ok bool, err error) {
		file, ok, err = l.try(create, offset, alone)
		return ok, err
	})
	return file, err
}

// poll repeats try until it succeeds. The error is try's, or wraps ErrBusy and
// ctx's.
func poll(ctx context.Context, try func() (bool, error)) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if ok, err := try(); ok || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
		}
	}
}

// try locks one byte of the lock file. A nil file stands for a lock that cannot be
// had and need not be.
func (l *Locks) try(create bool, offset int64, alone bool) (file *lockFile, ok bool, err error) {
	file, err = l.open(create)
	if file != nil {
		if ok, err = file.lock(offset, alone); ok {
			return file, true, nil
		}
		l.close(file)
		if err == nil {
			return nil, false, nil
		}
	}
	switch {
	case err == nil, noLocksHere(err):
	case create:
		return nil, false, &FileError{Path: l.path, Err: err}
	}
	if err != nil {
		l.logOnce.Do(func() {
			l.log.Warn("other processes are not locked out", "path", l.path, "err", err)
		})
	}
	return nil, true, nil
}

// give gives a lock of try back.
func (l *Locks) give(file *lockFile, offset int64) {
	if file != nil {
		file.unlock(offset)
		l.close(file)
	}
}

// open opens the lock file, or returns what is open of it. It makes the file if
// create is set or libcni has recorded something, and returns nil when there is
// nothing to lock. The caller calls close.
func (l *Locks) open(create bool) (*lockFile, error) {
	if !fileLocks {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Who holds locks of a file that was removed keeps that. Who comes next locks
	// another one.
	if l.file == nil || !l.file.isAt(l.path) {
		file, err := openLockFile(l.path)
		if errors.Is(err, fs.ErrNotExist) {
			if !create {
				if _, err := os.Stat(l.results); err != nil {
					return nil, nil //nolint:nilerr // nothing is recorded, or it is for others to say
				}
			}
			if err := os.MkdirAll(l.dir, 0o700); err != nil {
				return nil, err
			}
			file, err = createLockFile(l.path)
		}
		if err != nil {
			return nil, err
		}
		l.file = file
	}
	l.file.users++
	return l.file, nil
}

func (l *Locks) close(file *lockFile) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file.users--
	if file.users > 0 {
		return
	}
	file.close()
	if l.file == file {
		l.file = nil
	}
}

// The bytes of the lock file: a range for each kind.
func sandboxByte(id string) int64   { return offset(0, id) }
func networkByte(name string) int64 { return offset(1, name) }
func nameByte(name string) int64    { return offset(2, name) }

func offset(kind int64, name string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	const bits = 61
	return kind<<bits | int64(h.Sum64()>>(64-bits))
}
