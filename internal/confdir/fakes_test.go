package confdir

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/require"
)

// fakeNotifier tells what a test says.
type fakeNotifier struct {
	mu      sync.Mutex // guards what follows
	added   []string
	removed []string
	addErr  error
	closed  bool
	onAdd   func(dir string) // set before use

	events chan fsnotify.Event
	errs   chan error
}

func newFakeNotifier() *fakeNotifier {
	return &fakeNotifier{events: make(chan fsnotify.Event), errs: make(chan error)}
}

func (n *fakeNotifier) Add(dir string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addErr == nil {
		n.added = append(n.added, dir)
	}
	if n.onAdd != nil {
		n.onAdd(dir)
	}
	return n.addErr
}

func (n *fakeNotifier) Remove(dir string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed = append(n.removed, dir)
	return nil
}

func (n *fakeNotifier) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addErr = err
}

func (n *fakeNotifier) Events() <-chan fsnotify.Event { return n.events }
func (n *fakeNotifier) Errors() <-chan error          { return n.errs }

func (n *fakeNotifier) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	return nil
}

// running is a Dir over a fake notifier, in fake time.
type running struct {
	*bench
	d     *Dir
	src   *fakeNotifier
	loads atomic.Int64
}

// run makes a Dir that is closed at the bubble's end, and not started yet.
func (b *bench) run(t *testing.T, open func() (notifier, error)) *running {
	t.Helper()
	r := &running{bench: b}
	var err error
	r.d, err = newDir(b.o)
	require.NoError(t, err)
	r.d.watcher.open = open
	load := r.d.load
	r.d.load = func(ctx context.Context, prev *Snapshot) *Snapshot {
		r.loads.Add(1)
		return load(ctx, prev)
	}
	return r
}

func bubble(t *testing.T, f func(t *testing.T, r *running)) {
	t.Helper()
	t.Parallel()
	b := newBench(t).plugin("a")
	synctest.Test(t, func(t *testing.T) {
		src := newFakeNotifier()
		r := b.run(t, func() (notifier, error) { return src, nil })
		r.src = src
		r.d.start()
		defer r.d.Close()
		r.reload(t)
		f(t, r)
	})
}

func (r *running) reload(t *testing.T) {
	t.Helper()
	require.NoError(t, r.d.Reload(context.Background()))
	synctest.Wait()
}

func (r *running) wrote() fsnotify.Event {
	return fsnotify.Event{Name: r.path("a.conf"), Op: fsnotify.Write}
}
