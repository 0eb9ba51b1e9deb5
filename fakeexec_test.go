package podcni

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// fakeExec is a WithExec that runs nothing.
type fakeExec struct {
	hung string // the plugin that never answers VERSION

	mu      sync.Mutex // guards what follows
	missing string     // the plugin that is not installed
	calls   []fakeCall
	answer  func(ctx context.Context, call fakeCall) error // nil: everything succeeds
}

// fakeCall is one run of a plugin.
type fakeCall struct {
	verb, plugin string
	stdin        string
}

var errNotInstalled = errors.New("it is not installed")

func (e *fakeExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	call := fakeCall{plugin: filepath.Base(path), stdin: string(stdin)}
	for _, env := range environ {
		if verb, ok := strings.CutPrefix(env, "CNI_COMMAND="); ok {
			call.verb = verb
		}
	}
	e.mu.Lock()
	e.calls = append(e.calls, call)
	answer := e.answer
	e.mu.Unlock()
	switch {
	case call.verb == VerbVersion && call.plugin == e.hung:
		<-ctx.Done()
		return nil, ctx.Err()
	case call.verb == VerbVersion:
		return []byte(`{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}`), nil
	case answer == nil:
		return nil, nil
	}
	return nil, answer(ctx, call)
}

func (e *fakeExec) FindInPath(plugin string, paths []string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if plugin == e.missing {
		return "", errNotInstalled
	}
	return filepath.Join(paths[0], plugin), nil
}

func (e *fakeExec) Decode(b []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(b)
}

// count is how often a verb was run.
func (e *fakeExec) count(verb string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, call := range e.calls {
		if call.verb == verb {
			n++
		}
	}
	return n
}

func (e *fakeExec) set(answer func(ctx context.Context, call fakeCall) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = answer
}

// remove makes a plugin one that is not installed.
func (e *fakeExec) remove(plugin string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.missing = plugin
}

// open is New for the length of the test. It watches nothing, so that it works
// within synctest's bubbles.
func (e *fakeExec) open(t testing.TB, opts ...Option) *CNI {
	t.Helper()
	dir := t.TempDir()
	c, err := New(append([]Option{
		WithConfDir(filepath.Join(dir, "net.d")), WithCacheDir(filepath.Join(dir, "cache")), WithoutWatch(), WithExec(e),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Shutdown()) })
	return c
}

// withNets adds networks of one plugin each, which declares no capability.
func withNets(cniVersion string, names ...string) Option {
	return optionFunc(func(o *options) {
		for _, name := range names {
			WithConfList([]byte(testutils.List(name, cniVersion, "noop"))).apply(o)
		}
	})
}

// withNet adds a network of one plugin, which declares these capabilities.
func withNet(name string, capabilities ...string) Option {
	declared := make(map[string]bool)
	for _, capability := range capabilities {
		declared[capability] = true
	}
	return WithConfList([]byte(testutils.ListJSON(name, "1.0.0", map[string]any{"type": "noop", "capabilities": declared})))
}
