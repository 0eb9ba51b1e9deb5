//go:build !windows && !freebsd

package plugin

// DefaultBinDir is where plugins are looked for by default.
const DefaultBinDir = "/opt/cni/bin"
