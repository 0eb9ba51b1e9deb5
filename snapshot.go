package podcni

import (
	"bytes"
	"slices"
)

// snapshot is everything that was read from disk at one moment. It is never
// changed once it is published: an operation takes the pointer once and keeps
// it, and nobody waits for a reload.
type snapshot struct {
	// networks are in order of precedence: WithConfList, WithConfTemplate, then
	// the directory by file name.
	networks []*network
	byName   map[string]*network
	// def is the default network; nil when there is none, and then reason says
	// why.
	def      *network
	reason   error
	rejected []ConfigError
	// pending counts the networks that wait for their plugins to say what
	// versions they speak. Another load is asked for when they have.
	pending int
	// dirs are the directories that this was read from, sorted.
	dirs []string
}

// Network is a network that pods can be attached to.
type Network struct {
	// Name is the network's name.
	Name string
	// Path is the file that it was read from, or WithConfList[i] or
	// WithConfTemplate.
	Path string
	// CNIVersion is the version of the specification that its plugins are
	// spoken to in.
	CNIVersion string
	// Plugins are the types of its plugins, in order.
	Plugins []string
	// Default says that pods that name no network get this one.
	Default bool
}

// list makes what Networks answers; it is the caller's.
func (s *snapshot) list() []Network {
	all := make([]Network, len(s.networks))
	for i, n := range s.networks {
		all[i] = Network{Name: n.name, Path: n.path, CNIVersion: n.cniVersion, Default: n == s.def}
		for _, p := range n.plugins {
			all[i].Plugins = append(all[i].Plugins, p.typ)
		}
	}
	return all
}

// same says whether nothing differs that matters to anyone: networks, their
// order, content and binaries, the default, and what was not taken and why.
func (s *snapshot) same(t *snapshot) bool {
	if s == nil || t == nil {
		return s == t
	}
	return slices.EqualFunc(s.networks, t.networks, (*network).same) &&
		s.def.same(t.def) && sameText(s.reason, t.reason) && s.pending == t.pending &&
		slices.EqualFunc(s.rejected, t.rejected, func(a, b ConfigError) bool {
			return a.Path == b.Path && a.Network == b.Network && sameText(a.Err, b.Err)
		})
}

func (n *network) same(m *network) bool {
	if n == m || n == nil || m == nil {
		return n == m
	}
	return n.name == m.name && n.path == m.path && bytes.Equal(n.config, m.config) &&
		slices.EqualFunc(n.plugins, m.plugins, func(a, b pluginConf) bool { return a.path == b.path })
}

// sameText says whether two errors tell a person the same.
func sameText(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Error() == b.Error()
}
