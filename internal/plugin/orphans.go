package plugin

// Attachment is one that a dead runtime left in the middle.
type Attachment struct {
	ContainerID, IfName, NetNS string

	Plugins []string // the types of its plugins, and those of their IPAM plugins
}
