package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNS is the network namespace of the thread that opens it.
const threadNS = "/proc/thread-self/ns/net"

var errHung = errors.New("the system did not answer in time")

// onThread runs fn in a goroutine of its own, locked to its thread, and waits
// for it. fn may take its thread to another network namespace; home is the one
// that the thread comes from. The thread goes back there or ends, so that no
// other goroutine finds itself elsewhere. A panic in fn goes on in the caller,
// and so does runtime.Goexit.
//
// If ctx ends first, the error wraps that of ctx. fn then goes on, and late runs
// after it.
func onThread(ctx context.Context, fn func(home *os.File) error, late func()) error {
	var (
		err      error
		returned bool
		panicked any
	)
	done := make(chan struct{})
	goLocked(func() {
		// Last of all: nobody is away when onThread returns.
		defer func() {
			select {
			case done <- struct{}{}:
			case <-ctx.Done():
				late()
			}
		}()
		var home *os.File
		if home, err = os.Open(threadNS); err != nil {
			runtime.UnlockOSThread()
			returned = true
			return
		}
		defer func() {
			if !returned {
				panicked = recover()
			}
			// The way back is closed if another user namespace owns this process's
			// network namespace. The thread then stays locked, and ends.
			if setns(home.Fd()) == nil {
				runtime.UnlockOSThread()
			}
			_ = home.Close()
		}()
		err = fn(home)
		returned = true
	})
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errHung, ctx.Err())
	}
	switch {
	case panicked != nil:
		panic(panicked)
	case !returned:
		runtime.Goexit()
	}
	return err
}

// goLocked starts fn in a goroutine that is locked to its thread. It is never
// the main thread: that one cannot end, and others see its namespace at
// /proc/PID/ns/net.
func goLocked(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		// Hold the main thread until fn has another.
		elsewhere := make(chan struct{})
		goLocked(func() {
			close(elsewhere)
			fn()
		})
		<-elsewhere
		runtime.UnlockOSThread()
	}()
}

// setns takes the thread to a network namespace.
func setns(fd uintptr) error {
	return os.NewSyscallError("setns", unix.Setns(int(fd), unix.CLONE_NEWNET))
}
