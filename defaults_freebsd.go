package podcni

const (
	// DefaultConfDir is where networks are loaded from by default.
	DefaultConfDir = "/usr/local/etc/cni/net.d"
	// DefaultBinDir is where plugins are looked for by default.
	DefaultBinDir = "/usr/local/libexec/cni"

	defaultCacheDir = "/var/lib/cni"
)

var platformPluginEnv []string
