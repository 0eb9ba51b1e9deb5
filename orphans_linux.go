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
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxEnviron   = 1 << 20 // bytes read of a process's environment
	orphanGrace  = 2 * time.Second
	orphanWindow = 20 * time.Millisecond // between two looks at what was told to end
)

// endOrphans ends plugins that a runtime which died left at work on the
// attachment, and waits until they are gone. They are known by their
// environment: every plugin has the sandbox, its namespace and the interface
// there.
func endOrphans(ctx context.Context, log *slog.Logger, rec *record) error {
	var errs []error
	for _, pid := range pluginsOf(rec) {
		log.Warn("ending a plugin that an earlier runtime left at work",
			"pid", pid, "sandbox", rec.ContainerID, "interface", rec.IfName)
		if err := endOrphan(ctx, pid, rec); err != nil {
			errs = append(errs, fmt.Errorf("process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// pluginsOf lists the processes of the attachment's plugins. What cannot be read
// is another user's, and so none that we could have started.
func pluginsOf(rec *record) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && isPluginOf(pid, rec) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func isPluginOf(pid int, rec *record) bool {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	defer f.Close()
	env, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return false
	}
	has := func(v string) bool {
		return bytes.HasPrefix(env, []byte(v+"\x00")) || bytes.Contains(env, []byte("\x00"+v+"\x00"))
	}
	return has("CNI_CONTAINERID="+rec.ContainerID) && has("CNI_IFNAME="+rec.IfName) && has("CNI_NETNS="+rec.NetNS) &&
		(has("CNI_COMMAND=ADD") || has("CNI_COMMAND=DEL"))
}

// endOrphan tells the process to end, kills it if it does not, and waits for it
// to be gone. The descriptor keeps the number from meaning another process.
func endOrphan(ctx context.Context, pid int, rec *record) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !isPluginOf(pid, rec) {
		return nil
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
	kill := time.Now().Add(orphanGrace)
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
		if !killed && time.Now().After(kill) {
			tell(unix.SIGKILL)
			killed = true
		}
	}
}
