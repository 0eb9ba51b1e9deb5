package podcni

import (
	"context"
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Plugins are short-lived and many: what runs them decides what attaching a pod
// costs. os/exec spends three goroutines and a dozen wake-ups on each. Here one
// goroutine does it all: it fills stdin before the process starts, waits on the
// process's descriptor, and reads what is in the pipes when it is gone. Only when
// that takes long, it goes on to wait through the Go runtime's poller, so that a
// slow plugin holds no thread.

const (
	// quickWait is how long the end of a plugin is waited for in a system call.
	quickWait = 5 * time.Millisecond
	// pipeBuf is what a write to an empty pipe takes without blocking, however
	// small the kernel made the pipe.
	pipeBuf = 4 << 10
)

// processes runs plugins' processes.
type processes struct {
	attr  syscall.SysProcAttr
	pidfd bool // the kernel has process descriptors that can be waited on
}

func newProcesses() processes { return processes{attr: groupAttr(), pidfd: pidfdWorks()} }

// pidfdWorks tries it on ourselves. Linux has had it all since 5.4, others that
// pass for Linux have it in part.
func pidfdWorks() bool {
	fd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	// We are not our own child, and a kernel that can wait for a descriptor at
	// all says so.
	err = unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil)
	return errors.Is(err, unix.ECHILD)
}

// run runs one. An error says that it did not start. started is called once the
// next may be.
func (p *processes) run(ctx context.Context, inv *invocation, limit time.Time, started func()) (ended, error) {
	attr := p.attr
	if !p.pidfd {
		return runCommand(ctx, inv, &attr, limit, started)
	}
	c, err := startChild(inv, &attr)
	if err != nil {
		started()
		return ended{}, err
	}
	// Those that start after us wait until this plugin is gone, or turns out to
	// be a slow one: as many processes at once as the processors can serve end
	// sooner than all of them at once.
	if len(c.unsent) == 0 {
		c.waitQuick(limit)
	}
	started()
	if c.exited && c.drained() {
		return c.reap(), nil
	}
	return c.supervise(ctx, limit, newWaker(c)), nil
}

// child is a plugin's process. One goroutine owns it.
type child struct {
	pid    int
	pidfd  int
	exited bool // it ended, and waits to be reaped
	killed bool // KILL was sent to its group

	stdin, stdout, stderr int    // our ends of its pipes; -1 when closed
	unsent                []byte // of its stdin

	polled [4]unix.PollFd // process, stdin, stdout, stderr
	out    capture
	errs   tail
	end    ended
}

