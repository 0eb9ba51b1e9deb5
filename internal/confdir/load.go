package confdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"text/template"

	"github.com/containernetworking/cni/pkg/version"

	"github.com/podcni/podcni/internal/spec"
)

var errProbing = errors.New("its plugins are being asked for their versions")

// loader makes snapshots. It belongs to one goroutine. Only rendered does not.
type loader struct {
	o        *Options
	probes   *prober
	fixed    []candidate // of Options.Lists
	template *template.Template
	rendered atomic.Pointer[source] // of the template; nil before the first

	// What follows saves work, and keeps what files last were.
	files    map[string]*file
	listings map[string][]string
	built    map[string]*builtNetwork
}

// candidate is a configuration that parses.
type candidate struct {
	order  int
	path   string
	src    *source
	folder []*source
}

// builtNetwork is a network and what it was made of, to make it no second time.
type builtNetwork struct {
	candidate
	version string
	net     *Network
}

// found is what a plugin's type leads to at the moment of one load.
type found struct {
	binary
	err error
	answer
}

func newLoader(o *Options, probes *prober) (*loader, error) {
	l := &loader{
		o: o, probes: probes,
		files: make(map[string]*file), listings: make(map[string][]string), built: make(map[string]*builtNetwork),
	}
	for i, conf := range o.Lists {
		path := fmt.Sprintf("WithConfList[%d]", i)
		src, err := parseInMemory(conf)
		if err != nil {
			return nil, &InputError{path, err}
		}
		l.fixed = append(l.fixed, candidate{path: path, src: src})
	}
	if o.HasTemplate {
		var err error
		if l.template, err = template.New(templatePath).Parse(o.Template); err != nil {
			return nil, &InputError{templatePath, invalid(err)}
		}
	}
	return l, nil
}

// loading is one load under way.
type loading struct {
	*loader
	s        *Snapshot
	prev     *Snapshot // may be nil
	trust    *trust    // nil unless permissions matter
	missing  error     // why there is no configuration directory
	rejected []rejectedAt
	binDirs  error // why no plugin may be run
	found    map[string]*found
}

type rejectedAt struct {
	Rejection
	order int
}

// load reads everything and makes a snapshot of it. It never waits for a plugin:
// a network whose plugins have not said yet what versions they speak is as it
// was in prev, or else among the rejected ones for now.
func (l *loader) load(ctx context.Context, prev *Snapshot) *Snapshot {
	s := &Snapshot{DefaultName: l.o.Default}
	b := &loading{loader: l, s: s, prev: prev, found: make(map[string]*found)}
	if l.o.Strict {
		b.trust = newTrust()
	}
	candidates := b.unique(b.read())
	b.findPlugins(ctx, candidates)
	built := make(map[string]*builtNetwork, len(candidates))
	for _, c := range candidates {
		name := c.src.name
		n, err := b.network(c, built)
		if err != nil {
			b.reject(c.order, c.path, name, err)
		} else {
			s.Networks = append(s.Networks, n)
		}
		// Without a configured default it is the first that is ready. The one
		// that it was keeps its place while it is not: what pods get must not
		// depend on whether a binary is there at the moment.
		if s.DefaultName == "" && (err == nil || prev != nil && prev.DefaultName == name) {
			s.DefaultName = name
		}
		if s.DefaultName == name {
			s.Default = n
			if err != nil {
				s.Reason = notReady(Rejection{c.path, name, err})
			}
		}
	}
	l.built = built
	for path, f := range l.files {
		if !f.used {
			delete(l.files, path)
		}
		f.used = false
	}
	slices.SortStableFunc(b.rejected, func(x, y rejectedAt) int { return x.order - y.order })
	for _, r := range b.rejected {
		s.Rejected = append(s.Rejected, r.Rejection)
	}
	s.explain(l.o.Dir, b.missing)
	return s
}

func (b *loading) reject(order int, path, network string, err error) {
	b.rejected = append(b.rejected, rejectedAt{Rejection{path, network, err}, order})
}

