package podcni

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/require"
)

// patience is how long the tests wait for what is bound to happen: well under
// sweepEvery, so that it happens because of an event, and long enough for a
// machine that has other things to do.
const patience = 40 * time.Second

// plainLoader makes a network of every file, whatever is in it, and of each bin
// directory.
type plainLoader struct {
	conf    string
	bins    []string
	loads   atomic.Int64
	pending atomic.Int64
}

func (l *plainLoader) load(*snapshot) *snapshot {
	l.loads.Add(1)
	s := &snapshot{pending: int(l.pending.Load()), reason: errors.New("there is no file")}
	entries, _ := os.ReadDir(l.conf)
	for _, e := range entries {
		path := filepath.Join(l.conf, e.Name())
		content, err := os.ReadFile(path)
		if !isConfFileName(e.Name()) || err != nil {
			continue
		}
		n := &network{name: e.Name(), path: path, config: content}
		more, _ := filepath.Glob(filepath.Join(folderOf(path), "*.conf"))
		for _, path := range more {
			content, _ := os.ReadFile(path)
			n.config = append(n.config, content...)
		}
		s.networks = append(s.networks, n)
	}
	for _, dir := range l.bins {
		n := &network{name: "bin"}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			content, _ := os.ReadFile(filepath.Join(dir, e.Name()))
			n.config = fmt.Appendf(n.config, "%s=%s;", e.Name(), content)
		}
		s.networks = append(s.networks, n)
	}
	if len(s.networks) > 0 {
		s.def, s.reason = s.networks[0], nil
	}
	return s
}

// folderOf is where the network of a file has further plugins.
func folderOf(path string) string { return strings.TrimSuffix(path, filepath.Ext(path)) }

func (l *plainLoader) watchDirs(s *snapshot) []string {
	dirs := append([]string{l.conf}, l.bins...)
	if s != nil {
		for _, n := range s.networks {
			if n.path != "" {
				dirs = append(dirs, folderOf(n.path))
			}
		}
	}
	return dirs
}

// content is what a snapshot says, in a line.
func content(s *snapshot) string {
	if s == nil {
		return "nothing loaded"
	}
	var b strings.Builder
	for _, n := range s.networks {
		fmt.Fprintf(&b, "%s: %s\n", n.name, n.config)
	}
	return b.String()
}

// running is a reloader under test.
type running struct {
	*reloader
	loader *plainLoader
	snap   atomic.Pointer[snapshot]
	logs   *syncBuffer
}

// syncBuffer holds a log.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// lines are what was logged at least at this level.
func (b *syncBuffer) lines(least slog.Level) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var kept []string
	for line := range strings.Lines(b.b.String()) {
		var level slog.Level
		_, rest, _ := strings.Cut(line, "level=")
		word, _, _ := strings.Cut(rest, " ")
		if level.UnmarshalText([]byte(word)) == nil && level >= least {
			kept = append(kept, line)
		}
	}
	return kept
}

// newRunning makes a reloader over conf and bins that is not started yet.
func newRunning(t *testing.T, conf string, bins ...string) *running {
	t.Helper()
	r := &running{loader: &plainLoader{conf: conf, bins: bins}, logs: &syncBuffer{}}
	opts := []Option{
		WithConfDir(conf),
		WithLogger(slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))),
	}
	if len(bins) > 0 {
		opts = append(opts, WithBinDirs(bins...))
	}
	o, err := newOptions(opts)
	require.NoError(t, err)
	r.reloader = newReloader(o, func(s *snapshot) { r.snap.Store(s) })
	t.Cleanup(r.close)
	return r
}

func (r *running) begin() *running {
	r.start(r.loader)
	<-r.settled
	return r
}

// fakeSource is a source that tells what a test says.
type fakeSource struct {
	mu      sync.Mutex // guards what follows
	added   []string
	removed []string
	addErr  error
	closed  bool
	onAdd   func(dir string) // set before use

	events chan fsnotify.Event
	errs   chan error
}

func newFakeSource() *fakeSource {
	return &fakeSource{events: make(chan fsnotify.Event), errs: make(chan error)}
}

func (s *fakeSource) Add(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addErr == nil {
		s.added = append(s.added, dir)
	}
	if s.onAdd != nil {
		s.onAdd(dir)
	}
	return s.addErr
}

func (s *fakeSource) Remove(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(s.removed, dir)
	return nil
}

func (s *fakeSource) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addErr = err
}

func (s *fakeSource) Events() <-chan fsnotify.Event { return s.events }
func (s *fakeSource) Errors() <-chan error          { return s.errs }

func (s *fakeSource) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// realDir is a new directory without symlinks on its way.
func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// bubble runs a test of a reloader over a fake source in fake time.
func bubble(t *testing.T, f func(t *testing.T, r *running, src *fakeSource)) {
	t.Helper()
	t.Parallel()
	conf := realDir(t)
	synctest.Test(t, func(t *testing.T) {
		src := newFakeSource()
		r := newRunning(t, conf)
		r.watcher.open = func() (source, error) { return src, nil }
		r.begin()
		synctest.Wait()
		f(t, r, src)
	})
}

func (r *running) wrote() fsnotify.Event {
	return fsnotify.Event{Name: filepath.Join(r.loader.conf, "a.conf"), Op: fsnotify.Write}
}
