package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/podcni/podcni"
)

const (
	// cleanUpTime bounds what is done after the command, whatever ended it. The
	// plugins have limits of their own within it.
	cleanUpTime = 5 * time.Minute
	// killAfter is how long the command has to end once it was told to.
	killAfter = 10 * time.Second
	// signalled is what shells add to the number of the signal that ended a
	// command.
	signalled = 128
)

// runCommand makes a namespace, attaches it, runs a command in it, and undoes
// all that however the command ends.
func runCommand(ctx context.Context, e *env) (err error) {
	if len(e.args) == 0 {
		return usageError("there is no command to run")
	}
	if e.id == "" {
		e.id = "attach-" + strings.ToLower(rand.Text()[:12])
	}
	return e.with(func(p *podcni.CNI) (err error) {
		ns, err := e.makeNetNS()
		if err != nil {
			return err
		}
		defer func() { err = e.also(err, ns.Remove()) }()
		pod, err := e.pod(p.GetDefaultNetworkName())
		if err != nil {
			return err
		}
		pod.NetNS = ns.Path()
		results, err := e.attachWithin(ctx, p, pod)
		if err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
			defer cancel()
			err = e.also(err, p.TearDownPodWithContext(ctx, pod))
		}()
		// The command's output is its own: what we have to say goes elsewhere.
		if err := e.printResults(e.stderr, pod, results); err != nil {
			return err
		}
		return e.execute(ctx, ns)
	}, podcni.WithoutWatch())
}

// attachWithin attaches the pod within --timeout.
func (e *env) attachWithin(ctx context.Context, p *podcni.CNI, pod podcni.PodNetwork) ([]podcni.NetResult, error) {
	if e.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.timeout)
		defer cancel()
	}
	return p.SetUpPodWithContext(ctx, pod)
}

// also adds an error of the clean-up. The command's own status wins if it has
// failed; the error is then reported here.
func (e *env) also(err, cleanUp error) error {
	var exit statusError
	if cleanUp != nil && errors.As(err, &exit) {
		e.complain(cleanUp)
		return err
	}
	return errors.Join(err, cleanUp)
}

// execute runs the command in the namespace. The error is a statusError if the
// command ran and did not succeed.
func (e *env) execute(ctx context.Context, ns *podcni.NetNS) error {
	cmd := exec.CommandContext(ctx, e.args[0], e.args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	// A process is born into the namespace of the thread that starts it.
	if err := ns.Do(cmd.Start); err != nil {
		return fmt.Errorf("cannot run %s: %w", e.args[0], err)
	}
	waitErr := cmd.Wait()
	if cmd.ProcessState == nil {
		return waitErr
	}
	// Wait's error may also tell of the context or of a pipe that somebody else
	// still holds; the command's own status is what counts.
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return statusError(signalled + int(status.Signal()))
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return statusError(code)
	}
	return nil
}
