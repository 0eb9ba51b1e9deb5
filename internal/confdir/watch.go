package confdir

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

// notifier tells of changes in directories. Its methods are called from one
// goroutine.
type notifier interface {
	// Add watches a directory. For one that is watched already it does nothing,
	// unless another directory has taken its place.
	Add(dir string) error
	Remove(dir string) error
	Events() <-chan fsnotify.Event
	// Errors has what makes events incomplete.
	Errors() <-chan error
	// Close ends the notifier and waits for its goroutines.
	Close() error
}

func openFsnotify() (notifier, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	n := &fsnotifier{
		Watcher: w,
		events:  make(chan fsnotify.Event, maxQueued),
		errs:    make(chan error, 1),
		done:    make(chan struct{}),
	}
	go n.forward()
	return n, nil
}

// maxQueued is how many events may wait; more are as good as an overflow.
const maxQueued = 1024

type fsnotifier struct {
	*fsnotify.Watcher
	events chan fsnotify.Event
	errs   chan error // one says as much as many
	done   chan struct{}
}

// forward takes events and errors off fsnotify at once: while fsnotify waits to
// be rid of one, it may hold the lock that Add wants, or be the goroutine that
// Add waits for.
func (n *fsnotifier) forward() {
	defer close(n.done)
	defer close(n.events)
	for {
		var err error
		select {
		case ev, ok := <-n.Watcher.Events:
			if !ok {
				return
			}
			select {
			case n.events <- ev:
				continue
			default:
				err = fsnotify.ErrEventOverflow
			}
		case failed, ok := <-n.Watcher.Errors:
			if !ok {
				return
			}
			err = failed
		}
		select {
		case n.errs <- err:
		default:
		}
	}
}

func (n *fsnotifier) Events() <-chan fsnotify.Event { return n.events }
func (n *fsnotifier) Errors() <-chan error          { return n.errs }

func (n *fsnotifier) Close() error {
	err := n.Watcher.Close()
	<-n.done
	return err
}

const (
	// pollEvery is how often the directories are read while not all of them can
	// be watched.
	pollEvery = 5 * time.Second
	// sweepEvery is how often they are read whatever the events say: no event
	// tells of a mount, and some file systems have none at all.
	sweepEvery = time.Minute
)

// watcher keeps a notifier watching what its targets need. It belongs to one
// goroutine.
type watcher struct {
	open func() (notifier, error) // nil to watch nothing
	log  *slog.Logger

	src notifier // nil while there is none to be had
	set *watchSet
	// armed has the directories that src watches, with what was there then; nil
	// where that is in doubt.
	armed map[string]fs.FileInfo
	// polling says that something is not watched, as was logged.
	polling bool
}

func newWatcher(open func() (notifier, error), log *slog.Logger) *watcher {
	return &watcher{open: open, log: log, set: newWatchSet(nil), armed: map[string]fs.FileInfo{}}
}

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

// arm watches what the targets need now. It reports whether anything is watched
// that was not before: what happened there meanwhile gave no event, and a
// directory may have been swapped between the look at it and its watch. Then the
// caller must read it, and arm again.
func (w *watcher) arm(targets []string) (more bool) {
	if w.open == nil {
		return false
	}
	w.set = newWatchSet(targets)
	more, problem := w.apply()
	if problem == nil && w.set.full {
		problem = fmt.Errorf("more than %d directories to watch", maxWatched)
	}
	switch {
	case problem != nil && !w.polling:
		w.log.Warn("cannot watch for configuration changes, polling", "every", pollEvery, "error", problem)
	case problem == nil && w.polling:
		w.log.Info("watching for configuration changes again")
	}
	w.polling = problem != nil
	return more
}

// apply makes the notifier watch exactly the set. The error is about a directory
// that cannot be watched; the others are.
func (w *watcher) apply() (added bool, err error) {
	if w.src == nil {
		if w.src, err = w.open(); err != nil {
			w.src = nil
			return false, err
		}
	}
	for path, info := range w.armed {
		if now := w.set.dirs[path]; now != nil && info != nil && os.SameFile(info, now) {
			continue
		}
		// It may well be gone already, and the notifier complains of that.
		_ = w.src.Remove(path)
		delete(w.armed, path)
	}
	for _, dir := range w.set.order {
		// Also one that is watched: inodes are used again, so that it may be
		// another directory all the same.
		switch addErr := w.src.Add(dir); {
		case addErr == nil:
			if w.armed[dir] == nil {
				w.armed[dir] = w.set.dirs[dir]
				added = true
			}
		case errors.Is(addErr, fs.ErrNotExist):
			added = true // it has just gone: the set is out of date
		case err == nil:
			err = fmt.Errorf("watch %s: %w", dir, addErr)
		}
	}
	return added, err
}

// interval is after how long without an event the directories are read anyway.
func (w *watcher) interval() time.Duration {
	switch {
	case w.open == nil:
		return math.MaxInt64
	case w.polling || !watchAncestors:
		return pollEvery
	}
	return sweepEvery
}

// take looks at an event, and reports whether it may be about a target. ok is
// false when the notifier has ended by itself; the next arm opens another.
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
	return w.set.covers(path)
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
