package podcni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// preparePodNetNS makes a pod's namespace ready for plugins and identifies it:
// lo is up afterwards. The error wraps ErrNetNS when the path leads to no
// network namespace, and when it leads to the runtime's own, whose interfaces
// are not a pod's; errNetNSGone when it leads to nothing.
func preparePodNetNS(path string) (NetNSID, error) { return visitPodNetNS(path, true) }

// identifyNetNS is preparePodNetNS without touching lo. Where the namespace may
// not be entered, the identity lacks the cookie.
func identifyNetNS(path string) (NetNSID, error) { return visitPodNetNS(path, false) }

func visitPodNetNS(path string, loUp bool) (NetNSID, error) {
	fd, id, err := openNetNS(path)
	if err != nil {
		return NetNSID{}, err
	}
	err = inPlace(func(own int) error {
		// Not the main thread's namespace: a thread that any goroutine may run
		// on is in the one that plugins will run in.
		ownID, err := statNetNS(own)
		if err != nil {
			return err
		}
		if ownID == id {
			return fmt.Errorf("%w: it is the runtime's own", ErrNetNS)
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		id.Cookie, err = visitLoopback(loUp)
		return err
	})
	_ = unix.Close(fd)
	if !loUp && errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	if err != nil {
		return NetNSID{}, fmt.Errorf("network namespace %.128q: %w", path, err)
	}
	id.BootID = bootID()
	return id, nil
}

// visitLoopback reads the cookie of the namespace that the thread is in, 0 if
// the kernel has none, and brings lo up if asked to. One socket does for both.
func visitLoopback(up bool) (cookie uint64, err error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(socket) }()
	// An old kernel, or a sandbox that is none, has no cookies: device and
	// inode must do then.
	cookie, err = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		cookie = 0
	}
	if !up {
		return cookie, nil
	}
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, req); err != nil {
		return 0, fmt.Errorf("read the flags of lo: %w", err)
	}
	if flags := req.Uint16(); flags&unix.IFF_UP == 0 {
		req.SetUint16(flags | unix.IFF_UP)
		// The kernel answers once lo is up, or says why it is not.
		if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, req); err != nil {
			return 0, fmt.Errorf("bring lo up: %w", err)
		}
	}
	return cookie, nil
}

// bootID tells one boot of the kernel from another; empty where it does not
// say.
var bootID = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
})
