package podcni

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
