package podcni

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// network is one configured network, prepared for use. It is never changed.
type network struct {
	name string
	path string // the file, or what stands for it
	// cniVersion is the version that its plugins are spoken to in.
	cniVersion   string
	disableCheck bool
	disableGC    bool
	plugins      []pluginConf
	// config is the whole list as JSON with the plugins of the network's folder
	// inlined, loadOnlyInlinedPlugins set and cniVersion the chosen one: what a
	// record keeps, and what recordedNetwork takes.
	config []byte
	// foldersOmitted is only ever set in a network that comes from a record of
	// libcni's: plugins of the network's folder may have followed those that
	// are here, and the record does not say which.
	foldersOmitted bool
}

// pluginConf is one plugin of a network.
type pluginConf struct {
	typ  string
	path string // its binary; empty in a network that comes from a record
	// capabilities are the names that the configuration declares as true, sorted.
	capabilities []string
	// head is the plugin's configuration as one JSON object with name and
	// cniVersion set, and without runtimeConfig and prevResult, which stdin adds.
	head []byte
}

// newNetwork builds a network of a parsed list and the plugins of its folder,
// to be spoken to in the given version. paths are the plugins' binaries, or nil.
func newNetwork(source string, list *parsedList, folder []*parsedPlugin, version string, paths []string) *network {
	n := &network{
		name: list.name, path: source, cniVersion: version,
		disableCheck: list.disableCheck, disableGC: list.disableGC,
		plugins: make([]pluginConf, 0, len(list.plugins)+len(folder)),
	}
	head := fmt.Appendf(nil, `{"cniVersion":%s,"name":%s`, quoteJSON(version), quoteJSON(list.name))
	config := slices.Concat(head, list.rest, []byte(`,"loadOnlyInlinedPlugins":true,"plugins":[`))
	for i, p := range slices.Concat(list.plugins, folder) {
		c := pluginConf{typ: p.typ, capabilities: p.capabilities, head: slices.Concat(head, p.body, []byte("}"))}
		if paths != nil {
			c.path = paths[i]
		}
		n.plugins = append(n.plugins, c)
		if i > 0 {
			config = append(config, ',')
		}
		config = append(append(append(config, '{'), p.body[1:]...), '}')
	}
	n.config = append(config, "]}"...)
	return n
}

// recordedNetwork reads the configuration that a record holds: ours, libcni's
// or ocicni's, a list or a single plugin. It keeps config. What is recorded is
// to be detached, so that it looks no closer than it must: the version stays
// the recorded one whatever it is. An error wraps ErrBadRecord.
func recordedNetwork(config []byte) (*network, error) {
	list, err := parseNetwork(config, true)
	if err != nil {
		return nil, fmt.Errorf("%w: its configuration: %w", ErrBadRecord, err)
	}
	n := newNetwork("", list, nil, list.recordedVersion(), nil)
	n.config = config
	n.foldersOmitted = !list.onlyInlined
	return n, nil
}

// stdin is what the plugin reads: its configuration with runtimeConfig cut to
// the capabilities that it declares, and prevResult unless nil. extra are
// further top-level keys, such as cni.dev/valid-attachments. What it returns is
// the caller's.
func (c *pluginConf) stdin(caps map[string]json.RawMessage, prevResult json.RawMessage, extra map[string]json.RawMessage) []byte {
	size := len(c.head) + len(prevResult) + 64
	for _, name := range c.capabilities {
		size += len(name) + len(caps[name]) + 4
	}
	b := append(make([]byte, 0, size), c.head[:len(c.head)-1]...)
	opened := false
	for _, name := range c.capabilities {
		value, ok := caps[name]
		if !ok {
			continue
		}
		if opened {
			b = append(b, ',')
		} else {
			b = append(b, `,"runtimeConfig":{`...)
			opened = true
		}
		b = append(append(append(b, quoteJSON(name)...), ':'), value...)
	}
	if opened {
		b = append(b, '}')
	}
	if prevResult != nil {
		b = append(append(b, `,"prevResult":`...), prevResult...)
	}
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		b = append(append(append(append(b, ','), quoteJSON(key)...), ':'), extra[key]...)
	}
	return append(b, '}')
}
