package plugin

// DefaultBinDir is where plugins are looked for by default.
const DefaultBinDir = "/usr/local/libexec/cni"
