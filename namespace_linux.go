package podcni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NewNetNS makes a network namespace and pins it at dir/name by a bind mount,
// so that it outlives the process. An empty dir is [DefaultNetNSDir], where
// `ip netns` finds it. The directory is created, with mode 0755, if it is
// missing. Nothing in the namespace is up, not even lo: see
// [NetNS.LoopbackUp].
//
// The name is a letter or digit, then letters, digits, '_', '.' and '-', 255
// bytes at most; dir is absolute; otherwise the error wraps [fs.ErrInvalid].
// It wraps [fs.ErrExist] when there is something of that name already. Making
// namespaces takes CAP_SYS_ADMIN in the user namespace.
func NewNetNS(dir, name string) (*NetNS, error) {
	if err := checkNetNSName(name); err != nil {
		return nil, err
	}
	dir, err := netNSDir(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("directory of network namespaces: %w", err)
	}
	n := &NetNS{path: filepath.Join(dir, name)}
	if err := n.create(); err != nil {
		return nil, fmt.Errorf("new network namespace %s: %w", n.path, err)
	}
	return n, nil
}

func (n *NetNS) create() error {
	pin, err := os.OpenFile(n.path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_ = pin.Close()
	err = onThread(func(int) error {
		handle, err := netns.New()
		if err != nil {
			return os.NewSyscallError("unshare", err)
		}
		n.file = os.NewFile(uintptr(handle), n.path)
		if n.id, err = statNetNS(int(handle)); err != nil {
			return err
		}
		if n.id.Cookie, err = visitLoopback(false); err != nil {
			return err
		}
		return os.NewSyscallError("mount", unix.Mount(ownNetNS, n.path, "", unix.MS_BIND, ""))
	})
	if err != nil {
		if n.file != nil {
			_ = n.file.Close()
		}
		return errors.Join(err, os.Remove(n.path))
	}
	n.id.BootID = bootID()
	return nil
}

// OpenNetNS opens the network namespace at a path: a pin, or a link such as
// /proc/PID/ns/net. A relative path is taken from the working directory.
//
// The error wraps [ErrNetNS] when the path leads to no network namespace, and
// also [fs.ErrNotExist] when it leads to nothing. Other errors are the
// system's and say nothing about what is there. Opening takes no privilege;
// where the namespace may not be entered, its ID lacks the cookie.
func OpenNetNS(path string) (*NetNS, error) {
	if path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		path = abs
	}
	fd, id, err := openNetNS(path)
	if err != nil {
		return nil, err
	}
	err = enter(fd, func() error {
		var err error
		id.Cookie, err = visitLoopback(false)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	id.BootID = bootID()
	return &NetNS{path: path, id: id, file: os.NewFile(uintptr(fd), path)}, nil
}

// Do runs fn in the namespace and returns its error. fn runs in a goroutine of
// its own, locked to its thread, while Do waits; goroutines that it starts are
// not in the namespace. A panic in fn goes on in Do's caller, and so does
// runtime.Goexit.
//
// However fn ends, its thread goes back to where it was, or ends: no other
// goroutine ever finds itself in the namespace. fn must not unlock its thread.
// Entering takes CAP_SYS_ADMIN in the namespace's user namespace and in the
// caller's.
func (n *NetNS) Do(fn func() error) error {
	conn, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var fnErr error
	// The descriptor stays open until fn has ended, whoever calls Close.
	if err := conn.Control(func(fd uintptr) { fnErr = enter(int(fd), fn) }); err != nil {
		return fmt.Errorf("network namespace %s: %w", n.path, os.ErrClosed)
	}
	return fnErr
}

// LoopbackUp brings lo up, which gives it its addresses, and checks that it is.
func (n *NetNS) LoopbackUp() error {
	err := n.Do(func() error {
		_, err := visitLoopback(true)
		return err
	})
	if err != nil {
		return fmt.Errorf("bring lo up in %s: %w", n.path, err)
	}
	return nil
}

// Interface reads an interface of the namespace. The error wraps
// [fs.ErrNotExist] when there is none of that name.
func (n *NetNS) Interface(name string) (InterfaceInfo, error) {
	var info InterfaceInfo
	err := n.Do(func() error {
		var err error
		info, err = readInterface(name)
		return err
	})
	if err != nil {
		return InterfaceInfo{}, fmt.Errorf("interface %.64q in %s: %w", name, n.path, err)
	}
	return info, nil
}

func readInterface(name string) (InterfaceInfo, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return InterfaceInfo{}, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return InterfaceInfo{}, os.NewSyscallError("socket", err)
	}
	err = unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, req)
	_ = unix.Close(socket)
	switch {
	case errors.Is(err, unix.ENODEV):
		return InterfaceInfo{}, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case err != nil:
		return InterfaceInfo{}, os.NewSyscallError("ioctl", err)
	}
	// Not InterfaceByName: package net would keep the pod's names and indices
	// for resolving IPv6 zones in the whole process.
	ifc, err := net.InterfaceByIndex(int(req.Uint32()))
	if err != nil {
		return InterfaceInfo{}, err
	}
	addrs, err := ifc.Addrs()
	if err != nil {
		return InterfaceInfo{}, err
	}
	info := InterfaceInfo{
		Name: ifc.Name, Index: ifc.Index, MTU: ifc.MTU, MAC: ifc.HardwareAddr.String(), Up: ifc.Flags&net.FlagUp != 0,
	}
	for _, addr := range addrs {
		if ipNet, ok := addr.(*net.IPNet); ok {
			if prefix := prefixOf(ipNet); prefix.IsValid() {
				info.Addrs = append(info.Addrs, prefix)
			}
		}
	}
	return info, nil
}

// Remove takes the pin away and closes the namespace, which ends when nothing
// else holds it. A pin that is gone already is no error, so that Remove may be
// repeated. After an error the namespace is still open.
//
// What is not a pin of this very namespace is never removed: the error then
// wraps [ErrNetNS].
func (n *NetNS) Remove() error {
	if err := n.unpin(); err != nil {
		return fmt.Errorf("remove network namespace %s: %w", n.path, err)
	}
	return n.Close()
}

func (n *NetNS) unpin() error {
	fd, err := openRetrying(n.path, unix.O_PATH|unix.O_NOFOLLOW)
	if isAbsence(err) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	id, err := statNetNS(fd)
	if err == nil && (id.Dev != n.id.Dev || id.Ino != n.id.Ino) {
		err = fmt.Errorf("%w: the path is the pin of another", ErrNetNS)
	} else if err == nil {
		// Through the descriptor: it is this mount that goes, whatever the path
		// has come to mean.
		err = os.NewSyscallError("umount", unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", fd), unix.MNT_DETACH))
	} else if errors.Is(err, ErrNetNS) {
		err = nil
	}
	_ = unix.Close(fd)
	if err != nil {
		return err
	}
	// What is under a pin is an empty file. It may also have been left there by
	// someone who unmounted and went no further.
	info, err := os.Lstat(n.path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != 0 {
		return fmt.Errorf("%w: the path is no pin of it", ErrNetNS)
	}
	err = os.Remove(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
