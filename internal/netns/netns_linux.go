package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/internal/proc"
)

// Create makes a network namespace and pins it at dir/name by a bind mount, so
// that it outlives the process. An empty dir is [DefaultDir]. A missing
// directory is created with mode 0755. Nothing in the namespace is up.
//
// The error wraps [fs.ErrInvalid] when dir is not absolute or the name is not a
// letter or digit, then letters, digits, '_', '.' and '-', 255 bytes at most. It
// wraps [fs.ErrExist] when something has that name already.
func Create(dir, name string) (*NS, error) {
	path, err := pinPath(dir, name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("directory of network namespaces: %w", err)
	}
	pin, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	_ = pin.Close()
	n := &NS{path: threadNS}
	err = onThread(context.Background(), func(*os.File) error {
		err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET))
		if err == nil {
			err = n.open()
		}
		if err == nil {
			err = n.visit(false)
		}
		if err == nil {
			err = os.NewSyscallError("mount", unix.Mount(threadNS, path, "", unix.MS_BIND, ""))
		}
		return err
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("new network namespace %s: %w", path, errors.Join(err, n.Close(), os.Remove(path)))
	}
	n.path = path
	return n, nil
}

// Open opens the network namespace at a path: a pin, or a link such as
// /proc/PID/ns/net. A relative path is taken from the working directory. Where
// the namespace may not be entered, its ID lacks the cookie.
//
// The error wraps [ErrNotNetNS] when the path leads to no network namespace, and
// [ErrGone] when it leads to nothing. Other errors are the system's and say
// nothing about what is there.
func Open(path string) (*NS, error) {
	return open(context.Background(), path, func(n *NS, _ *os.File) error { return n.visit(false) })
}

// OpenPod opens the namespace of a pod like [Open], and brings lo up if loUp is
// set. That takes the right to enter it. The error wraps [ErrNotNetNS] also when
// the namespace is the runtime's own.
//
// OpenPod blocks until ctx ends at the latest. The error then wraps that of ctx.
// What a hung file system holds goes on alone, on a thread of its own; what it
// opens is closed.
func OpenPod(ctx context.Context, path string, loUp bool) (*NS, error) {
	return open(ctx, path, func(n *NS, home *os.File) error {
		// The thread's namespace, not the main thread's: plugins will run in it.
		own, err := identify(home)
		if err != nil {
			return err
		}
		if n.id == own {
			return fmt.Errorf("%w: it is the runtime's own", ErrNotNetNS)
		}
		return n.visit(loUp)
	})
}

func open(ctx context.Context, path string, look func(n *NS, home *os.File) error) (*NS, error) {
	n := &NS{path: path}
	err := onThread(ctx, func(home *os.File) error {
		err := n.open()
		if err == nil {
			err = look(n, home)
		}
		if err != nil {
			_ = n.Close()
		}
		return err
	}, func() { _ = n.Close() })
	if err != nil {
		return nil, fmt.Errorf("network namespace %.128q: %w", path, err)
	}
	return n, nil
}

