package journal

// DefaultCacheDir is where runtimes on Windows have libcni keep its results.
const DefaultCacheDir = `C:\var\lib\cni`

// noFollow has no counterpart here.
const noFollow = 0
