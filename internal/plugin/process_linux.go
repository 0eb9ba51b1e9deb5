package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Plugins are short-lived and many: what runs them decides what attaching a pod
// costs. os/exec spends three goroutines and a dozen wake-ups on each. Here one
// goroutine fills stdin before the process starts, waits a moment for the end of
// the process in one system call, and reads what is in the pipes. Only a slow
// plugin is waited for through the Go runtime's poller, where it holds no thread.

const (
	// quickWait is how long the end of a plugin is waited for in a system call.
	quickWait = 5 * time.Millisecond
	// drainAtOnce bounds what is read of a pipe in one go, in bytes. No pipe of an
	// ordinary plugin holds more.
	drainAtOnce = 1 << 20
)

// processes runs plugins' processes.
type processes struct {
	pidfd bool // the kernel has process descriptors that can be waited on

	openPidfd func(pid, flags int) (int, error)
	identity  func(process) identity
	environ   func(pid int) ([]byte, error)

	identityWait, environWait time.Duration
}

// newProcesses tries process descriptors on this process. Linux has had all of
// them since 5.4; systems that pass for Linux have a part.
func newProcesses() processes {
	p := processes{
		openPidfd: unix.PidfdOpen, identity: readIdentity, environ: readEnviron,
		identityWait: identityWait, environWait: environWait,
	}
	if fd, err := unix.PidfdOpen(unix.Getpid(), 0); err == nil {
		defer unix.Close(fd)
		// We are not our own child: a kernel that can wait on a descriptor says so.
		err = unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil)
		p.pidfd = errors.Is(err, unix.ECHILD)
	}
	return p
}

// run runs one. An error says that it did not start.
func (p processes) run(ctx context.Context, c *command) (ended, error) {
	if !p.pidfd {
		return runCommand(ctx, c)
	}
	ch, err := startChild(c)
	if err != nil {
		return ended{}, err
	}
	ch.quick()
	c.started() // this one is gone, or slow
	if ch.handle(); ch.exited && ch.drained() {
		return ch.reap(nil), nil
	}
	w, err := newWaker(ch.fds)
	if err != nil { // no descriptors, or no memory
		signalGroup(ch.pid, true)
		return ch.reap(fmt.Errorf("it cannot be waited for: %w", err)), nil
	}
	return ch.supervise(ctx, w), nil
}

// The descriptors of a child: our ends of its pipes, and the process.
const (
	stdin = iota
	stdout
	stderr
	pidfd
)

// child is a plugin's process. One goroutine owns it.
type child struct {
	pid    int
	fds    [4]int // -1 when closed
	exited bool   // it ended, and waits to be reaped
	unsent []byte // of its stdin
	out    capture
	errs   tail
	buf    [2 << 10]byte
}

// startChild starts the process with as much of stdin written as its pipe takes.
func startChild(c *command) (*child, error) {
	ch := &child{fds: [4]int{-1, -1, -1, -1}, unsent: c.stdin, out: capture{full: c.tooMuch}}
	theirs := [3]int{-1, -1, -1}
	defer func() { closeFDs(theirs[:]...) }()
	for i := range theirs {
		var ends [2]int // for reading and for writing
		err := unix.Pipe2(ends[:], unix.O_CLOEXEC)
		if err == nil {
			theirs[i], ch.fds[i] = ends[0], ends[1]
			if i != stdin {
				theirs[i], ch.fds[i] = ends[1], ends[0]
			}
			err = unix.SetNonblock(ch.fds[i], true) // which is of our end only
		}
		if err != nil {
			closeFDs(ch.fds[:]...)
			return nil, err
		}
	}
	ch.send()

	attr := groupAttr()
	attr.PidFD = &ch.fds[pidfd]
	pid, err := syscall.ForkExec(c.path, []string{c.path}, &syscall.ProcAttr{
		Env:   c.env,
		Files: []uintptr{uintptr(theirs[stdin]), uintptr(theirs[stdout]), uintptr(theirs[stderr])},
		Sys:   attr,
	})
	if err != nil {
		closeFDs(ch.fds[:]...)
		return nil, err
	}
	ch.pid = pid
	if ch.fds[pidfd] < 0 {
		// The kernel ignored the flag. The process is not reaped yet, so that its
		// number is its own.
		if ch.fds[pidfd], err = unix.PidfdOpen(pid, 0); err != nil {
			ch.fds[pidfd] = -1
			signalGroup(pid, true)
			ch.reap(nil)
			return nil, err
		}
	}
	return ch, nil
}

