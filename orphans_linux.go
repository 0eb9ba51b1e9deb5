package podcni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxEnviron   = 1 << 20               // bytes read of a process's environment
	longestBirth = time.Second           // that a process may take from fork to exec
	orphanWindow = 20 * time.Millisecond // between two looks at what was told to end
)

// orphans finds plugins that a runtime which died left at work. They are known
// by their environment: every plugin has its sandbox, its namespace and its
// interface there. The zero value is ready.
type orphans struct {
	mu    sync.Mutex // guards what follows, and keeps searches from coinciding
	found []orphan
	// searched are the writers that were dead already when found was made: what
	// they left is among it.
	searched map[writerID]bool
}

// orphan is a process that looks like a plugin at ADD or DEL.
type orphan struct {
	pid                          int
	verb, sandbox, ifName, netNS string
	path                         string // CNI_PATH
}

// isOf says whether the process may still work on the attachment. An ADD that is
// over may have left a daemon, which has its environment too, and which others
// may need by now: it is its plugin's to end. A DEL may have been given no
// namespace, and is then known by where our plugins are.
func (o *orphan) isOf(rec *record, path string) bool {
	if o.sandbox != rec.ContainerID || o.ifName != rec.IfName {
		return false
	}
	if o.verb == verbDel {
		return o.netNS == rec.NetNS || o.netNS == "" && o.path == path
	}
	return o.netNS == rec.NetNS && rec.State != stateAttached
}

// end ends what still runs for the attachment, and waits until it is gone. path is
// the CNI_PATH that our plugins get.
func (o *orphans) end(ctx context.Context, log *slog.Logger, rec *record, path string) error {
	var errs []error
	for _, found := range o.search(ctx, rec) {
		if !found.isOf(rec, path) {
			continue
		}
		log.Warn("ending a plugin that an earlier runtime left at work",
			"pid", found.pid, "sandbox", rec.ContainerID, "interface", rec.IfName)
		if err := endOrphan(ctx, found.pid, rec, path); err != nil {
			errs = append(errs, fmt.Errorf("process %d: %w", found.pid, err))
		}
	}
	return errors.Join(errs...)
}

// search lists the processes that look like plugins. Whoever dies while it works
// on an attachment has put its name on the record before: once a search has come
// after a writer's death, it will do for all that this writer left attached, so
// that a thousand teardowns after a restart do not mean a thousand searches.
// Nothing outlives a reboot.
func (o *orphans) search(ctx context.Context, rec *record) []orphan {
	w := rec.Writer
	if w.BootID != "" && w.BootID != bootID() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if rec.State == stateAttached && o.searched[w] {
		return o.found
	}
	dead := !w.alive()
	var unborn bool
	for began := time.Now(); ; {
		o.found, unborn = listOrphans()
		if !unborn || ctx.Err() != nil || time.Since(began) > longestBirth {
			break
		}
		timer := time.NewTimer(orphanWindow)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	if dead {
		if o.searched == nil {
			o.searched = make(map[writerID]bool)
		}
		o.searched[w] = true
	}
	return o.found
}

// listOrphans looks at every process. What cannot be read is another user's, and
// so none that we could have started. One of our own process group is none
// either: we may ourselves be part of a plugin, and it what runs us. unborn says
// that there is one which may be about to become a plugin: a runtime has forked
// it, and it has not come to its exec yet, so that it still looks like the
// runtime but has one thread, where a Go program has several.
func listOrphans() (all []orphan, unborn bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, false
	}
	exe, exeErr := os.Stat("/proc/self/exe")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if found, ok := readOrphan(pid); ok && !withUs(pid) {
			all = append(all, found)
			continue
		}
		if exeErr != nil || unborn {
			continue
		}
		if other, err := os.Stat(filepath.Join("/proc", e.Name(), "exe")); err == nil && os.SameFile(exe, other) {
			tasks, err := os.ReadDir(filepath.Join("/proc", e.Name(), "task"))
			unborn = err == nil && len(tasks) == 1
		}
	}
	return all, unborn
}

func withUs(pid int) bool {
	group, err := unix.Getpgid(pid)
	return err == nil && group == unix.Getpgrp()
}

// readOrphan reads a process's environment.
func readOrphan(pid int) (found orphan, ok bool) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return orphan{}, false
	}
	defer f.Close()
	env, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return orphan{}, false
	}
	found.pid = pid
	for v := range bytes.SplitSeq(env, []byte{0}) {
		name, value, _ := bytes.Cut(v, []byte{'='})
		switch string(name) {
		case "CNI_COMMAND":
			found.verb = string(value)
		case "CNI_CONTAINERID":
			found.sandbox = string(value)
		case "CNI_IFNAME":
			found.ifName = string(value)
		case "CNI_NETNS":
			found.netNS = string(value)
		case "CNI_PATH":
			found.path = string(value)
		}
	}
	return found, found.verb == verbAdd || found.verb == verbDel
}

// endOrphan tells the process to end, kills it if it does not, and waits for it
// to be gone. The descriptor keeps the number from meaning another process.
func endOrphan(ctx context.Context, pid int, rec *record, path string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if now, ok := readOrphan(pid); !ok || !now.isOf(rec, path) {
		return nil // another process has the number
	}
	// A plugin leads its process group; its helpers are in it.
	tell := func(sig unix.Signal) {
		if pgid, err := unix.Getpgid(pid); err == nil && pgid == pid {
			_ = unix.Kill(-pid, sig) // it may have ended just now
			return
		}
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	tell(unix.SIGTERM)
	told := time.Now()
	killed := false
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(orphanWindow.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		switch late := time.Since(told); {
		case !killed && late > termGrace:
			tell(unix.SIGKILL)
			killed = true
		case late > termGrace+killGrace:
			return errUnkilled
		}
	}
}
