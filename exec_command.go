package podcni

import (
	"bytes"
	"context"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// runCommand runs a plugin by way of os/exec, on platforms and kernels that have
// no better one. It costs a goroutine for each pipe. started is called once the
// process is, or could not be, started.
func runCommand(ctx context.Context, inv *invocation, attr *syscall.SysProcAttr, limit time.Time, started func()) (ended, error) {
	stdout, stderr := &stdoutWriter{over: make(chan struct{})}, &stderrWriter{}
	cmd := &exec.Cmd{
		Path: inv.path, Args: []string{inv.path}, Env: inv.env, SysProcAttr: attr,
		Stdin: bytes.NewReader(inv.stdin), Stdout: stdout, Stderr: stderr,
		WaitDelay: drainGrace, // without a context it counts from the process's end
	}
	err := cmd.Start()
	started()
	if err != nil {
		return ended{}, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	end := ended{exit: -1}
	over, alarm := stdout.over, time.NewTimer(time.Hour)
	defer alarm.Stop()
	if limit.IsZero() {
		alarm.Stop()
	} else {
		alarm.Reset(time.Until(limit))
	}
	ctxDone, killed := ctx.Done(), false
	// What is signalled here may have been reaped a moment ago. Numbers of
	// processes come round again much later than that.
	stop := func(why error, kill bool) {
		if end.stopped == nil {
			end.stopped = why
		}
		ctxDone, killed = nil, kill
		endGroup(cmd.Process, kill)
		if kill {
			alarm.Reset(killGrace)
		} else {
			alarm.Reset(termGrace)
		}
	}
	for running := true; running; {
		select {
		case err = <-exited:
			running = false
		case <-ctxDone:
			stop(contextError(ctx), false)
		case <-over:
			over = nil
			stop(ErrOutputTooLarge, true)
		case <-alarm.C:
			if killed {
				end.lost, running = errUnkilled, false // reaped above, whenever it ends
				break
			}
			stop(errTimeLimit, end.stopped != nil)
		}
	}
	end.stdout, end.stderr = stdout.bytes(), stderr.String()
	if stdout.isOver() && end.stopped == nil {
		end.stopped = ErrOutputTooLarge
	}
	if end.lost != nil {
		return end, nil
	}
	if end.stopped != nil && !killed {
		endGroup(cmd.Process, true) // the children of a plugin that heeded TERM
	}
	if cmd.ProcessState == nil {
		end.lost = err
		return end, nil
	}
	if end.exit = cmd.ProcessState.ExitCode(); end.exit < 0 {
		end.signal = cmd.ProcessState.String()
	}
	return end, nil
}

// stdoutWriter is a capture that os/exec can write to. mu guards it: what is
// left of a plugin that could not be killed may go on writing.
type stdoutWriter struct {
	over chan struct{} // closed when there was too much

	mu sync.Mutex
	c  capture
}

func (w *stdoutWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wasOver := w.c.over
	fill(&w.c, b)
	if w.c.over && !wasOver {
		close(w.over)
	}
	return len(b), nil
}

func (w *stdoutWriter) isOver() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.c.over
}

func (w *stdoutWriter) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.c.bytes())
}

// stderrWriter is a tail that os/exec can write to, with mu as in stdoutWriter.
type stderrWriter struct {
	mu sync.Mutex
	t  tail
}

func (w *stderrWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fill(&w.t, b)
	return len(b), nil
}

func (w *stderrWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.t.String()
}

// fill puts all of b into s.
func fill(s sink, b []byte) {
	for len(b) > 0 {
		n := copy(s.room(), b)
		s.took(n)
		b = b[n:]
	}
}