// open opens what is at n.path and identifies it. It does not ask for the cookie.
func (n *NS) open() error {
	if strings.ContainsRune(n.path, 0) {
		return fmt.Errorf("%w: the path holds a NUL byte", ErrNotNetNS)
	}
	if n.path != "" {
		path, err := filepath.Abs(n.path)
		if err != nil {
			return err
		}
		n.path = path
	}
	// The path may lead to anything. With O_PATH it is found and not opened: a
	// FIFO would block, a watchdog would start.
	found, err := os.OpenFile(n.path, unix.O_PATH, 0)
	if isAbsence(err) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err != nil {
		return err
	}
	defer found.Close()
	if n.id, err = identify(found); err != nil {
		return err
	}
	if n.file, err = os.Open(fdPath(found)); err != nil {
		return err
	}
	if kind, err := unix.IoctlRetInt(int(n.file.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: it is a namespace of another kind", ErrNotNetNS)
	}
	return nil
}

// visit takes the thread to the namespace, reads its cookie, and brings lo up if
// asked to. It takes the right to enter for lo only.
func (n *NS) visit(loUp bool) error {
	err := setns(n.file.Fd())
	if err == nil {
		n.id.Cookie, err = visitLoopback(loUp)
	}
	if !loUp && errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// identify returns the identity of an open namespace of any kind, without the
// cookie.
func identify(f *os.File) (ID, error) {
	var where unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &where); err != nil {
		return ID{}, os.NewSyscallError("fstatfs", err)
	}
	if where.Type != unix.NSFS_MAGIC {
		return ID{}, fmt.Errorf("%w: it is no namespace", ErrNotNetNS)
	}
	info, err := f.Stat()
	if err != nil {
		return ID{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	return ID{Dev: uint64(stat.Dev), Ino: stat.Ino, BootID: proc.BootID()}, nil
}

// isAbsence reports whether nothing is at a path. /proc returns ESRCH for a
// process that is just ending.
func isAbsence(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESRCH)
}

func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// StillAt reports whether a path leads to this open namespace at this moment.
// What is there is neither opened nor entered. A path that leads to nothing is no
// error.
func (n *NS) StillAt(path string) (bool, error) {
	there, err := os.Stat(path)
	if isAbsence(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return n.is(there)
}

// is reports whether info is of this namespace. It must be open still: otherwise
// another namespace may have got its inode before info was read.
func (n *NS) is(info fs.FileInfo) (bool, error) {
	here, err := n.file.Stat()
	return err == nil && os.SameFile(here, info), err
}

// Do runs fn in the namespace and returns its error. fn runs in a goroutine of
// its own, locked to its thread, while Do waits. Goroutines that it starts are
// not in the namespace. A panic in fn goes on in Do's caller, and so does
// runtime.Goexit.
//
// However fn ends, its thread goes back or ends: no other goroutine finds itself
// in the namespace. fn must not unlock its thread. Entering takes CAP_SYS_ADMIN
// in the user namespaces of the network namespace and of the caller.
func (n *NS) Do(fn func() error) error {
	var fnErr error
	conn, err := n.file.SyscallConn()
	if err == nil {
		// The descriptor stays open until fn has ended, whoever calls Close.
		err = conn.Control(func(fd uintptr) {
			fnErr = onThread(context.Background(), func(*os.File) error {
				if err := setns(fd); err != nil {
					return err
				}
				return fn()
			}, nil)
		})
	}
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", n.path, os.ErrClosed)
	}
	return fnErr
}

// Remove takes the pin away and closes the namespace, which ends when nothing
// else holds it. A pin that is gone already is no error, so that Remove may be
// repeated. After an error the namespace is still open.
//
// Remove removes only a pin of this namespace, and the empty file that is under
// a pin. The error wraps [ErrNotNetNS] when something else is at the path, and
// [os.ErrClosed] when n has been closed and something is at the path.
func (n *NS) Remove() error {
	if err := n.unpin(); err != nil && !isAbsence(err) {
		return fmt.Errorf("remove network namespace %s: %w", n.path, err)
	}
	return n.Close()
}

func (n *NS) unpin() error {
	pin, err := os.OpenFile(n.path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer pin.Close()
	info, err := pin.Stat()
	if err != nil {
		return err
	}
	if same, err := n.is(info); err != nil {
		return err
	} else if same {
		// Through the descriptor: this mount goes, whatever the path has come to
		// mean.
		if err := unix.Unmount(fdPath(pin), unix.MNT_DETACH); err != nil {
			return os.NewSyscallError("umount", err)
		}
	} else if _, err := identify(pin); err == nil {
		return fmt.Errorf("%w: the path is the pin of another", ErrNotNetNS)
	}
	// What is there now was under the pin. A pin that someone unmounted leaves it.
	if info, err = os.Lstat(n.path); err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != 0 {
		return fmt.Errorf("%w: the path is no pin of it", ErrNotNetNS)
	}
	return os.Remove(n.path)
}
