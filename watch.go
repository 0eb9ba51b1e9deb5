package podcni

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// source tells of changes in directories. Its methods are called from one
// goroutine.
type source interface {
	// Add watches a directory. For one that is watched already it does nothing,
	// unless another directory has taken its place.
	Add(dir string) error
	Remove(dir string) error
	Events() <-chan fsnotify.Event
	// Errors has what makes events incomplete.
	Errors() <-chan error
	// Close ends the source and waits for its goroutines.
	Close() error
}

// openFsnotify makes a source of the operating system's own events.
func openFsnotify() (source, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	s := &fsnotifySource{
		w:      w,
		events: make(chan fsnotify.Event, maxQueued),
		errs:   make(chan error, 1),
		done:   make(chan struct{}),
	}
	go s.forward()
	return s, nil
}

// maxQueued is how many events may wait; more are as good as an overflow.
const maxQueued = 1024

type fsnotifySource struct {
	w      *fsnotify.Watcher
	events chan fsnotify.Event
	errs   chan error // one says as much as many
	done   chan struct{}
}

// forward takes events and errors off fsnotify at once: while it waits to be
// rid of one, it may hold the lock that Add wants, or be the goroutine that Add
// waits for.
func (s *fsnotifySource) forward() {
	defer close(s.done)
	for {
		select {
		case ev, ok := <-s.w.Events:
			if !ok {
				close(s.events)
				return
			}
			select {
			case s.events <- ev:
			default:
				s.fail(fsnotify.ErrEventOverflow)
			}
		case err, ok := <-s.w.Errors:
			if !ok {
				// Events end at the same time, on every platform.
				close(s.events)
				return
			}
			s.fail(err)
		}
	}
}

func (s *fsnotifySource) fail(err error) {
	select {
	case s.errs <- err:
	default:
	}
}

func (s *fsnotifySource) Add(dir string) error          { return s.w.Add(dir) }
func (s *fsnotifySource) Remove(dir string) error       { return s.w.Remove(dir) }
func (s *fsnotifySource) Events() <-chan fsnotify.Event { return s.events }
func (s *fsnotifySource) Errors() <-chan error          { return s.errs }

func (s *fsnotifySource) Close() error {
	err := s.w.Close()
	<-s.done
	return err
}

const (
	// pollEvery is how often the directories are read while not all of them
	// can be watched.
	pollEvery = 5 * time.Second
	// sweepEvery is how often they are read whatever the events say: no event
	// tells of a mount, and some file systems have none at all.
	sweepEvery = time.Minute

	// maxArmRounds bounds how often in a row the directories are looked at
	// again because they changed meanwhile.
	maxArmRounds = 5
)

var errTooManyDirs = fmt.Errorf("more than %d directories to watch", maxWatched)

// watcher keeps a source watching what its targets need. It belongs to one
// goroutine.
type watcher struct {
	open func() (source, error)
	log  *slog.Logger

	src source // nil while there is none to be had
	set *watchSet
	// armed has the directories that src watches, with what was there then; nil
	// where that is in doubt.
	armed map[string]fs.FileInfo
	// polling says that something is not watched, as was logged.
	polling bool
}

// newWatcher makes a watcher that opens its source when it is first armed. One
// whose open is nil watches nothing.
func newWatcher(open func() (source, error), log *slog.Logger) *watcher {
	return &watcher{open: open, log: log, set: newWatchSet(nil), armed: map[string]fs.FileInfo{}}
}

// off says that nothing is to be watched, nor polled.
func (w *watcher) off() bool { return w.open == nil }

// events is nil without a source: then it blocks for ever, as do errors.
func (w *watcher) events() <-chan fsnotify.Event {
	if w.src == nil {
		return nil
	}
	return w.src.Events()
}

func (w *watcher) errors() <-chan error {
	if w.src == nil {
		return nil
	}
	return w.src.Errors()
}

// arm watches what the targets need now. It answers whether anything is
// watched that was not before: what happened there meanwhile gave no event, so
// that the caller must read it (again).
func (w *watcher) arm(targets []watchTarget) (more bool) {
	var problem error
	for range maxArmRounds {
		w.set = newWatchSet(targets)
		var added bool
		if added, problem = w.apply(); !added {
			break
		}
		// A directory may have been swapped between the look and the watch, so
		// look again now that it would be noticed.
		more = true
	}
	if problem == nil && w.set.full {
		problem = errTooManyDirs
	}
	w.report(problem)
	return more
}

// apply makes the source watch exactly the set. The error is about a directory
// that cannot be watched; the others are.
func (w *watcher) apply() (added bool, err error) {
	if w.src == nil {
		if w.src, err = w.open(); err != nil {
			w.src = nil
			return false, err
		}
	}
	for path, info := range w.armed {
		dir := w.set.dirs[path]
		if dir != nil && info != nil && os.SameFile(info, dir.info) {
			continue
		}
		// It may well be gone already, of which the source complains.
		_ = w.src.Remove(path)
		delete(w.armed, path)
	}
	for _, dir := range w.set.order {
		// Also one that is watched: inodes are used again, so that it may be
		// another directory all the same.
		switch addErr := w.src.Add(dir.path); {
		case addErr == nil:
			if w.armed[dir.path] == nil {
				w.armed[dir.path] = dir.info
				added = true
			}
		case errors.Is(addErr, fs.ErrNotExist):
			added = true // it has just gone, so that the set is out of date
		case err == nil:
			err = fmt.Errorf("watch %s: %w", dir.path, addErr)
		}
	}
	return added, err
}

// report logs that something cannot be watched, and that it can be again.
func (w *watcher) report(problem error) {
	switch {
	case problem != nil && !w.polling:
		w.log.Warn("cannot watch for configuration changes, polling", "every", pollEvery, "error", problem)
	case problem == nil && w.polling:
		w.log.Info("watching for configuration changes again")
	}
	w.polling = problem != nil
}

// interval is after how long without an event the directories are read anyway.
func (w *watcher) interval() time.Duration {
	switch {
	case w.off():
		return math.MaxInt64
	case w.polling || !watchAncestors:
		return pollEvery
	}
	return sweepEvery
}

// take looks at an event, and answers whether it may be about a target. ok is
// false when the source has ended by itself; the next arm opens another.
func (w *watcher) take(ev fsnotify.Event, ok bool) bool {
	if !ok {
		w.close()
		return true
	}
	path := filepath.Clean(ev.Name)
	if info := w.armed[path]; info != nil {
		if ev.Op&(fsnotify.Create|fsnotify.Remove|fsnotify.Rename) != 0 {
			w.armed[path] = nil
		}
		return true
	}
	// Of a directory that is not in the set any more nothing is known.
	dir := w.set.dirs[filepath.Dir(path)]
	return dir == nil || dir.covers(filepath.Base(path))
}

// doubt is what follows lost events: any directory may be another by now.
func (w *watcher) doubt() {
	for path := range w.armed {
		w.armed[path] = nil
	}
}

func (w *watcher) close() {
	if w.src == nil {
		return
	}
	if err := w.src.Close(); err != nil {
		w.log.Debug("cannot close the watch of the configuration", "error", err)
	}
	w.src = nil
	clear(w.armed)
}
