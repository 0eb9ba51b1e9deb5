package podcni

const (
	// DefaultConfDir is where networks are loaded from by default.
	DefaultConfDir = `C:\cni\etc\net.d`
	// DefaultBinDir is where plugins are looked for by default.
	DefaultBinDir = `C:\cni\bin`

	defaultCacheDir = `C:\var\lib\cni`
)

// platformPluginEnv is what Windows processes cannot do without.
var platformPluginEnv = []string{"SystemRoot", "SystemDrive", "COMSPEC", "TEMP", "TMP", "USERPROFILE", "ProgramData"}
