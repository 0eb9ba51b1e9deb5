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
	"strings"
	"sync"
	"syscall"
)

// loader reads networks: those of WithConfList, that of WithConfTemplate and
// those of the configuration directory.
type loader struct {
	o        *options
	probes   *prober
	fixed    []candidate // WithConfList
	template *confTemplate

	// mu guards what follows, which only saves work and keeps what files last
	// were. It is held for a whole load: loads take turns.
	mu       sync.Mutex
	lists    *fileCache[*parsedList]
	plugins  *fileCache[*parsedPlugin]
	listings map[string][]string // what a directory last held, by its path
	built    map[string]*builtNetwork
	ignored  []string // files that are none of ours, as they were last logged
}

// candidate is a configuration that parses.
type candidate struct {
	path   string
	list   *parsedList
	folder []*parsedPlugin
	order  int
}

// newLoader makes a loader. It fails if a configuration or a template that the
// options give does not parse.
func newLoader(o *options, probes *prober) (*loader, error) {
	l := &loader{
		o: o, probes: probes,
		lists:    newFileCache(func(doc []byte) (*parsedList, error) { return parseNetwork(doc, false) }),
		plugins:  newFileCache(parsePlugin),
		listings: make(map[string][]string),
		built:    make(map[string]*builtNetwork),
	}
	for i, conf := range o.confLists {
		path := fmt.Sprintf("WithConfList[%d]", i)
		list, err := parseInMemory(conf)
		if err != nil {
			err = &ConfigError{Path: path, Err: fmt.Errorf("%w: %w", ErrInvalidConfig, err)}
			return nil, invalidField(ErrInvalidOption, path, "", err)
		}
		l.fixed = append(l.fixed, candidate{path: path, list: list})
	}
	if o.hasTemplate {
		t, err := newConfTemplate(o.confTemplate)
		if err != nil {
			err = &ConfigError{Path: templatePath, Err: fmt.Errorf("%w: %w", ErrInvalidConfig, err)}
			return nil, invalidField(ErrInvalidOption, templatePath, "", err)
		}
		l.template = t
	}
	return l, nil
}

// loading is one load under way.
type loading struct {
	*loader
	s     *snapshot
	prev  *snapshot // may be nil
	trust *trust    // nil unless permissions matter
	// missing says why there is no configuration directory, if there is none.
	missing   error
	order     int   // of the source that is being read, for rejected
	orders    []int // of each of s.rejected
	installed map[string]*installed
}

// load reads everything anew and makes a snapshot of it. It never waits for a
// plugin: a network whose plugins have not said yet what versions they speak is
// as it was in prev, or else among the rejected ones for now.
func (l *loader) load(prev *snapshot) *snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &loading{
		loader: l, prev: prev, s: &snapshot{byName: make(map[string]*network)},
		installed: make(map[string]*installed),
	}
	if l.o.strict {
		b.trust = newTrust()
	}
	candidates := b.unique(b.read())
	b.findPlugins(candidates)
	built := make(map[string]*builtNetwork, len(candidates))
	for _, c := range candidates {
		b.order = c.order
		b.take(c, built)
	}
	l.built = built
	l.lists.sweep()
	l.plugins.sweep()
	b.sortRejected()
	b.chooseDefault()
	b.s.dirs = append(append(b.s.dirs, l.o.confDir), l.o.binDirs...)
	slices.Sort(b.s.dirs)
	b.s.dirs = slices.Compact(b.s.dirs)
	return b.s
}

// watchDirs are the directories whose changes may change what load answers:
// those of the configuration and the binaries, each network's folder whether it
// is there or not, and where symlinks to files lead. They may differ although
// two snapshots are the same in all that matters.
func (l *loader) watchDirs(s *snapshot) []string { return slices.Clone(s.dirs) }

func (b *loading) reject(path, name string, err error) {
	b.s.rejected = append(b.s.rejected, ConfigError{Path: path, Network: name, Err: err})
	b.orders = append(b.orders, b.order)
}

func (b *loading) sortRejected() {
	index := make([]int, len(b.orders))
	for i := range index {
		index[i] = i
	}
	slices.SortStableFunc(index, func(x, y int) int { return b.orders[x] - b.orders[y] })
	sorted := make([]ConfigError, len(index))
	for i, at := range index {
		sorted[i] = b.s.rejected[at]
	}
	b.s.rejected = sorted
}

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
		b.missing = &ConfigError{Path: b.o.confDir, Err: fmt.Errorf("there is no such configuration directory: %w", fs.ErrNotExist)}
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

// unique leaves the first of each name.
func (b *loading) unique(all []candidate) []candidate {
	first := make(map[string]string, len(all))
	return slices.DeleteFunc(all, func(c candidate) bool {
		if path, taken := first[c.list.name]; taken {
			b.order = c.order
			b.reject(c.path, c.list.name, fmt.Errorf("%w: the name is taken by %s", ErrInvalidConfig, path))
			return true
		}
		first[c.list.name] = c.path
		return false
	})
}

// chooseDefault names the default network, or says why there is none.
func (b *loading) chooseDefault() {
	s, want := b.s, b.o.defaultNetwork
	switch {
	case want == "" && len(s.networks) > 0:
		s.def = s.networks[0]
	case want != "" && s.byName[want] != nil:
		s.def = s.byName[want]
	case want == "":
		s.reason = b.whyNone()
	default:
		s.reason = b.whyAbsent(want)
	}
}

// whyNone says why there is no network at all.
func (b *loading) whyNone() error {
	switch {
	case len(b.s.rejected) > 0 && b.s.pending == len(b.s.rejected):
		return fmt.Errorf("no network is ready yet: %w", reasons(b.s.rejected))
	case len(b.s.rejected) > 0:
		return fmt.Errorf("no network could be loaded: %w", reasons(b.s.rejected))
	case b.missing != nil:
		return b.missing
	}
	return &ConfigError{Path: b.o.confDir, Err: errors.New("there is no network configuration (*.conflist, *.conf, *.json) in it")}
}

// whyAbsent says why the named default network is not there.
func (b *loading) whyAbsent(want string) error {
	for i := range b.s.rejected {
		if r := &b.s.rejected[i]; r.Network == want {
			return fmt.Errorf("the default network is not loaded: %w", r)
		}
	}
	if len(b.s.networks) == 0 {
		return fmt.Errorf("%w: %q, the default: %w", ErrNetworkNotFound, want, b.whyNone())
	}
	var names []string
	for _, n := range b.s.networks {
		names = append(names, n.name)
	}
	err := fmt.Errorf("%w: %q, the default, is not among %s", ErrNetworkNotFound, want, strings.Join(names, ", "))
	if len(b.s.rejected) > 0 {
		err = fmt.Errorf("%w; rejected: %w", err, reasons(b.s.rejected))
	}
	return err
}

// reasonsTold is how many rejected files one error tells of.
const reasonsTold = 3

// reasons makes one error of the first few on one line.
func reasons(rejected []ConfigError) error {
	r := rejectedError{more: max(0, len(rejected)-reasonsTold)}
	for i := range rejected[:len(rejected)-r.more] {
		r.errs = append(r.errs, &rejected[i])
	}
	return &r
}

type rejectedError struct {
	errs []error
	more int
}

func (e *rejectedError) Error() string {
	var b strings.Builder
	for i, err := range e.errs {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	if e.more > 0 {
		fmt.Fprintf(&b, "; and %d more", e.more)
	}
	return b.String()
}

func (e *rejectedError) Unwrap() []error { return e.errs }
