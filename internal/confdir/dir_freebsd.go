package confdir

// DefaultDir is where networks are configured by default.
const DefaultDir = "/usr/local/etc/cni/net.d"
