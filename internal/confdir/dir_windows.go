package confdir

// DefaultDir is where networks are configured by default.
const DefaultDir = `C:\cni\etc\net.d`
