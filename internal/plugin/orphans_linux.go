package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/internal/proc"
	"github.com/podcni/podcni/internal/spec"
)

const (
	// identityWait and environWait bound how long the identities, and the
	// environments, of all processes together are waited for. On a busy node a
	// read takes its time; only one that hangs takes all of it.
	identityWait = 2 * time.Second
	environWait  = 5 * time.Second
	// maxLooks bounds the reads of other processes that hang. What it leaves out
	// counts as a read that hangs.
	maxLooks = 512
	// maxEnviron bounds what is read of an environment, in bytes.
	maxEnviron = 1 << 20
	// maxComm is how much of a program's name the kernel keeps, in bytes.
	maxComm = 15
	// orphanWindow is the time between two looks at ctx while orphans end.
	orphanWindow = 20 * time.Millisecond
	// orphanRounds bounds how often orphans are looked for again, since one that
	// was told to end may have started a process after it was found.
	orphanRounds = 5
)

// EndOrphans ends what still runs of the plugins that a dead runtime, writer,
// started for the attachments, all of one sandbox. It returns when they are gone.
// It blocks until ctx is over, at the latest. It signals only what is certainly a
// run of a plugin for one of the attachments. The error names the processes that
// may still work on one: those whose environment cannot be read in time, and
// those that do not end.
func (r *Runner) EndOrphans(ctx context.Context, writer proc.ID, runs []Attachment) error {
	if writer.PID <= 0 || len(runs) == 0 || !proc.SameBoot(writer.BootID, proc.BootID()) {
		return nil
	}
	for range orphanRounds {
		orphans, err := r.findOrphans(ctx, writer, runs)
		if len(orphans) == 0 {
			return err
		}
		if err := errors.Join(err, r.endAll(ctx, orphans)); err != nil {
			return err
		}
	}
	return errors.New("plugins that a dead runtime left at work start others faster than they are ended")
}

// findOrphans looks first at what nobody can imitate: the parent, the session,
// the namespaces, the executable. Only of the few that are left it reads the
// environment.
func (r *Runner) findOrphans(ctx context.Context, writer proc.ID, runs []Attachment) ([]process, error) {
	all, err := listProcesses()
	if err != nil {
		return nil, fmt.Errorf("looking for plugins that a dead runtime left at work: %w", err)
	}
	groups := r.leftBehind(ctx, all, writer)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("looking for plugins that a dead runtime left at work: %w", contextError(ctx))
	}
	if len(groups) == 0 {
		return nil, nil
	}
	// The directories of the binaries may be on a file system that hangs.
	plugins, ok := within(ctx, r, r.procs.environWait, []process{{}}, func(process) binaries { return r.identify(runs) })[0]
	if !ok {
		return nil, fmt.Errorf("looking for plugins that a dead runtime left at work, in the binary directories: %w", context.DeadlineExceeded)
	}
	var suspects []process
	for _, members := range groups {
		if slices.ContainsFunc(members, plugins.has) {
			suspects = append(suspects, members...)
		}
	}
	environs := within(ctx, r, r.procs.environWait, suspects, func(p process) environ {
		env, err := r.procs.environ(p.pid)
		return environ{env, err}
	})
	certain := func(p process) bool {
		env, ok := environs[p.pid]
		return ok && p.known && env.err == nil && r.worksOn(env.text, runs)
	}
	// Who is in the group of a leader that lives was born into it, whatever its
	// environment says.
	led := make(map[int]bool)
	for _, p := range suspects {
		led[p.group] = led[p.group] || p.pid == p.group && certain(p)
	}
	var orphans []process
	var errs []error
	for _, p := range suspects {
		env, ok := environs[p.pid]
		switch {
		case certain(p), led[p.group] && p.known:
			orphans = append(orphans, p)
		case !ok || !p.known:
			why := ctx.Err()
			if why == nil {
				why = context.DeadlineExceeded // ours
			}
			errs = append(errs, p.undecided(why))
		case env.err == nil, errors.Is(env.err, os.ErrNotExist), errors.Is(env.err, unix.ESRCH): // another's, or gone
		default:
			errs = append(errs, p.undecided(env.err))
		}
	}
	return orphans, errors.Join(errs...)
}

type environ struct {
	text []byte
	err  error
}

func (p process) undecided(err error) error {
	return fmt.Errorf("process %d (%.15q) may still work on the attachment: what it does cannot be read: %w", p.pid, p.comm, err)
}

