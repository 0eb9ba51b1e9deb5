// Package netns creates, opens, enters, identifies and removes network
// namespaces.
//
// Namespaces are Linux's. Elsewhere a pod's namespace is a name, which plugins
// get as it is: [OpenPod] accepts each one, and everything else returns
// [errors.ErrUnsupported].
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/podcni/podcni/internal/proc"
	"github.com/podcni/podcni/internal/spec"
)

// DefaultDir is where [Create] pins namespaces unless told otherwise. It is the
// directory of `ip netns`.
const DefaultDir = "/run/netns"

var (
	// ErrNotNetNS says that a path leads to no network namespace, or to one that
	// cannot be a pod's.
	ErrNotNetNS = errors.New("not a usable network namespace")
	// ErrGone says that nothing is at a path.
	ErrGone = fmt.Errorf("%w: %w", ErrNotNetNS, fs.ErrNotExist)
)

// ID identifies a network namespace. The zero value identifies none.
type ID struct {
	// Dev and Ino are the device and inode of the namespace. The kernel uses
	// inodes again when a namespace is gone.
	Dev uint64 `json:"dev,omitempty"`
	Ino uint64 `json:"ino,omitempty"`
	// BootID is that of package proc.
	BootID string `json:"bootID,omitempty"`
	// Cookie is the kernel's own number of the namespace. It is not used again
	// before a reboot. It is 0 where the namespace may not be entered, and before
	// Linux 5.14.
	Cookie uint64 `json:"cookie,omitempty"`
}

// IsZero reports whether id identifies nothing.
func (a ID) IsZero() bool { return a == ID{} }

// Same reports whether a and b identify one namespace. They must be of one boot,
// and known to be. Then the cookies decide if both have one. Otherwise device
// and inode decide, which a later namespace may have inherited. Two zero values
// are the same.
func (a ID) Same(b ID) bool {
	switch {
	case a.IsZero() || b.IsZero():
		return a == b
	case !proc.SameBoot(a.BootID, b.BootID):
		return false
	case a.Cookie != 0 && b.Cookie != 0:
		return a.Cookie == b.Cookie
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}

// NS is an open network namespace. It stays alive while it is open, also when
// its path is removed. It is safe for concurrent use. A call that takes no
// context blocks as long as the system does.
type NS struct {
	path string
	id   ID
	file *os.File // nil where namespaces are names
}

// Path returns the path that the namespace was made or opened at. On Linux it is
// absolute.
func (n *NS) Path() string { return n.path }

// ID returns the namespace's identity, taken when it was opened. It works after
// Close, too.
func (n *NS) ID() ID { return n.id }

// Close closes the namespace. A pin stays, and keeps the namespace alive: see
// [NS.Remove]. Calls under way end undisturbed. Later ones return
// [os.ErrClosed]. A second Close does nothing.
func (n *NS) Close() error {
	// A file that is never written fails to close only if it is closed already,
	// or if there is none.
	_ = n.file.Close()
	return nil
}

// Interface is an interface as the kernel sees it.
type Interface struct {
	Name  string
	Index int
	MTU   int
	MAC   string // in lower case with colons, "" without one
	Up    bool   // administratively
	// Addrs are in the kernel's order, link-local ones included, host bits kept.
	Addrs []netip.Prefix
}

// PrefixOf returns an address with its mask, host bits kept. The prefix is not
// valid if ipNet is not.
func PrefixOf(ipNet *net.IPNet) netip.Prefix {
	addr, ok := netip.AddrFromSlice(ipNet.IP)
	if !ok {
		return netip.Prefix{}
	}
	addr = addr.Unmap()
	ones, bits := ipNet.Mask.Size()
	if bits > addr.BitLen() {
		// An IPv4 mask may be written as the tail of an IPv6 one.
		ones -= bits - addr.BitLen()
		bits = addr.BitLen()
	}
	if bits != addr.BitLen() || ones < 0 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr, ones)
}

// pinPath checks where to pin a namespace.
func pinPath(dir, name string) (string, error) {
	if err := spec.CheckContainerID(name); err != nil {
		return "", fmt.Errorf("name of a network namespace %.128q: %w: %w", name, err, fs.ErrInvalid)
	}
	if dir == "" {
		dir = DefaultDir
	}
	if strings.ContainsRune(dir, 0) || !filepath.IsAbs(dir) {
		return "", fmt.Errorf("directory of network namespaces %.128q: it must be an absolute path: %w", dir, fs.ErrInvalid)
	}
	return filepath.Join(dir, name), nil
}
