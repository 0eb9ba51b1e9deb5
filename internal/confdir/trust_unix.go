//go:build unix

package confdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// trust tells whether anyone but root and our own user could have put something
// else at a path. It remembers what it has looked at: make one for each load.
type trust struct {
	euid uint32
	seen map[string]lstat
}

type lstat struct {
	mode, uid uint32
	err       error
}

func newTrust() *trust {
	return &trust{euid: uint32(os.Geteuid()), seen: make(map[string]lstat)}
}

// file refuses a file that others could change or exchange.
func (t *trust) file(path string) error {
	at, st, err := t.walk(path)
	switch {
	case err != nil:
		return err
	case st.err != nil:
		return &fs.PathError{Op: "lstat", Path: path, Err: st.err}
	case st.openToOthers():
		return writable(at, st)
	}
	return nil
}

// dir refuses a directory that others could put a file into, or could make
// where it is missing.
func (t *trust) dir(path string) error {
	at, st, err := t.walk(path)
	// A sticky bit keeps what is there, and lets anyone add to it.
	if err == nil && st.err == nil && st.openToOthers() {
		return writable(at, st)
	}
	return err
}

// walk follows a path component by component, over symlinks, and refuses it if
// others could lead it elsewhere. It returns what is at its end, or the first
// thing on the way that is missing, with st.err set.
func (t *trust) walk(path string) (at string, st lstat, err error) {
	const root = "/"
	at, st = root, t.lstat(root)
	if st.err != nil {
		return at, st, &fs.PathError{Op: "lstat", Path: at, Err: st.err}
	}
	if err := t.owned(at, st); err != nil {
		return at, st, err
	}
	links := 0
	rest := filepath.Clean(path)
	for {
		name, after, _ := strings.Cut(strings.TrimLeft(rest, root), root)
		if name == "" {
			return at, st, nil
		}
		rest = after
		switch name {
		case ".":
			continue
		case "..":
			at = filepath.Dir(at)
			st = t.lstat(at)
			continue
		}
		next := filepath.Join(at, name)
		entry := t.lstat(next)
		if entry.err != nil && !errors.Is(entry.err, fs.ErrNotExist) {
			return next, entry, &fs.PathError{Op: "lstat", Path: next, Err: entry.err}
		}
		if st.openToOthers() {
			// In a sticky directory an entry is safe that is there already and ours.
			if st.mode&unix.S_ISVTX == 0 {
				return at, st, writable(at, st)
			}
			if entry.err != nil {
				return at, st, fmt.Errorf("%w: anyone can create %s, because %s has mode %04o; create it as root, or run: chmod go-w %[3]s",
					errUntrusted, next, at, st.mode&0o7777)
			}
		}
		if entry.err != nil {
			return next, entry, nil
		}
		if err := t.owned(next, entry); err != nil {
			return next, entry, err
		}
		if entry.mode&unix.S_IFMT != unix.S_IFLNK {
			at, st = next, entry
			continue
		}
		if links++; links > maxLinks {
			return next, entry, &fs.PathError{Op: "readlink", Path: path, Err: unix.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return next, entry, err
		}
		rest = target + root + rest
		if filepath.IsAbs(target) {
			at, st = root, t.lstat(root)
		}
	}
}

func (t *trust) owned(path string, st lstat) error {
	if st.uid == 0 || st.uid == t.euid {
		return nil
	}
	return fmt.Errorf("%w: %s belongs to user %d (mode %04o), and must belong to root or user %d; run: chown -h root %[2]s",
		errUntrusted, path, st.uid, st.mode&0o7777, t.euid)
}

func writable(path string, st lstat) error {
	return fmt.Errorf("%w: %s can be changed by others than its owner (user %d, mode %04o); run: chmod go-w %[2]s",
		errUntrusted, path, st.uid, st.mode&0o7777)
}

func (t *trust) lstat(path string) lstat {
	if st, ok := t.seen[path]; ok {
		return st
	}
	var raw unix.Stat_t
	err := retryEINTR(func() error { return unix.Lstat(path, &raw) })
	st := lstat{mode: uint32(raw.Mode), uid: raw.Uid, err: err}
	t.seen[path] = st
	return st
}

func (st lstat) openToOthers() bool {
	return st.mode&unix.S_IFMT != unix.S_IFLNK && st.mode&0o022 != 0
}