func closeFDs(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (ch *child) close(i int) {
	closeFDs(ch.fds[i])
	ch.fds[i] = -1
}

// drained reports whether nobody holds the child's stdout and stderr any more.
func (ch *child) drained() bool { return ch.fds[stdout] < 0 && ch.fds[stderr] < 0 }

// send writes what the child's stdin takes. It closes the pipe when that was
// all, or when nobody reads any more.
func (ch *child) send() {
	for len(ch.unsent) > 0 && ch.fds[stdin] >= 0 {
		n, err := unix.Write(ch.fds[stdin], ch.unsent)
		switch {
		case err == nil:
			ch.unsent = ch.unsent[n:]
		case errors.Is(err, unix.EAGAIN):
			return
		case !errors.Is(err, unix.EINTR):
			ch.unsent = nil
		}
	}
	ch.close(stdin)
}

// quick waits a moment for the child's end. Its output stays in the pipes: most
// of it fits, and who prints more is read soon enough.
func (ch *child) quick() {
	if len(ch.unsent) > 0 {
		return
	}
	fds := []unix.PollFd{{Fd: int32(ch.fds[pidfd]), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(quickWait/time.Millisecond))
	ch.exited = err == nil && n > 0
}

// poll reports whether something happened to the child, and notes its end.
func (ch *child) poll() bool {
	fds := [...]unix.PollFd{
		{Fd: int32(ch.fds[pidfd]), Events: unix.POLLIN},
		{Fd: int32(ch.fds[stdin]), Events: unix.POLLOUT},
		{Fd: int32(ch.fds[stdout]), Events: unix.POLLIN},
		{Fd: int32(ch.fds[stderr]), Events: unix.POLLIN},
	}
	if ch.exited {
		fds[0].Fd = -1 // which poll skips
	}
	n, err := unix.Poll(fds[:], 0)
	ch.exited = ch.exited || err == nil && fds[0].Revents != 0
	return err == nil && n > 0 // EINTR, or no memory: the next poll sees it
}

// handle moves what can be moved without waiting. After the child's end all that
// it wrote is in the pipes: none of that is left unread, whoever holds them.
func (ch *child) handle() {
	if ch.exited {
		ch.close(stdin)
	}
	if ch.fds[stdin] >= 0 {
		ch.send()
	}
	ch.drain(stdout, &ch.out)
	ch.drain(stderr, &ch.errs)
}

// drain closes a pipe that is at its end.
func (ch *child) drain(i int, to io.Writer) {
	for left := drainAtOnce; ch.fds[i] >= 0 && left > 0; {
		n, err := unix.Read(ch.fds[i], ch.buf[:])
		switch {
		case n > 0:
			_, _ = to.Write(ch.buf[:n])
			left -= n
		case errors.Is(err, unix.EAGAIN):
			return
		case !errors.Is(err, unix.EINTR):
			ch.close(i)
		}
	}
}

// supervise sees a child to its end that did not come at once.
func (ch *child) supervise(ctx context.Context, w waker) ended {
	defer w.Close()
	defer context.AfterFunc(ctx, w.wake)()
	var (
		stopped error     // why it must end
		due     time.Time // when to go on although nothing happened; zero: never
	)
	if ch.exited {
		due = time.Now().Add(drainGrace)
	}
	for {
		// The deadline comes first: a context that ends later wakes us, and one
		// that ended before is seen here.
		_ = w.SetReadDeadline(due)
		now := time.Now()
		passed := !due.IsZero() && !now.Before(due)
		switch {
		case ch.exited && (passed || ch.out.over || ch.drained()):
			return ch.reap(stopped)
		case ch.exited:
		case stopped == nil && ctx.Err() != nil:
			stopped = contextError(ctx)
			due = now.Add(termGrace)
			if ch.out.over {
				due = now // no time for who floods
			} else {
				signalGroup(ch.pid, false)
			}
			continue
		case passed:
			// Whoever called gives up when this does not help. We do not: the child
			// must be reaped.
			signalGroup(ch.pid, true)
			due = time.Time{}
			continue
		}
		running := !ch.exited
		if !w.wait(ch) {
			continue
		}
		ch.handle()
		if ch.exited && running {
			due = time.Now().Add(drainGrace)
			if stopped != nil {
				signalGroup(ch.pid, true) // the children of a plugin that heeded TERM
			}
		}
	}
}

// reap takes the child's exit status and closes what is left of it. Whoever
// prints too much may still do so: its group goes first, while the group's number
// cannot be another's.
func (ch *child) reap(stopped error) ended {
	end := ended{exit: -1, failed: stopped}
	if ch.out.over && stopped == nil {
		end.failed = ErrOutputTooLarge
		signalGroup(ch.pid, true)
	}
	var status syscall.WaitStatus
	_, err := syscall.Wait4(ch.pid, &status, 0, nil)
	for errors.Is(err, unix.EINTR) {
		_, err = syscall.Wait4(ch.pid, &status, 0, nil)
	}
	switch {
	case err != nil:
		end.failed = errors.Join(end.failed, lost(err))
	case status.Signaled():
		end.signal = "signal: " + status.Signal().String()
	default:
		end.exit = status.ExitStatus()
	}
	end.stdout, end.stderr = ch.out.buf, ch.errs.String()
	closeFDs(ch.fds[:]...)
	return end
}

// waker waits for something to happen to a child in the Go runtime's poller,
// which holds no thread: all of the child's descriptors are in one of epoll's,
// which can itself be polled.
type waker struct {
	*os.File
	conn syscall.RawConn
}

func newWaker(fds [4]int) (waker, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return waker{}, err
	}
	err = unix.SetNonblock(fd, true) // os hands what does not block to the poller
	for i, of := range fds {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(of)}
		if i == stdin {
			event.Events = unix.EPOLLOUT
		}
		if of >= 0 && err == nil {
			err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, of, &event)
		}
	}
	file := os.NewFile(uintptr(fd), "epoll")
	conn, connErr := file.SyscallConn()
	if err = errors.Join(err, connErr, file.SetReadDeadline(time.Time{})); err != nil {
		_ = file.Close()
	}
	return waker{file, conn}, err
}

// wake ends a wait now or, until the next SetReadDeadline, in future.
func (w waker) wake() { _ = w.SetReadDeadline(time.Unix(1, 0)) } // newWaker saw that it works

// wait reports whether there is something to handle. It may return without.
func (w waker) wait(ch *child) (found bool) {
	// Only what poll finds counts; the poller's word is but the occasion to look.
	err := w.conn.Read(func(uintptr) bool {
		found = ch.poll()
		return found
	})
	if err != nil { // the deadline, which may have come before a look
		found = ch.poll()
	}
	return found
}
