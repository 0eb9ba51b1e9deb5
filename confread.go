package podcni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// read gives every configuration that parses, in order of precedence.
func (b *loading) read() []candidate {
	var all []candidate
	add := func(c candidate) {
		b.order++
		c.order = b.order
		all = append(all, c)
	}
	for _, c := range b.fixed {
		add(c)
	}
	if b.template != nil {
		if list := b.template.current(); list != nil {
			add(candidate{path: templatePath, list: list})
		} else {
			b.reject(templatePath, "", errNoPodCIDRs)
		}
	}
	for _, name := range b.confFiles() {
		b.order++
		path := filepath.Join(b.o.confDir, name)
		list, ok := readFile(b, b.lists, path, "")
		if !ok {
			continue
		}
		c := candidate{path: path, list: list, order: b.order}
		if !list.onlyInlined {
			if c.folder, ok = b.readFolder(list.name); !ok {
				continue
			}
		}
		if len(list.plugins)+len(c.folder) == 0 {
			b.reject(path, list.name, fmt.Errorf("%w: it has no plugins, and there are none in %s",
				ErrInvalidConfig, filepath.Join(b.o.confDir, list.name)))
			continue
		}
		all = append(all, c)
	}
	return all
}

// confFiles lists the configuration directory.
func (b *loading) confFiles() []string {
	names, err := b.listDir(b.o.confDir)
	if errors.Is(err, fs.ErrNotExist) {
		cause := err
		if _, err := os.Stat(b.o.confDir); err == nil {
			cause = syscall.ENOTDIR // what is there is something else
		}
		b.missing = &ConfigError{Path: b.o.confDir, Err: fmt.Errorf("there is no such configuration directory: %w", cause)}
	} else if err != nil {
		b.reject(b.o.confDir, "", err)
	}
	var ours, ignored []string
	for _, name := range names {
		switch filepath.Ext(name) {
		case ".conf", ".conflist", ".json":
			ours = append(ours, name)
		default:
			ignored = append(ignored, name)
		}
	}
	if b.o.log.Enabled(context.Background(), slog.LevelDebug) && !slices.Equal(ignored, b.ignored) {
		b.ignored = ignored
		b.o.log.Debug("entries of the CNI configuration directory that are no network's configuration",
			"dir", b.o.confDir, "ignored", ignored)
	}
	return ours
}

// listDir lists a directory by name. When it cannot be read it gives what was
// there before, and the error; one that is not there is fs.ErrNotExist.
func (b *loading) listDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		delete(b.listings, dir)
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return b.listings[dir], err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
		if e.Type()&fs.ModeSymlink != 0 {
			b.follow(filepath.Join(dir, e.Name()))
		}
	}
	b.listings[dir] = names
	return names, nil
}

// follow notes where a symlink to a file leads: what changes there is not seen
// where the symlink is.
func (b *loading) follow(link string) {
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return
	}
	if fi, err := os.Stat(target); err == nil && fi.Mode().IsRegular() {
		b.s.dirs = append(b.s.dirs, filepath.Dir(target))
	}
}

// readFolder reads the plugins of a network that has a folder.
func (b *loading) readFolder(name string) (plugins []*parsedPlugin, ok bool) {
	dir := filepath.Join(b.o.confDir, name)
	b.s.dirs = append(b.s.dirs, dir)
	names, err := b.listDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.reject(dir, name, err)
		if len(names) == 0 { // nothing is known of it
			return nil, false
		}
	}
	ok = true
	for _, file := range names {
		if filepath.Ext(file) != ".conf" {
			continue
		}
		plugin, good, gone := b.readPlugin(filepath.Join(dir, file), name)
		switch {
		case good:
			plugins = append(plugins, plugin)
		case !gone:
			ok = false
		}
	}
	return plugins, ok
}

func (b *loading) readPlugin(path, network string) (plugin *parsedPlugin, ok, gone bool) {
	before := len(b.s.rejected)
	plugin, ok = readFile(b, b.plugins, path, network)
	return plugin, ok, len(b.s.rejected) == before
}

// readFile gives what a file parses to, or what it last parsed to. Whatever is
// wrong with it now goes to rejected.
func readFile[T any](b *loading, cache *fileCache[T], path, network string) (good T, ok bool) {
	st, err := statFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// It went away since it was listed, or is a symlink to nowhere.
		if _, err := os.Lstat(path); err == nil {
			b.reject(path, network, errDangling)
		}
		return good, false
	case err == nil && st.mode.IsDir():
		return good, false
	}
	if b.trust != nil {
		if err := b.trust.file(path); err != nil {
			b.reject(path, network, fmt.Errorf("%w: %w", errUntrusted, err))
			return good, false
		}
	}
	if err == nil && !st.mode.IsRegular() {
		err = errIrregular
	}
	if err != nil {
		good, ok = cache.keep(path)
	} else {
		good, ok, err = cache.read(path, st)
	}
	if err != nil {
		b.reject(path, network, err)
	}
	return good, ok
}

var (
	errDangling  = errors.New("it is a symlink that leads to no file")
	errUntrusted = errors.New("WithStrictPermissions")
)
