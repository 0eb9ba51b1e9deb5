package podcni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ownNetNS is the namespace of the thread that opens it.
const ownNetNS = "/proc/thread-self/ns/net"

// openNetNS opens a network namespace for entering it. The identity lacks
// cookie and boot ID.
func openNetNS(path string) (int, NetNSID, error) {
	if strings.ContainsRune(path, 0) {
		return -1, NetNSID{}, fmt.Errorf("%w: %.128q: %w", ErrNetNS, path, errHasNUL)
	}
	// The path is the caller's and may lead to anything: a FIFO must not block,
	// a terminal not become ours.
	fd, err := openRetrying(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	switch {
	case isAbsence(err):
		return -1, NetNSID{}, fmt.Errorf("%.128q: %w: %w", path, errNetNSGone, fs.ErrNotExist)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV): // a socket, a device
		return -1, NetNSID{}, fmt.Errorf("%.128q: %w: %w", path, ErrNetNS, err)
	case err != nil:
		return -1, NetNSID{}, &fs.PathError{Op: "open network namespace", Path: path, Err: err}
	}
	id, err := statNetNS(fd)
	if err != nil {
		_ = unix.Close(fd)
		return -1, NetNSID{}, fmt.Errorf("%.128q: %w", path, err)
	}
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		_ = unix.Close(fd)
		return -1, NetNSID{}, fmt.Errorf("%.128q: %w: it is a namespace of another kind", path, ErrNetNS)
	}
	return fd, id, nil
}

// isAbsence says that nothing is at a path; ESRCH is what /proc says of a
// process that is just ending.
func isAbsence(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESRCH)
}

// statNetNS reads device and inode of a namespace of any kind.
func statNetNS(fd int) (NetNSID, error) {
	var where unix.Statfs_t
	if err := retryEINTR(func() error { return unix.Fstatfs(fd, &where) }); err != nil {
		return NetNSID{}, os.NewSyscallError("fstatfs", err)
	}
	if where.Type != unix.NSFS_MAGIC {
		return NetNSID{}, fmt.Errorf("%w: it is no namespace", ErrNetNS)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return NetNSID{}, os.NewSyscallError("fstat", err)
	}
	return NetNSID{Dev: uint64(stat.Dev), Ino: stat.Ino}, nil
}

func openRetrying(path string, flags int) (fd int, err error) {
	err = retryEINTR(func() error {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// enter runs fn in a namespace, as onThread does.
func enter(fd int, fn func() error) error {
	return onThread(func(int) error {
		if err := netns.Set(netns.NsHandle(fd)); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return fn()
	})
}

// onThread runs fn, which may change its thread's network namespace, in a
// goroutine of its own, and waits. own is the namespace that the thread comes
// from and goes back to.
//
// The goroutine is what makes it safe: one that ends while it is locked takes
// its thread with it, so that a thread that cannot go back (a namespace of
// another user namespace may be left and not entered again) is never seen by
// anyone. The caller's own goroutine could not be thrown away.
func onThread(fn func(own int) error) error {
	v := visit{fn: fn, done: make(chan struct{})}
	go v.run()
	<-v.done
	switch {
	case v.panicked != nil:
		panic(v.panicked)
	case !v.returned:
		runtime.Goexit()
	}
	return v.err
}

// inPlace is onThread without a goroutine of its own, for what is short and
// frequent: to wake up another processor for one costs more than the visit. It
// does so only on a thread that is at home, is not the main one, and may come
// back for sure: the kernel has just let it enter the namespace that it is in,
// under the same rights. Otherwise it is onThread.
func inPlace(fn func(own int) error) error {
	if done, err := tryInPlace(fn); done {
		return err
	}
	return onThread(fn)
}

// home is the main thread's network namespace: the process's, unless somebody
// has moved that thread.
var home = sync.OnceValues(func() (NetNSID, error) {
	fd, err := openRetrying("/proc/self/ns/net", unix.O_RDONLY)
	if err != nil {
		return NetNSID{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	return statNetNS(fd)
})

func tryInPlace(fn func(own int) error) (done bool, err error) {
	atHome, err := home()
	if err != nil {
		return false, nil // onThread will say why
	}
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		runtime.UnlockOSThread()
		return false, nil
	}
	own, err := openRetrying(ownNetNS, unix.O_RDONLY)
	if err != nil {
		runtime.UnlockOSThread()
		return false, nil
	}
	if id, err := statNetNS(own); err != nil || id != atHome {
		runtime.UnlockOSThread()
		_ = unix.Close(own)
		return false, nil
	}
	if netns.Set(netns.NsHandle(own)) != nil {
		runtime.UnlockOSThread()
		_ = unix.Close(own)
		return false, nil
	}
	defer func() {
		goHome(own)
		runtime.UnlockOSThread()
		_ = unix.Close(own)
	}()
	return true, fn(own)
}

const (
	homeTries = 100
	homePause = 10 * time.Millisecond
)

// goHome takes the thread back to where it was allowed to go a moment ago. What
// can keep it away is a kernel that is out of memory, which passes, or somebody
// who took this process's rights away within these microseconds, which does not:
// whoever went on here would then work on a pod's interfaces for the host's.
func goHome(own int) {
	err := netns.Set(netns.NsHandle(own))
	for try := 1; err != nil && try < homeTries; try++ {
		time.Sleep(homePause)
		err = netns.Set(netns.NsHandle(own))
	}
	if err != nil {
		panic(fmt.Errorf("cannot leave a pod's network namespace: %w", err))
	}
}

type visit struct {
	fn       func(own int) error
	done     chan struct{}
	err      error
	returned bool
	panicked any
}

func (v *visit) run() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread's namespace is what others see at /proc/PID/ns/net,
		// and that thread cannot end. Hold it, so that this is another one.
		go v.run()
		<-v.done
		runtime.UnlockOSThread()
		return
	}
	defer close(v.done)
	own, err := openRetrying(ownNetNS, unix.O_RDONLY)
	if err != nil {
		runtime.UnlockOSThread()
		v.err, v.returned = &fs.PathError{Op: "open", Path: ownNetNS, Err: err}, true
		return
	}
	defer func() {
		if !v.returned {
			v.panicked = recover()
		}
		if netns.Set(netns.NsHandle(own)) == nil {
			runtime.UnlockOSThread()
		}
		_ = unix.Close(own)
	}()
	v.err = v.fn(own)
	v.returned = true
}