// read returns every configuration that parses, in order of precedence.
func (b *loading) read() []candidate {
	all := slices.Clone(b.fixed)
	if b.template != nil {
		if src := b.rendered.Load(); src != nil {
			all = append(all, candidate{path: templatePath, src: src})
		} else {
			b.reject(0, templatePath, "", errNoPodCIDRs)
		}
	}
	names, err := b.listDir(b.o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		b.missing = err
	} else if err != nil {
		b.reject(0, b.o.Dir, "", err)
	}
	for i, name := range names {
		if !isConfFile(name) {
			continue
		}
		c := candidate{order: i + 1, path: filepath.Join(b.o.Dir, name)}
		if c.src = b.readFile(c.order, c.path, ""); c.src == nil {
			continue
		}
		ok := true
		if !c.src.onlyInlined {
			c.folder, ok = b.readFolder(c.order, c.src.name)
		}
		switch {
		case !ok: // what is wrong with it is rejected
		case len(c.plugins()) == 0:
			b.reject(c.order, c.path, c.src.name,
				fmt.Errorf("%w, and there are none in %s", invalid(errNoPlugins), filepath.Join(b.o.Dir, c.src.name)))
		default:
			all = append(all, c)
		}
	}
	return all
}

// readFolder reads the plugins of a network that has a folder. It returns false
// if one of them is not known: the network must not be without it.
func (b *loading) readFolder(order int, network string) (plugins []*source, ok bool) {
	dir := filepath.Join(b.o.Dir, network)
	b.s.folders = append(b.s.folders, dir)
	names, err := b.listDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.reject(order, dir, network, err)
		if names == nil {
			return nil, false
		}
	}
	ok = true
	for _, name := range names {
		if filepath.Ext(name) != ".conf" {
			continue
		}
		before := len(b.rejected)
		if src := b.readFile(order, filepath.Join(dir, name), network); src != nil {
			plugins = append(plugins, src)
		} else if len(b.rejected) > before {
			ok = false
		}
	}
	return plugins, ok
}

// unique leaves the first of each name.
func (b *loading) unique(all []candidate) []candidate {
	first := make(map[string]string, len(all))
	return slices.DeleteFunc(all, func(c candidate) bool {
		path, taken := first[c.src.name]
		if taken {
			b.reject(c.order, c.path, c.src.name, invalid(fmt.Errorf("the name is taken by %s", path)))
		} else {
			first[c.src.name] = c.path
		}
		return taken
	})
}

func (c *candidate) plugins() []*plugin {
	all := slices.Clone(c.src.plugins)
	for _, src := range c.folder {
		all = append(all, src.plugins...)
	}
	return all
}

// findPlugins looks each type up once and asks the prober about all of them.
func (b *loading) findPlugins(ctx context.Context, candidates []candidate) {
	if b.trust != nil {
		// Plugins run others that they find in these directories: even one must
		// not be open to others that is missing or is not used.
		for _, dir := range b.o.BinDirs {
			if b.binDirs = b.trust.dir(dir); b.binDirs != nil {
				break
			}
		}
	}
	var want []binary
	asked := make(map[string]bool)
	for _, c := range candidates {
		for _, p := range c.plugins() {
			if in := b.find(p.typ); in.err == nil && !asked[p.typ] {
				asked[p.typ] = true
				want = append(want, in.binary)
			}
		}
	}
	for i, a := range b.probes.ask(ctx, want) {
		b.found[want[i].typ].answer = a
	}
}

func (b *loading) find(typ string) *found {
	if in := b.found[typ]; in != nil {
		return in
	}
	in := &found{binary: binary{typ: typ}}
	b.found[typ] = in
	if in.path, in.err = b.o.Find(typ); in.err != nil {
		return in
	}
	if b.trust != nil {
		if in.err = b.binDirs; in.err == nil {
			in.err = b.trust.file(in.path)
		}
	}
	// What Find finds may be no file: it is asked once.
	if id, _, err := stat(in.path); err == nil {
		in.id = id
	}
	return in
}

