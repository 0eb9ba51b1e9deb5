package testutils

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// ConfDir is a directory of network configurations. Its methods change it in
// the ways in which the installers of network providers do, and fail the test
// that it was made for. It is for one goroutine.
type ConfDir struct {
	t     testing.TB
	base  string
	path  string
	trees int // made for Swap
}

// NewConfDir makes an empty directory, which is removed when the test ends.
func NewConfDir(t testing.TB) *ConfDir {
	t.Helper()
	base := tempDir(t, "cni-conf-")
	c := &ConfDir{t: t, base: base, path: filepath.Join(base, "net.d")}
	mkdir(t, c.path)
	return c
}

// NewLinkedConfDir makes a directory whose path is a symbolic link, as of a
// mounted ConfigMap, with the given files, by name. [ConfDir.Swap] gives it
// others.
func NewLinkedConfDir(t testing.TB, files map[string]string) *ConfDir {
	t.Helper()
	base := tempDir(t, "cni-conf-")
	c := &ConfDir{t: t, base: base, path: filepath.Join(base, "net.d")}
	c.Swap(files)
	return c
}

// Path is the directory. It may be removed, renamed and made again.
func (c *ConfDir) Path() string { return c.path }

// File is the path of a file in the directory.
func (c *ConfDir) File(name string) string { return filepath.Join(c.path, name) }

// Write writes a file, in place and at once, and makes the directories that it
// wants, such as a network's own.
func (c *ConfDir) Write(name, content string) *ConfDir {
	c.t.Helper()
	mkdir(c.t, filepath.Dir(c.File(name)))
	c.check(os.WriteFile(c.File(name), []byte(content), 0o644))
	return c
}

// WriteInPlace cuts a file to nothing and writes it in so many pieces. Between
// them, if it is not nil, it calls what the test wants to do there.
func (c *ConfDir) WriteInPlace(name, content string, pieces int, between func()) {
	c.t.Helper()
	f, err := os.Create(c.File(name))
	c.check(err)
	defer f.Close()
	for i := range pieces {
		if i > 0 && between != nil {
			between()
		}
		_, err := f.WriteString(content[len(content)*i/pieces : len(content)*(i+1)/pieces])
		c.check(err)
	}
}

// Rename writes a file elsewhere and renames it into the directory, so that it
// is never seen half done.
func (c *ConfDir) Rename(name, content string) {
	c.t.Helper()
	temp := filepath.Join(c.base, "new")
	c.check(os.WriteFile(temp, []byte(content), 0o644))
	c.check(os.Rename(temp, c.File(name)))
}

// Link makes a file a hard link to one that is written elsewhere.
func (c *ConfDir) Link(name, content string) {
	c.t.Helper()
	temp := filepath.Join(c.base, "linked")
	c.check(os.WriteFile(temp, []byte(content), 0o644))
	c.check(os.Link(temp, c.File(name)))
	c.check(os.Remove(temp))
}

// Remove deletes a file or a tree; "" is the directory itself.
func (c *ConfDir) Remove(name string) {
	c.t.Helper()
	c.check(os.RemoveAll(c.File(name)))
}

// Swap re-points the symbolic link of a [NewLinkedConfDir] in one step to a new
// directory with these files, and deletes the old one.
func (c *ConfDir) Swap(files map[string]string) {
	c.t.Helper()
	old, _ := os.Readlink(c.path)
	c.trees++
	tree := filepath.Join(c.base, fmt.Sprintf("tree-%d", c.trees))
	mkdir(c.t, tree)
	for name, content := range files {
		mkdir(c.t, filepath.Dir(filepath.Join(tree, name)))
		c.check(os.WriteFile(filepath.Join(tree, name), []byte(content), 0o644))
	}
	temp := filepath.Join(c.base, "link")
	c.check(os.Symlink(tree, temp))
	c.check(os.Rename(temp, c.path))
	if old != "" {
		c.check(os.RemoveAll(old))
	}
}

func (c *ConfDir) check(err error) {
	if err != nil {
		c.t.Helper()
		c.t.Fatalf("change a config directory: %v", err)
	}
}

// List is a network configuration list as JSON, with plugins of these types.
func List(name, version string, plugins ...string) string {
	objects := make([]map[string]any, len(plugins))
	for i, plugin := range plugins {
		objects[i] = map[string]any{"type": plugin}
	}
	return ListJSON(name, version, objects...)
}

// ListJSON is a network configuration list as JSON, with these plugins: for
// what a plugin's configuration holds beside its type, such as capabilities.
// It panics if they cannot be written as JSON.
func ListJSON(name, version string, plugins ...map[string]any) string {
	if plugins == nil {
		plugins = []map[string]any{}
	}
	content, err := json.Marshal(struct {
		CNIVersion string           `json:"cniVersion,omitempty"`
		Name       string           `json:"name"`
		Plugins    []map[string]any `json:"plugins"`
	}{version, name, plugins})
	if err != nil {
		panic(err)
	}
	return string(content)
}
