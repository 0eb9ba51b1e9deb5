//go:build unix

package journal

import "golang.org/x/sys/unix"

// DefaultCacheDir is libcni's, so that runtimes can be exchanged on a node with
// its pods running.
const DefaultCacheDir = "/var/lib/cni"

// noFollow keeps a symbolic link from being written through, and a FIFO from
// being waited for.
const noFollow = unix.O_NOFOLLOW | unix.O_NONBLOCK
