package podcni

import (
	"net/netip"

	"github.com/podcni/podcni/internal/netns"
)

// DefaultNetNSDir is where [NewNetNS] pins namespaces unless told otherwise: the
// directory of `ip netns`.
const DefaultNetNSDir = netns.DefaultDir

// NetNSID identifies a network namespace. The zero value identifies none.
type NetNSID struct {
	// Dev and Ino are the device and inode of the namespace. The kernel uses
	// inodes again when a namespace is gone.
	Dev uint64 `json:"dev,omitempty"`
	Ino uint64 `json:"ino,omitempty"`
	// BootID identifies the boot. Namespaces of an earlier boot no longer exist.
	BootID string `json:"bootID,omitempty"`
	// Cookie is the kernel's own number of the namespace. It is not used again
	// before a reboot. It is 0 where the namespace may not be entered, and before
	// Linux 5.14.
	Cookie uint64 `json:"cookie,omitempty"`
}

// IsZero reports whether a identifies nothing.
func (a NetNSID) IsZero() bool { return a == NetNSID{} }

// Same reports whether a and b identify one namespace. They must be of one boot.
// Then the cookies decide if both have one. Otherwise device and inode decide; a
// later namespace can have the same. Two zero values are the same.
func (a NetNSID) Same(b NetNSID) bool { return netns.ID(a).Same(netns.ID(b)) }

// NetNS is an open network namespace. It stays alive while it is open, also when
// its path is removed. Make one with [NewNetNS] or [OpenNetNS], and Close it. It
// is safe for concurrent use.
//
// Network namespaces are Linux's. Elsewhere NewNetNS and OpenNetNS return
// [ErrUnsupported]: plugins get the names of FreeBSD's jails and Windows'
// compartments as they are, and there is nothing to open.
type NetNS struct{ ns *netns.NS }

// InterfaceInfo is an interface as the kernel sees it.
type InterfaceInfo struct {
	// Name and Index are the interface's in its namespace.
	Name  string `json:"name"`
	Index int    `json:"index"`
	// MTU is in bytes.
	MTU int `json:"mtu"`
	// MAC is the hardware address, in lower case with colons. It is empty for an
	// interface that has none, such as lo.
	MAC string `json:"mac,omitempty"`
	// Up says that the interface is administratively up.
	Up bool `json:"up"`
	// Addrs are its addresses with their prefix lengths, in the kernel's order,
	// link-local ones included.
	Addrs []netip.Prefix `json:"addrs,omitempty"`
}

// NewNetNS makes a network namespace and pins it at dir/name by a bind mount, so
// that it outlives the process. An empty dir is [DefaultNetNSDir], where `ip
// netns` finds it. The directory is created, with mode 0755, if it is missing.
// Nothing in the namespace is up, not even lo: see [NetNS.LoopbackUp].
//
// The name is a letter or digit, then letters, digits, '_', '.' and '-', at most
// 255 bytes, and dir is absolute; otherwise the error wraps [fs.ErrInvalid]. It
// wraps [fs.ErrExist] when there is something of that name already. Making
// namespaces takes CAP_SYS_ADMIN in the user namespace.
func NewNetNS(dir, name string) (*NetNS, error) { return openedNetNS(netns.Create(dir, name)) }

// OpenNetNS opens the network namespace at a path: a pin, or a link such as
// /proc/PID/ns/net. A relative path is taken from the working directory.
//
// The error wraps [ErrNetNS] when the path leads to no network namespace, and also
// [fs.ErrNotExist] when it leads to nothing. A file that is not a namespace is not
// opened. Other errors are the system's. Opening takes no privilege; where the
// namespace may not be entered, its ID lacks the cookie.
func OpenNetNS(path string) (*NetNS, error) { return openedNetNS(netns.Open(path)) }

func openedNetNS(ns *netns.NS, err error) (*NetNS, error) {
	if err != nil {
		return nil, err
	}
	return &NetNS{ns}, nil
}

// Path returns the absolute path that the namespace was made or opened at.
func (n *NetNS) Path() string { return n.ns.Path() }

// ID returns the namespace's identity, taken when it was opened. It works after
// Close, too.
func (n *NetNS) ID() NetNSID { return NetNSID(n.ns.ID()) }

// Close closes the namespace. A pin stays, and keeps the namespace alive: see
// [NetNS.Remove]. Calls under way end undisturbed. Later ones return
// [os.ErrClosed]. A second Close does nothing.
func (n *NetNS) Close() error { return n.ns.Close() }

// Do runs fn in the namespace and returns its error. fn runs in a goroutine of its
// own, locked to its thread, while Do blocks. Goroutines that fn starts are not in
// the namespace. A panic in fn goes on in Do's caller, and so does runtime.Goexit.
//
// However fn ends, its thread goes back to where it was, or ends: no other
// goroutine runs in the namespace. fn must not unlock its thread. Entering takes
// CAP_SYS_ADMIN in the namespace's user namespace and in the caller's.
func (n *NetNS) Do(fn func() error) error { return n.ns.Do(fn) }

// LoopbackUp brings lo up, which gives it its addresses.
func (n *NetNS) LoopbackUp() error { return n.ns.LoopbackUp() }

// Interface reads an interface of the namespace. The error wraps [fs.ErrNotExist]
// when there is none of that name.
func (n *NetNS) Interface(name string) (InterfaceInfo, error) {
	info, err := n.ns.Interface(name)
	return InterfaceInfo(info), err
}

// Remove takes the pin away and closes the namespace, which ends when nothing else
// holds it. A pin that is gone already is no error, so that Remove may be
// repeated. After an error the namespace is still open.
//
// Only a pin of this very namespace is removed: otherwise the error wraps
// [ErrNetNS].
func (n *NetNS) Remove() error { return n.ns.Remove() }
