package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// LoopbackUp brings lo up, which gives it its addresses.
func (n *NS) LoopbackUp() error {
	err := n.Do(func() error {
		_, err := visitLoopback(true)
		return err
	})
	if err != nil {
		return fmt.Errorf("lo in %s: %w", n.path, err)
	}
	return nil
}

// Interface returns an interface of the namespace. The error wraps
// [fs.ErrNotExist] when there is none of that name.
func (n *NS) Interface(name string) (Interface, error) {
	var ifc Interface
	err := n.Do(func() (err error) {
		ifc, err = readInterface(name)
		return err
	})
	if err != nil {
		return Interface{}, fmt.Errorf("interface %.64q in %s: %w", name, n.path, err)
	}
	return ifc, nil
}

// visitLoopback returns the cookie of the namespace that the thread is in, and
// brings lo up if asked to. One socket does for both.
func visitLoopback(up bool) (cookie uint64, err error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(socket) }()
	// An old kernel has no cookies. Device and inode must do then.
	if cookie, err = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
		cookie = 0
	}
	if !up {
		return cookie, nil
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, lo); err != nil {
		return 0, fmt.Errorf("read the flags of lo: %w", err)
	}
	if flags := lo.Uint16(); flags&unix.IFF_UP == 0 {
		lo.SetUint16(flags | unix.IFF_UP)
		// The kernel answers once lo is up, or says why it is not.
		if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo); err != nil {
			return 0, fmt.Errorf("bring lo up: %w", err)
		}
	}
	return cookie, nil
}

// readInterface reads an interface of the namespace that the thread is in.
func readInterface(name string) (Interface, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return Interface{}, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Interface{}, os.NewSyscallError("socket", err)
	}
	err = unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, req)
	_ = unix.Close(socket)
	if errors.Is(err, unix.ENODEV) {
		return Interface{}, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return Interface{}, os.NewSyscallError("ioctl", err)
	}
	// Not InterfaceByName: package net would keep the pod's names and indices
	// for resolving IPv6 zones in the whole process.
	link, err := net.InterfaceByIndex(int(req.Uint32()))
	if err != nil {
		return Interface{}, err
	}
	addrs, err := link.Addrs()
	if err != nil {
		return Interface{}, err
	}
	ifc := Interface{
		Name: link.Name, Index: link.Index, MTU: link.MTU, MAC: link.HardwareAddr.String(), Up: link.Flags&net.FlagUp != 0,
	}
	for _, addr := range addrs {
		if ipNet, ok := addr.(*net.IPNet); ok {
			if prefix := PrefixOf(ipNet); prefix.IsValid() {
				ifc.Addrs = append(ifc.Addrs, prefix)
			}
		}
	}
	return ifc, nil
}