// network returns the candidate's network if its plugins can serve it.
func (b *loading) network(c candidate, built map[string]*builtNetwork) (*Network, error) {
	was := b.built[c.path]
	if was != nil {
		built[c.path] = was
	}
	plugins := c.plugins()
	if err := b.unusable(plugins); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(plugins, func(p *plugin) bool { return b.found[p.typ].pending }) {
		b.s.pending++
		if kept := b.meanwhile(c, was); kept != nil {
			return kept, nil
		}
		return nil, errProbing
	}
	chosen, err := b.chooseVersion(c.src, plugins)
	if err != nil {
		return nil, err
	}
	if was != nil && was.src == c.src && slices.Equal(was.folder, c.folder) && was.version == chosen {
		return was.net, nil
	}
	n := &Network{Path: c.path, Inlined: len(c.src.plugins)}
	if n.List, err = c.src.list(plugins, chosen, true); err != nil {
		return nil, invalid(err)
	}
	for _, p := range plugins {
		n.Capabilities = append(n.Capabilities, p.capabilities...)
	}
	slices.Sort(n.Capabilities)
	n.Capabilities = slices.Compact(n.Capabilities)
	built[c.path] = &builtNetwork{c, chosen, n}
	return n, nil
}

// meanwhile is the network as it was, while a plugin that was exchanged is asked
// what it speaks: pods go on being attached. It is nil if there was none, or if
// its plugins are not there any more.
func (b *loading) meanwhile(c candidate, was *builtNetwork) *Network {
	if was == nil || was.src.name != c.src.name || b.prev == nil || b.prev.Network(c.src.name) != was.net ||
		b.unusable(was.plugins()) != nil {
		return nil
	}
	return was.net
}

// unusable says what is wrong with a network's plugins, of each type once.
func (b *loading) unusable(plugins []*plugin) error {
	var errs []error
	say := func(err error) {
		if err != nil && !slices.ContainsFunc(errs, func(told error) bool { return sameText(told, err) }) {
			errs = append(errs, err)
		}
	}
	for _, p := range plugins {
		in := b.find(p.typ)
		say(in.err)
		say(in.answer.err)
		if b.trust == nil {
			continue
		}
		// Whether the plugins that it runs itself have to be installed is its
		// own business.
		for _, typ := range p.named {
			if in := b.find(typ); in.path != "" {
				say(in.err)
			}
		}
	}
	return errors.Join(errs...)
}

// chooseVersion is the highest version that the configuration names and that
// podcni and every plugin speak (specification, "Version considerations").
func (b *loading) chooseVersion(src *source, plugins []*plugin) (string, error) {
	wanted, ours := src.versions, version.All.SupportedVersions()
	if len(wanted) == 0 {
		wanted = []string{spec.Unversioned}
	}
	speaks := func(p *plugin, v string) bool { return slices.Contains(b.found[p.typ].versions, v) }
	var common []string // of the configuration and podcni
	for _, v := range slices.Backward(ours) {
		if !slices.Contains(wanted, v) {
			continue
		}
		if !slices.ContainsFunc(plugins, func(p *plugin) bool { return !speaks(p, v) }) {
			return v, nil
		}
		common = append(common, v)
	}
	if len(common) == 0 {
		return "", fmt.Errorf("%w: the network wants %s, podcni speaks %s", ErrVersion, strings.Join(wanted, " or "), strings.Join(ours, ", "))
	}
	var speak []string
	for _, p := range plugins {
		who := fmt.Sprintf("plugin %q speaks %s", p.typ, strings.Join(b.found[p.typ].versions, ", "))
		if !slices.ContainsFunc(common, func(v string) bool { return speaks(p, v) }) {
			speak = []string{who} // it alone is to be replaced
			break
		}
		speak = append(speak, who)
	}
	return "", fmt.Errorf("%w: %s; the network wants %s", ErrVersion, strings.Join(slices.Compact(speak), ", "), strings.Join(wanted, " or "))
}
