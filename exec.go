package podcni

// The verbs of the specification.
const (
	verbAdd     = "ADD"
	verbDel     = "DEL"
	verbCheck   = "CHECK"
	verbGC      = "GC"
	verbStatus  = "STATUS"
	verbVersion = "VERSION"
)

var knownVerbs = map[string]struct{}{
	verbAdd: {}, verbDel: {}, verbCheck: {}, verbGC: {}, verbStatus: {}, verbVersion: {},
}

// invocation is one run of one plugin.
type invocation struct {
	verb        string
	network     string
	plugin      string // its type
	path        string // its binary
	containerID string
	ifName      string
	env         []string // complete: CNI_* and what WithPluginEnv lets through
	stdin       []byte
}

// output is what a run of a plugin left.
type output struct {
	stdout []byte
	stderr string // its end
	exit   int
}

// fail makes an error of what is wrong with the plugin or its answer.
func (inv *invocation) fail(out output, err error) *PluginError {
	return &PluginError{
		Verb: inv.verb, Network: inv.network, Plugin: inv.plugin, Path: inv.path,
		ContainerID: inv.containerID, IfName: inv.ifName,
		Stderr: out.stderr, Exit: out.exit, Err: err,
	}
}