// startChild starts the process with as much of stdin written as its pipe takes.
func startChild(inv *invocation, attr *syscall.SysProcAttr) (*child, error) {
	c := &child{pidfd: -1, stdin: -1, stdout: -1, stderr: -1, unsent: inv.stdin}
	var pipes [3][2]int
	for i := range pipes {
		if err := unix.Pipe2(pipes[i][:], unix.O_CLOEXEC); err != nil {
			closePipes(pipes[:i], 0)
			closePipes(pipes[:i], 1)
			return nil, err
		}
	}
	in, out, errs := &pipes[0], &pipes[1], &pipes[2]
	c.stdin, c.stdout, c.stderr = in[1], out[0], errs[0]
	if len(c.unsent) > pipeBuf {
		// The child's end stays as it is: the flag is of one end only.
		if err := unix.SetNonblock(c.stdin, true); err != nil {
			closePipes(pipes[:], 0)
			closePipes(pipes[:], 1)
			return nil, err
		}
	}
	c.send()

	attr.PidFD = &c.pidfd
	pid, err := syscall.ForkExec(inv.path, []string{inv.path}, &syscall.ProcAttr{
		Env:   inv.env,
		Files: []uintptr{uintptr(in[0]), uintptr(out[1]), uintptr(errs[1])},
		Sys:   attr,
	})
	closeFDs(&in[0], &out[1], &errs[1])
	if err != nil {
		c.pidfd = -1
		c.close()
		return nil, err
	}
	c.pid = pid
	if c.pidfd < 0 {
		// A kernel that ignores the flag. The process is not reaped yet, so that
		// its number is its own.
		if c.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			c.pidfd = -1
			signalGroup(pid, true)
			_, _ = c.wait()
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func closePipes(pipes [][2]int, end int) {
	for i := range pipes {
		closeFDs(&pipes[i][end])
	}
}

// closeFDs closes those that are open and marks them closed.
func closeFDs(fds ...*int) {
	for _, fd := range fds {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

func (c *child) close() { closeFDs(&c.stdin, &c.stdout, &c.stderr, &c.pidfd) }

// send writes what the child's stdin takes, and closes it when that was all, or
// nobody reads it any more.
func (c *child) send() {
	for c.stdin >= 0 && len(c.unsent) > 0 {
		n, err := unix.Write(c.stdin, c.unsent)
		switch {
		case err == nil:
			c.unsent = c.unsent[n:]
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return
		default:
			c.unsent = nil
		}
	}
	closeFDs(&c.stdin)
}

// waitQuick waits a moment for the child's end. Its output is left in the pipes:
// most of it fits, and who writes more is read soon enough.
func (c *child) waitQuick(limit time.Time) {
	until := time.Now().Add(quickWait)
	if !limit.IsZero() && limit.Before(until) {
		until = limit
	}
	fds := []unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, pollTimeout(time.Until(until)))
		if n > 0 {
			c.exited = true
		}
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// pollTimeout is d in milliseconds, rounded up.
func pollTimeout(d time.Duration) int {
	return int(max(0, (d+time.Millisecond-1)/time.Millisecond))
}

// drained reads what is in the pipes and tells whether their writers are gone.
func (c *child) drained() bool {
	if c.poll(0) > 0 {
		c.handle()
	}
	return c.stdout < 0 && c.stderr < 0
}

// poll waits for something to happen to the child, for so many milliseconds at
// most, and tells how many of its descriptors have something to tell.
func (c *child) poll(timeout int) int {
	pidfd := c.pidfd
	if c.exited {
		pidfd = -1 // which poll skips
	}
	c.polled = [...]unix.PollFd{
		{Fd: int32(pidfd), Events: unix.POLLIN},
		{Fd: int32(c.stdin), Events: unix.POLLOUT},
		{Fd: int32(c.stdout), Events: unix.POLLIN},
		{Fd: int32(c.stderr), Events: unix.POLLIN},
	}
	n, err := unix.Poll(c.polled[:], timeout)
	if err != nil {
		return 0 // EINTR; or no memory, and then the next try may find some
	}
	return n
}

// handle does what the last poll, which found something, asks for.
func (c *child) handle() {
	if c.polled[1].Revents != 0 {
		c.send()
	}
	if events := c.polled[2].Revents; events != 0 {
		drain(&c.stdout, events, &c.out)
	}
	if events := c.polled[3].Revents; events != 0 {
		drain(&c.stderr, events, &c.errs)
	}
	if c.polled[0].Revents != 0 {
		c.exited = true
		closeFDs(&c.stdin)
	}
}

// drain reads once, which does not block after poll, or to the end when there is
// no writer any more, and closes a pipe that is at its end.
func drain(fd *int, events int16, to sink) {
	for {
		n, err := unix.Read(*fd, to.room())
		switch {
		case n > 0:
			to.took(n)
			if events&unix.POLLHUP == 0 {
				return
			}
		case errors.Is(err, unix.EINTR):
		default:
			closeFDs(fd)
			return
		}
	}
}

// wait takes the exit status of the child, which has ended or is about to.
func (c *child) wait() (syscall.WaitStatus, error) {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(c.pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, err
		}
	}
}

// reap takes the child's status and closes what is left of it. What of its output
// is too much may still be growing: then its group goes first, while the group's
// number cannot be another's.
func (c *child) reap() ended {
	if c.out.over && c.end.stopped == nil {
		c.stop(ErrOutputTooLarge, true)
	}
	status, err := c.wait()
	c.end.exit = -1
	switch {
	case err != nil:
		c.end.lost = err // somebody else in this process reaps children
	case status.Signaled():
		c.end.signal = "signal: " + status.Signal().String()
	default:
		c.end.exit = status.ExitStatus()
	}
	c.end.stdout, c.end.stderr = c.out.bytes(), c.errs.String()
	c.close()
	return c.end
}
