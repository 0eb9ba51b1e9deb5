package plugin

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
)

// runCommand runs a plugin by way of os/exec, where there is nothing faster. An
// error says that it did not start.
func runCommand(ctx context.Context, c *command) (ended, error) {
	stdout, stderr := &capture{full: c.tooMuch}, &tail{}
	killed, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	cmd := exec.CommandContext(killed, c.path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.env, bytes.NewReader(c.stdin), stdout, stderr
	cmd.SysProcAttr = groupAttr()
	cmd.Cancel = func() error { endGroup(cmd.Process, true); return nil }
	cmd.WaitDelay = 5 * drainGrace // its readers are goroutines, which may come late
	err := cmd.Start()
	c.started()
	if err != nil {
		return ended{}, err
	}

	stopped := make(chan error, 1)
	unwatch := context.AfterFunc(ctx, func() {
		stopped <- contextError(ctx)
		if errors.Is(context.Cause(ctx), ErrOutputTooLarge) {
			kill()
			return
		}
		endGroup(cmd.Process, false)
		_ = sleep(killed, termGrace)
		kill()
	})
	err = cmd.Wait()
	end := ended{exit: -1, stdout: stdout.buf, stderr: stderr.String()}
	if !unwatch() {
		end.failed = <-stopped
		// The children of a plugin that heeded TERM. Its number may be another's by
		// now; numbers come round again much later than that.
		endGroup(cmd.Process, true)
	}
	switch {
	case cmd.ProcessState == nil:
		end.failed = errors.Join(end.failed, lost(err))
	case cmd.ProcessState.ExitCode() < 0:
		end.signal = cmd.ProcessState.String()
	default:
		end.exit = cmd.ProcessState.ExitCode()
	}
	return end, nil
}
