package podcni

import (
	"context"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supervise sees a child to its end that did not come at once.
func (c *child) supervise(ctx context.Context, limit time.Time, w *waker) ended {
	unwatch := context.AfterFunc(ctx, w.wake)
	defer unwatch()

	due := limit // when to go on although nothing happened; zero is never
	if c.exited {
		due = time.Now().Add(drainGrace)
	}
	for {
		// The deadline comes first: a context that ends later wakes us, one that
		// ended before is seen here.
		w.setDeadline(due)
		now := time.Now()
		passed := !due.IsZero() && !now.Before(due)
		switch {
		case c.exited:
			if passed || c.out.over || c.stdout < 0 && c.stderr < 0 {
				w.close()
				return c.reap()
			}
		case c.out.over && !c.killed:
			c.stop(ErrOutputTooLarge, true)
			due = now.Add(killGrace)
			continue
		case c.end.stopped == nil:
			if why := overdue(ctx, limit, now); why != nil {
				c.stop(why, false)
				due = now.Add(termGrace)
				continue
			}
		case passed && !c.killed:
			c.stop(nil, true)
			due = now.Add(killGrace)
			continue
		case passed:
			return c.abandon(w)
		}

		if !w.wait(c) {
			continue
		}
		running := !c.exited
		c.handle()
		if c.exited && running {
			due = time.Now().Add(drainGrace)
			if c.end.stopped != nil {
				c.stop(nil, true) // the children of a plugin that heeded TERM
			}
		}
	}
}

// stop sends TERM or KILL to the child's group, whose number is its own as long
// as the child is not reaped.
func (c *child) stop(why error, kill bool) {
	if c.end.stopped == nil {
		c.end.stopped = why
	}
	c.killed = c.killed || kill
	signalGroup(c.pid, kill)
}

// abandon gives up on a child that KILL does not end, as one that is stuck in the
// kernel. It is reaped whenever it ends.
func (c *child) abandon(w *waker) ended {
	end := c.end
	end.exit, end.lost = -1, errUnkilled
	end.stdout, end.stderr = c.out.bytes(), c.errs.String()
	go func() {
		for !c.exited {
			w.setDeadline(time.Time{})
			if w.wait(c) {
				c.handle()
			}
		}
		w.close()
		c.reap()
	}()
	return end
}

// waker waits for something to happen to a child in the Go runtime's poller,
// which holds no thread: all of the child's descriptors are in one of epoll's,
// which itself can be polled.
type waker struct {
	file *os.File // nil if it could not be had
	conn syscall.RawConn
}

// pollSlice is how long a waker without epoll holds a thread before it looks
// around.
const pollSlice = 20 * time.Millisecond

func newWaker(c *child) *waker {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return &waker{}
	}
	for _, of := range []struct {
		fd     int
		events uint32
	}{
		{c.pidfd, unix.EPOLLIN}, {c.stdin, unix.EPOLLOUT}, {c.stdout, unix.EPOLLIN}, {c.stderr, unix.EPOLLIN},
	} {
		if of.fd < 0 {
			continue
		}
		event := unix.EpollEvent{Events: of.events, Fd: int32(of.fd)}
		if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, of.fd, &event); err != nil {
			_ = unix.Close(fd)
			return &waker{}
		}
	}
	// What does not block, os hands to the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return &waker{}
	}
	file := os.NewFile(uintptr(fd), "epoll")
	conn, err := file.SyscallConn()
	if err != nil || file.SetReadDeadline(time.Time{}) != nil {
		_ = file.Close()
		return &waker{}
	}
	return &waker{file: file, conn: conn}
}

// wake ends a wait now or, until the next setDeadline, in future.
func (w *waker) wake() {
	if w.file != nil {
		_ = w.file.SetReadDeadline(time.Unix(1, 0)) // closed: nobody waits
	}
}

// setDeadline sets when wait gives up; zero is never.
func (w *waker) setDeadline(t time.Time) {
	if w.file != nil {
		_ = w.file.SetReadDeadline(t) // newWaker saw that it works
	}
}

// wait tells whether there is something to handle. It may return without.
func (w *waker) wait(c *child) bool {
	if w.file == nil {
		return c.poll(pollTimeout(pollSlice)) > 0
	}
	found := false
	// Only the state that poll finds counts; that the poller tells of something
	// is but the occasion to look.
	err := w.conn.Read(func(uintptr) bool {
		found = c.poll(0) > 0
		return found
	})
	if err != nil { // the deadline, which may have come before a look
		found = c.poll(0) > 0
	}
	return found
}

func (w *waker) close() {
	if w.file != nil {
		_ = w.file.Close()
	}
}
