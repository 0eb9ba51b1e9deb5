package podcni

import "encoding/json"

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
}

// pluginConf is one plugin of a network.
type pluginConf struct {
	typ  string
	path string // its binary; empty in a network that comes from a record
	// capabilities are the names that the configuration declares as true.
	capabilities []string
	// head is the plugin's configuration as one JSON object with name and
	// cniVersion set, and without runtimeConfig and prevResult, which stdin adds.
	head []byte
}

// recordedNetwork reads the configuration that a record holds: ours, libcni's
// or ocicni's, a list or a single plugin.
func recordedNetwork(config []byte) (*network, error) { panic("see the brief of the loader") }

// stdin is what the plugin reads: its configuration with runtimeConfig cut to
// the capabilities that it declares, and prevResult unless nil. extra are
// further top-level keys, such as cni.dev/valid-attachments.
func (c *pluginConf) stdin(caps map[string]json.RawMessage, prevResult json.RawMessage, extra map[string]json.RawMessage) []byte {
	panic("see the brief of the loader")
}
