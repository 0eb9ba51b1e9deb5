//go:build !windows && !freebsd

package podcni

const (
	// DefaultConfDir is where networks are loaded from by default.
	DefaultConfDir = "/etc/cni/net.d"
	// DefaultBinDir is where plugins are looked for by default.
	DefaultBinDir = "/opt/cni/bin"

	defaultCacheDir = "/var/lib/cni"
)

var platformPluginEnv []string
