//go:build !windows && !freebsd

package confdir

// DefaultDir is where networks are configured by default.
const DefaultDir = "/etc/cni/net.d"
