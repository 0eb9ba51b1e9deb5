package podcni

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// DefaultNetNSDir is where [NewNetNS] pins namespaces unless told otherwise:
// the directory of `ip netns`.
const DefaultNetNSDir = "/run/netns"

// NetNSID tells one network namespace from another.
type NetNSID struct {
	// Dev and Ino are the device and inode of the namespace. Inodes are used
	// again once a namespace is gone, so that alone they are no proof.
	Dev uint64 `json:"dev,omitempty"`
	Ino uint64 `json:"ino,omitempty"`
	// BootID is the kernel's boot ID: nothing of an earlier boot is alive.
	BootID string `json:"bootID,omitempty"`
	// Cookie is the kernel's own number of the namespace, never used again
	// before a reboot; 0 where the kernel has none (before Linux 5.14).
	Cookie uint64 `json:"cookie,omitempty"`
}

// IsZero says that nothing is known of the namespace: it was never identified,
// or the platform has no identities.
func (a NetNSID) IsZero() bool { return a == NetNSID{} }

// Same says whether a and b are one namespace. The boot IDs must be equal.
// Then the cookies decide if both have one, and otherwise device and inode,
// which a later namespace may have inherited. Two zero values are the same; a
// zero value and another are not.
func (a NetNSID) Same(b NetNSID) bool {
	if a.BootID != b.BootID {
		return false
	}
	if a.Cookie != 0 && b.Cookie != 0 {
		return a.Cookie == b.Cookie
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}

// NetNS is an open network namespace. It stays alive while it is open, also
// when its path is removed. Make one with [NewNetNS] or [OpenNetNS], and Close
// it. It is safe for concurrent use.
//
// Network namespaces are Linux's. Elsewhere NewNetNS and OpenNetNS return
// [ErrUnsupported]: FreeBSD's jails and Windows' compartments are names that
// plugins are handed as they are, with nothing to open.
type NetNS struct {
	path string
	id   NetNSID
	file *os.File
}

// InterfaceInfo is an interface as the kernel sees it.
type InterfaceInfo struct {
	// Name and Index are the interface's in its namespace.
	Name  string `json:"name"`
	Index int    `json:"index"`
	// MTU is in bytes.
	MTU int `json:"mtu"`
	// MAC is the hardware address, in lower case with colons; empty for an
	// interface that has none, such as lo.
	MAC string `json:"mac,omitempty"`
	// Up says that the interface is administratively up.
	Up bool `json:"up"`
	// Addrs are its addresses with their prefix lengths, in the kernel's order,
	// link-local ones included.
	Addrs []netip.Prefix `json:"addrs,omitempty"`
}

// Path is the absolute path that the namespace was made or opened at.
func (n *NetNS) Path() string { return n.path }

// ID is the namespace's identity, taken when it was opened. It has no cookie
// where the namespace may not be entered. ID works after Close, too.
func (n *NetNS) ID() NetNSID { return n.id }

// Close closes the namespace. A pin stays, and with it the namespace: see
// [NetNS.Remove]. Operations under way end undisturbed; later ones return
// [os.ErrClosed]. A second Close does nothing.
func (n *NetNS) Close() error {
	// The only error of closing a file that is never written is that it is
	// closed already.
	_ = n.file.Close()
	return nil
}

// longestNetNSName is what file systems take.
const longestNetNSName = 255

// checkNetNSName takes only what is one ordinary name of a file, and spares
// shells and logs the rest.
func checkNetNSName(name string) error {
	bad := func(why string) error {
		return fmt.Errorf("name of a network namespace %.128q: %s: %w", name, why, fs.ErrInvalid)
	}
	if name == "" || len(name) > longestNetNSName {
		return bad("it must have 1 to 255 bytes")
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte("_.-", c) >= 0:
		default:
			return bad("it must be a letter or digit, then letters, digits, '_', '.' and '-'")
		}
	}
	return nil
}

// netNSDir is the directory to pin namespaces in.
func netNSDir(dir string) (string, error) {
	if dir == "" {
		return DefaultNetNSDir, nil
	}
	if err := checkDir(dir); err != nil {
		return "", fmt.Errorf("directory of network namespaces %.128q: %w: %w", dir, err, fs.ErrInvalid)
	}
	return filepath.Clean(dir), nil
}

// prefixOf makes a prefix of an address with its mask, host bits kept. It is
// not valid when ipNet is not.
func prefixOf(ipNet *net.IPNet) netip.Prefix {
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
