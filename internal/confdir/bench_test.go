package confdir

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/podcni/podcni/testutils"
)

func TestMain(m *testing.M) { testutils.Main(m, func() error { return goleak.Find() }) }

// patience is how long the tests wait for what is bound to happen: less than
// sweepEvery, so that it happens because of an event.
const patience = 40 * time.Second

var errPluginNotFound = errors.New("plugin not found")

// bench is a directory with plugins of its own. What is in a plugin's file are
// the versions that it speaks.
type bench struct {
	t        testing.TB
	dir, bin string
	o        Options
	logs     syncBuffer

	mu   sync.Mutex    // guards what follows
	runs []string      // the plugins that were run, in order
	hold chan struct{} // when not nil, runs wait until it is closed
	fail error
}

func newBench(t testing.TB) *bench {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	b := &bench{t: t, dir: filepath.Join(top, "net.d"), bin: filepath.Join(top, "bin")}
	mkdir(t, b.dir)
	mkdir(t, b.bin)
	b.o = Options{
		Dir: b.dir, BinDirs: []string{b.bin}, ProbeTimeout: 20 * time.Second, Find: b.find, Versions: b.versions,
		Log: slog.New(slog.NewTextHandler(&b.logs, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	return b
}

func (b *bench) find(typ string) (string, error) {
	path := filepath.Join(b.bin, typ)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: %q in %s", errPluginNotFound, typ, b.bin)
	}
	return path, nil
}

func (b *bench) versions(ctx context.Context, plugin, path string) ([]string, error) {
	b.mu.Lock()
	b.runs = append(b.runs, plugin)
	hold, fail := b.hold, b.fail
	b.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if fail != nil {
		return nil, fail
	}
	text, err := os.ReadFile(path)
	return strings.Fields(string(text)), err
}

func (b *bench) ran() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(slices.Values(b.runs))
}

func (b *bench) set(hold chan struct{}, fail error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hold, b.fail = hold, fail
}

const allVersions = "0.1.0 0.2.0 0.3.0 0.3.1 0.4.0 1.0.0 1.1.0"

func (b *bench) plugin(types ...string) *bench {
	for _, typ := range types {
		b.install(typ, allVersions)
	}
	return b
}

// install exchanges a plugin as an installer does.
func (b *bench) install(typ, versions string) {
	b.t.Helper()
	temp := filepath.Join(filepath.Dir(b.bin), "new")
	require.NoError(b.t, os.WriteFile(temp, []byte(versions), 0o755))
	rename(b.t, temp, filepath.Join(b.bin, typ))
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) write(name, content string) *bench {
	b.t.Helper()
	mkdir(b.t, filepath.Dir(b.path(name)))
	write(b.t, b.path(name), content)
	return b
}

// network writes a file that makes a network of its name; the text tells one
// content from another.
func (b *bench) network(name, text string) {
	b.t.Helper()
	writeNetwork(b.t, b.path(name), text)
}

func (b *bench) remove(names ...string) {
	b.t.Helper()
	for _, name := range names {
		require.NoError(b.t, os.RemoveAll(b.path(name)))
	}
}

// loads makes a Dir that is not started, and a function that loads until no
// plugin has to answer any more.
func (b *bench) loads() (*Dir, func(*Snapshot) *Snapshot) {
	b.t.Helper()
	d, err := newDir(b.o)
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(func() { cancel(); d.probes.close() })
	d.load = func(_ context.Context, prev *Snapshot) *Snapshot { return d.loader.load(ctx, prev) }
	return d, func(prev *Snapshot) *Snapshot {
		b.t.Helper()
		for s := d.load(ctx, prev); ; s = d.load(ctx, s) {
			if s.pending == 0 {
				return s
			}
			<-d.answered
		}
	}
}

func (b *bench) load() *Snapshot {
	b.t.Helper()
	_, load := b.loads()
	return load(nil)
}

// open starts a Dir.
func (b *bench) open() *Dir {
	b.t.Helper()
	d, err := Open(b.o)
	require.NoError(b.t, err)
	b.t.Cleanup(d.Close)
	return d
}

func list(name, version string, types ...string) string {
	var plugins []string
	for _, typ := range types {
		plugins = append(plugins, fmt.Sprintf(`{"type":%q}`, typ))
	}
	return fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[%s]}`, version, name, strings.Join(plugins, ","))
}

func writeNetwork(t testing.TB, path, text string) {
	t.Helper()
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	write(t, path, fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"a","text":%q}]}`, name, text))
}

// state is what a snapshot says: names, and texts of plugins.
func state(s *Snapshot) string {
	var all []string
	for _, n := range s.Networks {
		text := n.List.Name + "="
		for _, p := range n.List.Plugins {
			var conf struct{ Text string }
			_ = json.Unmarshal(p.Bytes, &conf)
			text += conf.Text
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func names(s *Snapshot) []string {
	all := []string{}
	for _, n := range s.Networks {
		all = append(all, n.List.Name)
	}
	return all
}

func rejected(s *Snapshot) []string {
	all := []string{}
	for _, r := range s.Rejected {
		all = append(all, filepath.Base(r.Path))
	}
	return all
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(path, 0o755))
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	require.NoError(t, os.Rename(from, to))
}

func write(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
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

func (b *syncBuffer) lines(word string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []string
	for line := range strings.Lines(b.b.String()) {
		if strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return found
}

// pass lets fake time pass, and what is due be done.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
