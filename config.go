package podcni

import (
	"fmt"
	"slices"
	"sync"
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
			return nil, invalidField(ErrInvalidOption, path, "", fmt.Errorf("%w: %w", ErrInvalidConfig, err))
		}
		l.fixed = append(l.fixed, candidate{path: path, list: list})
	}
	if o.hasTemplate {
		t, err := newConfTemplate(o.confTemplate)
		if err != nil {
			return nil, invalidField(ErrInvalidOption, templatePath, "", fmt.Errorf("%w: %w", ErrInvalidConfig, err))
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