// within calls f for each process, for all at the same time, and returns what
// came in time. What is read of a process can wait in the kernel for as long as
// somebody else wants: until an exec ends, or a page comes in. Such a read is
// left alone, and keeps its thread until then.
func within[T any](ctx context.Context, r *Runner, limit time.Duration, of []process, f func(process) T) map[int]T {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		pid   int
		value T
	}
	answers := make(chan answer, len(of))
	wanted := 0
	for _, p := range of {
		if r.looks.Add(1) > maxLooks {
			r.looks.Add(-1)
			continue
		}
		wanted++
		go func() {
			defer r.looks.Add(-1)
			answers <- answer{p.pid, f(p)}
		}()
	}
	values := make(map[int]T, len(of))
	for range wanted {
		select {
		case a := <-answers:
			values[a.pid] = a.value
			continue
		case <-ctx.Done():
		}
		break
	}
	return values
}

// process is what is known of a process.
type process struct {
	pid, parent, group, session int

	comm   string // the name of its program, 15 bytes at most
	dead   bool   // a zombie
	nested bool   // in a PID namespace below ours

	identity
	known bool // the identity is
}

// identity is what can only be read as long as the process is not in the middle
// of an exec.
type identity struct {
	start      uint64
	mount, exe string
}

func readIdentity(p process) identity {
	var id identity
	id.start, _ = proc.Start(p.pid)
	// What cannot be read is another user's, and none that we could have started.
	id.mount, _ = os.Readlink(procFile(p.pid, "ns/mnt"))
	id.exe, _ = os.Readlink(procFile(p.pid, "exe"))
	id.exe = strings.TrimSuffix(id.exe, " (deleted)")
	return id
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// listProcesses reads what never waits: /proc/PID/status asks for no permission,
// and so takes no lock of the process.
func listProcesses() (map[int]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]process)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(procFile(pid, "status"))
		if err != nil {
			continue // it is gone
		}
		p := process{pid: pid}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":\t")
			number, _, nested := strings.Cut(value, "\t") // for each PID namespace one, ours first
			n, _ := strconv.Atoi(number)
			switch key {
			case "Name":
				p.comm = value
			case "State":
				p.dead = strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X")
			case "PPid":
				p.parent = n
			case "NSpid":
				p.nested = nested
			case "NSpgid":
				p.group = n
			case "NSsid":
				p.session = n
			}
		}
		all[pid] = p
	}
	return all, nil
}

// leftBehind returns, by their process group, the processes that a dead writer
// may have left. Those that cannot be looked at are among them.
func (r *Runner) leftBehind(ctx context.Context, all map[int]process, writer proc.ID) map[int][]process {
	var suspects, ask []process
	asked := make(map[int]bool)
	for _, p := range all {
		switch {
		case p.dead, p.nested:
		case p.pid == os.Getpid(), p.group == unix.Getpgrp(): // we may ourselves be part of a plugin
		case p.session == p.pid, p.session == p.group:
			// A daemon. A plugin leads its group and has no session of its own.
		default:
			suspects = append(suspects, p)
			for _, q := range []process{p, all[p.parent]} {
				if q.pid != 0 && !asked[q.pid] {
					asked[q.pid] = true
					ask = append(ask, q)
				}
			}
		}
	}
	if len(suspects) == 0 {
		return nil
	}
	ids := within(ctx, r, r.procs.identityWait, append(ask, process{pid: os.Getpid()}), r.procs.identity)
	candidates := make(map[int]process)
	for _, p := range suspects {
		p.identity, p.known = ids[p.pid]
		if !p.known || p.start >= writer.Start && p.mount != "" && p.mount == ids[os.Getpid()].mount {
			candidates[p.pid] = p
		}
	}
	// Whoever took over the writer's children is init or a subreaper above it, and
	// older. A plugin whose own parent lives has another one. Each round adds the
	// children of those that are left.
	groups := make(map[int][]process)
	left := make(map[int]bool)
	for more := true; more; {
		more = false
		for pid, p := range candidates {
			if p.parent != 1 && !left[p.parent] {
				parent, known := ids[p.parent]
				if known && parent.start >= writer.Start {
					continue
				}
				// A parent that was not listed, and is not there, has just died.
				_, listed := all[p.parent]
				p.known = p.known && (known || !listed && unix.Kill(p.parent, 0) == unix.ESRCH)
			}
			left[pid], more = true, true
			groups[p.group] = append(groups[p.group], p)
			delete(candidates, pid)
		}
	}
	return groups
}

