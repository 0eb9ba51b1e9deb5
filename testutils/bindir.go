package testutils

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Where the plugins are below the temporary directory, and what they are to do.
const (
	binName  = "bin"
	fakeName = "fake"
)

// BinDir is a directory of fake plugins, for a runtime's list of plugin
// directories. The plugins are real executables that need no compiler: each is
// the running test binary under another name, so that TestMain must call
// [Main]: otherwise they end with status 2 and print the flags of tests. They read
// nothing of their environment but the CNI_ variables.
//
// A BinDir is safe for concurrent use. Its methods fail the test that it was
// made for, so that they are for that test's goroutine.
type BinDir struct {
	t    testing.TB
	path string // the plugins, and nothing else
	fake string // what they are to do, and what they did

	mu      sync.Mutex
	plugins map[string]*Plugin // guarded by mu
}

// NewBinDir makes an empty directory of plugins. When the test ends, plugins
// that still run are killed and the directory is removed.
func NewBinDir(t testing.TB) *BinDir {
	t.Helper()
	base := tempDir(t, "cni-bin-")
	d := &BinDir{
		t:       t,
		path:    filepath.Join(base, binName),
		fake:    filepath.Join(base, fakeName),
		plugins: make(map[string]*Plugin),
	}
	mkdir(t, d.path)
	mkdir(t, d.fake)
	t.Cleanup(d.kill)
	return d
}

// Path is the directory. It holds the plugins and nothing else.
func (d *BinDir) Path() string { return d.path }

// Add makes sure that the plugins are there, with their default behaviour, and
// returns d.
func (d *BinDir) Add(names ...string) *BinDir {
	d.t.Helper()
	for _, name := range names {
		d.Plugin(name)
	}
	return d
}

// Plugin is the plugin of that name. The first call installs it.
//
// Until it is told otherwise a plugin speaks every version from 0.1.0 to 1.1.0,
// answers ADD with the result of the plugin before it in the chain or, where
// there is none, with an interface and addresses of its own making, and
// succeeds at everything else.
func (d *BinDir) Plugin(name string) *Plugin {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.plugins[name]; p != nil {
		return p
	}
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		d.t.Fatalf("%q is no name for a plugin", name)
	}
	p := &Plugin{
		d: d, name: name,
		path:   filepath.Join(d.path, executable(name)),
		state:  filepath.Join(d.fake, name),
		script: script{Answers: make(map[string]Answer)},
	}
	mkdir(d.t, p.state)
	p.save()
	p.Install()
	d.plugins[name] = p
	return p
}

// Plugin is one fake plugin. Like [BinDir] it is safe for concurrent use.
type Plugin struct {
	d     *BinDir
	name  string
	path  string
	state string

	mu     sync.Mutex
	script script // guarded by mu
	queued int    // guarded by mu: answers given to Next
}

// Name is the plugin's type.
func (p *Plugin) Name() string { return p.name }

// Path is the plugin's executable: a regular file that no other plugin shares,
// also not by inode. What it does is kept elsewhere: a test may write to it,
// rename it and change its mode. A copy of it, or the file under another name, is
// still this plugin, unless the path of the test binary or of the temporary
// directory is long (about 50 characters each) or has blanks, or on Windows.
func (p *Plugin) Path() string { return p.path }

// Remove deletes the executable. What the plugin is to do is kept.
func (p *Plugin) Remove() {
	p.d.t.Helper()
	if err := os.Remove(p.path); err != nil {
		p.d.t.Fatalf("remove a plugin: %v", err)
	}
}

// Install puts the executable in place, as a new file that is renamed over one
// that may be there: after Remove, or as the upgrade of a plugin.
func (p *Plugin) Install() {
	p.d.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		p.d.t.Fatalf("install a plugin: %v", err)
	}
	temp := filepath.Join(p.state, executable("new"))
	if err := writeExecutable(temp, exe, p.state); err != nil {
		p.d.t.Fatalf("install a plugin: %v", err)
	}
	if err := os.Rename(temp, p.path); err != nil {
		p.d.t.Fatalf("install a plugin: %v", err)
	}
}

// tempDir is a directory with a short path that lives as long as the test.
// Unlike that of TB.TempDir its removal does not fail the test: a plugin that
// is just being killed may still write to it.
func tempDir(t testing.TB, prefix string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		t.Fatalf("make a temporary directory: %v", err)
	}
	t.Cleanup(func() {
		for range 3 {
			if err = os.RemoveAll(dir); err == nil {
				return
			}
		}
		t.Logf("remove a temporary directory: %v", err)
	})
	return dir
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatalf("make a directory: %v", err)
	}
}

// replaceFile writes a file so that a reader sees either the old or the new.
func replaceFile(path string, content []byte) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, content, 0o644); err != nil {
		return fmt.Errorf("replace a file: %w", err)
	}
	return os.Rename(temp, path)
}
