package podcni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

var errProbing = errors.New("its plugins are being asked for their versions")

// installed is what a plugin's type leads to at the moment of one load.
type installed struct {
	binary
	err    error
	result probeResult
}

// builtNetwork is a network and all that it was made of, to make it no second
// time.
type builtNetwork struct {
	from    candidate
	version string
	paths   []string
	net     *network
}

// findPlugins looks each type up once and asks the prober about all of them.
func (b *loading) findPlugins(candidates []candidate) {
	var dirs error
	if b.trust != nil {
		// Plugins run others that they find in these directories, so that even
		// one must not be open to others that is missing or is not used.
		for _, dir := range b.o.binDirs {
			if err := b.trust.dir(dir); err != nil {
				dirs = fmt.Errorf("%w: %w", errUntrusted, err)
				break
			}
		}
	}
	var want []binary
	for _, c := range candidates {
		for _, p := range slices.Concat(c.list.plugins, c.folder) {
			if b.installed[p.typ] == nil {
				in := b.find(p.typ, dirs)
				b.installed[p.typ] = in
				if in.err == nil {
					want = append(want, in.binary)
				}
			}
		}
	}
	for i, result := range b.probes.ask(want) {
		b.installed[want[i].typ].result = result
	}
}

func (b *loading) find(typ string, dirs error) *installed {
	in := &installed{binary: binary{typ: typ}, err: dirs}
	if in.err != nil {
		return in
	}
	if in.path, in.err = b.probes.run.find(typ); in.err != nil {
		return in
	}
	if in.err = b.trusts(in.path); in.err != nil {
		return in
	}
	// WithExec may find plugins that are no files: they are asked once.
	if st, err := statFile(in.path); err == nil {
		in.id = st.id
		if fi, err := os.Lstat(in.path); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
			b.follow(in.path)
		}
	}
	return in
}

func (b *loading) trusts(path string) error {
	if b.trust == nil {
		return nil
	}
	if err := b.trust.file(path); err != nil {
		return fmt.Errorf("%w: %w", errUntrusted, err)
	}
	return nil
}

// take adds the candidate's network to the snapshot if its plugins can serve
// it.
func (b *loading) take(c candidate, built map[string]*builtNetwork) {
	plugins := slices.Concat(c.list.plugins, c.folder)
	name := c.list.name
	was := b.built[c.path]
	if was != nil {
		built[c.path] = was
	}
	if err := b.unusable(plugins); err != nil {
		b.reject(c.path, name, err)
		return
	}
	if slices.ContainsFunc(plugins, func(p *parsedPlugin) bool { return b.installed[p.typ].result.pending }) {
		b.s.pending++
		if kept := b.meanwhile(c); kept != nil {
			b.add(kept)
			return
		}
		b.reject(c.path, name, errProbing)
		return
	}
	chosen, err := b.chooseVersion(c.list, plugins)
	if err != nil {
		b.reject(c.path, name, err)
		return
	}
	paths := make([]string, len(plugins))
	for i, p := range plugins {
		paths[i] = b.installed[p.typ].path
	}
	if was == nil || was.from.list != c.list || !slices.Equal(was.from.folder, c.folder) ||
		was.version != chosen || !slices.Equal(was.paths, paths) {
		was = &builtNetwork{
			from: c, version: chosen, paths: paths,
			net: newNetwork(c.path, c.list, c.folder, chosen, paths),
		}
	}
	built[c.path] = was
	b.add(was.net)
}

func (b *loading) add(n *network) {
	b.s.networks = append(b.s.networks, n)
	b.s.byName[n.name] = n
}

// meanwhile is the network as it was, while a plugin that was exchanged is asked
// what it speaks: pods go on being attached. It is nil if there was none.
func (b *loading) meanwhile(c candidate) *network {
	if b.prev == nil {
		return nil
	}
	n := b.prev.byName[c.list.name]
	if n == nil || n.path != c.path {
		return nil
	}
	for _, p := range n.plugins {
		if b.trusts(p.path) != nil {
			return nil
		}
	}
	return n
}

// unusable says what is wrong with a network's plugins, of each type once.
func (b *loading) unusable(plugins []*parsedPlugin) error {
	var errs []error
	var told []string
	for _, p := range plugins {
		in := b.installed[p.typ]
		err := in.err
		if err == nil {
			err = in.result.err
		}
		if err == nil && p.ipam != "" {
			err = b.untrustedIPAM(p.ipam)
		}
		if err != nil && !slices.Contains(told, err.Error()) {
			told = append(told, err.Error())
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// untrustedIPAM looks at the binary that a plugin will run for its addresses,
// if it is installed: whether it has to be is the plugin's business.
func (b *loading) untrustedIPAM(typ string) error {
	if b.trust == nil {
		return nil
	}
	if path, err := b.probes.run.find(typ); err == nil {
		return b.trusts(path)
	}
	return nil
}

// chooseVersion is the highest version that the configuration names and that
// podcni and every plugin speak (specification, "Version considerations").
func (b *loading) chooseVersion(list *parsedList, plugins []*parsedPlugin) (string, error) {
	wanted := list.versions
	if len(wanted) == 0 {
		wanted = []string{unversioned}
	}
	ours := version.All.SupportedVersions()
	for _, v := range slices.Backward(ours) {
		if slices.Contains(wanted, v) && !slices.ContainsFunc(plugins, func(p *parsedPlugin) bool {
			return !slices.Contains(b.installed[p.typ].result.versions, v)
		}) {
			return v, nil
		}
	}
	var speak []string
	for _, p := range plugins {
		who := fmt.Sprintf("plugin %q speaks %s", p.typ, strings.Join(b.installed[p.typ].result.versions, ", "))
		if !slices.Contains(speak, who) {
			speak = append(speak, who)
		}
	}
	return "", fmt.Errorf("%w: the network wants %s, podcni speaks %s, %s",
		ErrVersion, strings.Join(wanted, " or "), strings.Join(ours, ", "), strings.Join(speak, ", "))
}