// binaries are what the plugins' processes can be known by.
type binaries struct{ dirs, files, comms []string }

func (r *Runner) identify(runs []Attachment) binaries {
	var b binaries
	for _, dir := range r.opts.BinDirs {
		b.dirs = append(b.dirs, filepath.Clean(dir))
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			b.dirs = append(b.dirs, real)
		}
	}
	for _, run := range runs {
		for _, typ := range run.Plugins {
			b.comms = append(b.comms, typ[:min(len(typ), maxComm)])
			if path, err := r.Find(typ); err == nil {
				if real, err := filepath.EvalSymlinks(path); err == nil {
					b.files = append(b.files, real)
				}
			}
		}
	}
	return b
}

// has reports whether the process runs a plugin's binary, or has a plugin's name:
// an interpreter that runs a plugin has no more, and neither has a process that
// cannot be looked at.
func (b *binaries) has(p process) bool {
	return slices.Contains(b.comms, p.comm) ||
		p.exe != "" && (slices.Contains(b.dirs, filepath.Dir(p.exe)) || slices.Contains(b.files, p.exe))
}

func readEnviron(pid int) ([]byte, error) {
	f, err := os.Open(procFile(pid, "environ"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxEnviron))
}

// worksOn reports whether a process with that environment works on one of the
// attachments.
func (r *Runner) worksOn(environ []byte, runs []Attachment) bool {
	env := make(map[string]string)
	for kv := range bytes.SplitSeq(environ, []byte{0}) {
		if name, value, ok := strings.Cut(string(kv), "="); ok && strings.HasPrefix(name, "CNI_") {
			env[name] = value
		}
	}
	verb, netNS := env["CNI_COMMAND"], env["CNI_NETNS"]
	return slices.ContainsFunc(runs, func(run Attachment) bool {
		if env["CNI_CONTAINERID"] != run.ContainerID || env["CNI_IFNAME"] != run.IfName {
			return false
		}
		switch verb {
		case spec.Add:
			return netNS == run.NetNS
		case spec.Del: // which may have been given no namespace
			return netNS == run.NetNS || netNS == "" && env["CNI_PATH"] == cniPath(r.opts.BinDirs)
		}
		return false
	})
}

// endAll tells the processes to end, kills those that do not, and waits until all
// are gone. A descriptor keeps a number from meaning another process.
func (r *Runner) endAll(ctx context.Context, orphans []process) error {
	var (
		errs  []error
		polls []unix.PollFd
		alive []process // as in polls
		fds   = make(map[int]int)
	)
	fail := func(p process, err error) {
		if !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("process %d (%.15q) still works on the attachment: %w", p.pid, p.comm, err))
		}
	}
	for _, p := range orphans {
		fd, err := r.procs.openPidfd(p.pid, 0)
		if err != nil {
			fail(p, os.NewSyscallError("pidfd_open", err))
			continue
		}
		defer unix.Close(fd)
		fds[p.pid] = fd
	}
	ids := within(ctx, r, r.procs.identityWait, orphans, r.procs.identity)
	for _, p := range orphans {
		fd, open := fds[p.pid]
		id, known := ids[p.pid]
		switch {
		case !open:
		case !known:
			errs = append(errs, p.undecided(context.DeadlineExceeded))
		case id.start != p.start: // it is gone, and the number is another's
		default:
			if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
				fail(p, os.NewSyscallError("pidfd_send_signal", err))
				continue
			}
			polls, alive = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}), append(alive, p)
		}
	}
	due, killed := time.Now().Add(termGrace), false
	for len(polls) > 0 {
		if _, err := unix.Poll(polls, int(orphanWindow/time.Millisecond)); err != nil && !errors.Is(err, unix.EINTR) {
			return errors.Join(append(errs, err)...)
		}
		for i := len(polls) - 1; i >= 0; i-- {
			if polls[i].Revents != 0 {
				polls, alive = slices.Delete(polls, i, i+1), slices.Delete(alive, i, i+1)
			}
		}
		why := ctx.Err()
		switch late := !time.Now().Before(due); {
		case why == nil && late && killed:
			why = errors.New("it does not end although it was killed")
		case why == nil && late:
			for _, p := range polls {
				_ = unix.PidfdSendSignal(int(p.Fd), unix.SIGKILL, nil, 0) // polled again
			}
			due, killed = time.Now().Add(killGrace), true
		}
		if why != nil {
			for _, p := range alive {
				fail(p, why)
			}
			break
		}
	}
	return errors.Join(errs...)
}
