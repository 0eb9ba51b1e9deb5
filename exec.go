package podcni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"
)

// The verbs of the specification.
const (
	verbAdd     = "ADD"
	verbDel     = "DEL"
	verbCheck   = "CHECK"
	verbGC      = "GC"
	verbStatus  = "STATUS"
	verbVersion = "VERSION"
)

var knownVerbs = map[string]struct{}{
	verbAdd: {}, verbDel: {}, verbCheck: {}, verbGC: {}, verbStatus: {}, verbVersion: {},
}

const (
	// termGrace is what a plugin that is being ended has between TERM and KILL.
	termGrace = 2 * time.Second
	// killGrace is how long the end of a killed plugin is waited for: one that
	// the kernel cannot end, say on a dead NFS server, must not hold its pod.
	killGrace = 2 * time.Second
	// drainGrace is how long a pipe is read on after the plugin's end when some
	// other process still holds it open.
	drainGrace = 100 * time.Millisecond
	// busyDelay is between two tries to start a binary that is being written.
	busyDelay = 50 * time.Millisecond
	// startsPerCPU bounds how many processes are started at the same moment: a
	// stampede of forks costs more than taking turns.
	startsPerCPU = 4
)

// invocation is one run of one plugin.
type invocation struct {
	verb        string
	network     string
	plugin      string // its type
	path        string // its binary
	containerID string
	ifName      string
	env         []string // complete: CNI_* and what WithPluginEnv lets through
	stdin       []byte
}

// output is what a run of a plugin left.
type output struct {
	stdout []byte
	stderr string // its end
	exit   int
	notRun bool // for certain: it was not started
}

// fail makes an error of what is wrong with the plugin or its answer.
func (inv *invocation) fail(out output, err error) *PluginError {
	return &PluginError{
		Verb: inv.verb, Network: inv.network, Plugin: inv.plugin, Path: inv.path,
		ContainerID: inv.containerID, IfName: inv.ifName,
		Stderr: out.stderr, Exit: out.exit, Err: err,
	}
}

// slotter bounds how many plugins run at once.
type slotter interface {
	acquire(ctx context.Context, verb string) error
	release()
}

// runner runs plugins. It is never changed once made, and safe for concurrent
// use.
type runner struct {
	opts   *options
	slots  slotter  // nil: no bound
	env    []string // what WithPluginEnv lets through, and CNI_PATH
	procs  processes
	starts chan struct{}
}

// newRunner makes a runner; slots may be nil.
func newRunner(o *options, slots slotter) *runner {
	return &runner{
		opts:   o,
		slots:  slots,
		env:    baseEnv(o.pluginEnv, o.binDirs, os.Environ()),
		procs:  newProcesses(),
		starts: make(chan struct{}, startsPerCPU*runtime.GOMAXPROCS(0)),
	}
}

// ended is what is known of a process that came to its end.
type ended struct {
	stdout []byte
	stderr string
	exit   int    // -1 when it did not exit by itself, or lost is set
	signal string // what ended it, when a signal did
	// stopped is why it was ended by us: errTimeLimit, ErrOutputTooLarge or the
	// context's error. nil when it ended by itself.
	stopped error
	// lost is why nothing is known of how it ended.
	lost error
}

var (
	errTimeLimit = errors.New("time limit of the verb")
	errUnkilled  = errors.New("it does not end although it was killed")
	errNoAnswer  = errors.New("it printed no error")
)

// run runs the plugin once; a binary that is being written is tried again until
// it can be started. It returns once the plugin's process is gone, at the latest
// about four seconds after ctx or the verb's time is over. The error is a
// *PluginError, and then the output is what there was of it.
func (r *runner) run(ctx context.Context, inv *invocation) (output, error) {
	if ctx.Err() != nil {
		return inv.notRun(contextError(ctx))
	}
	// Questions about the node wait for no pod, and no pod for them: with every
	// slot taken by plugins that hang, Status must still answer.
	if r.slots != nil && inv.verb != verbStatus && inv.verb != verbVersion {
		if err := r.slots.acquire(ctx, inv.verb); err != nil {
			return inv.notRun(err)
		}
		defer r.slots.release()
	}
	if r.opts.exec != nil {
		return r.runExec(ctx, inv)
	}

	var limit time.Time
	if d := r.opts.timeouts[inv.verb]; d > 0 {
		limit = time.Now().Add(d)
	}
	for {
		end, err := r.attempt(ctx, inv, limit)
		if err == nil {
			return r.finish(ctx, inv, end)
		}
		if !isBusy(err) {
			return inv.notRun(err)
		}
		if stop := sleepUntil(ctx, busyDelay, limit); stop != nil {
			out, perr := inv.notRun(fmt.Errorf("%w: %w", stopCause(stop), err))
			perr.TimedOut = errors.Is(stop, errTimeLimit)
			return out, perr
		}
	}
}

// attempt starts the process and waits for its end. An error says that it did
// not start.
func (r *runner) attempt(ctx context.Context, inv *invocation, limit time.Time) (ended, error) {
	select {
	case r.starts <- struct{}{}:
	case <-ctx.Done():
		return ended{}, contextError(ctx)
	}
	started := func() { <-r.starts }
	if ctx.Err() != nil {
		started()
		return ended{}, contextError(ctx)
	}
	end, err := r.procs.run(ctx, inv, limit, started)
	return end, startError(inv.path, err)
}

// notRun is the answer for a plugin that was not started.
func (inv *invocation) notRun(err error) (output, *PluginError) {
	out := output{exit: -1, notRun: true}
	return out, inv.fail(out, err)
}

// finish makes an answer of a process's end.
func (r *runner) finish(ctx context.Context, inv *invocation, end ended) (output, error) {
	out := output{stdout: end.stdout, stderr: end.stderr, exit: end.exit}
	if out.stderr != "" && r.opts.log.Enabled(ctx, slog.LevelDebug) {
		r.opts.log.LogAttrs(ctx, slog.LevelDebug, "plugin wrote to stderr",
			slog.String("plugin", inv.plugin), slog.String("verb", inv.verb),
			slog.String("network", inv.network), slog.String("sandbox", inv.containerID),
			slog.String("interface", inv.ifName), slog.String("stderr", strings.TrimSpace(out.stderr)))
	}
	if err := verdict(inv.verb, end); err != nil {
		perr := inv.fail(out, err)
		perr.TimedOut = errors.Is(end.stopped, errTimeLimit)
		return out, perr
	}
	return out, nil
}

// contextError is ctx's error, with its cause where that says more.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// overdue is why a plugin that still runs must end, nil while it may go on. A
// zero limit never comes.
func overdue(ctx context.Context, limit, now time.Time) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	if !limit.IsZero() && !now.Before(limit) {
		return errTimeLimit
	}
	return nil
}

// sleepUntil sleeps for d, and says why when it was cut short.
func sleepUntil(ctx context.Context, d time.Duration, limit time.Time) error {
	now := time.Now()
	if !limit.IsZero() && limit.Before(now.Add(d)) {
		d = limit.Sub(now)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return overdue(ctx, limit, time.Now())
}

// runExec runs the plugin through WithExec's.
func (r *runner) runExec(ctx context.Context, inv *invocation) (output, error) {
	limited, cancel := r.opts.verbTimeout(ctx, inv.verb)
	defer cancel()
	stdout, err := r.opts.exec.ExecPlugin(limited, inv.path, inv.stdin, inv.env)
	end := ended{stdout: stdout}
	if len(stdout) > maxStdout {
		end.stdout, end.stopped = stdout[:maxStdout], ErrOutputTooLarge
	}
	if err == nil {
		return r.finish(ctx, inv, end)
	}

	out := output{stdout: end.stdout, exit: -1}
	late := limited.Err() != nil && ctx.Err() == nil
	switch {
	case late && !errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%w: %w", stopCause(errTimeLimit), err)
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		err = fmt.Errorf("%w: %w", contextError(ctx), err)
	}
	perr := inv.fail(out, err)
	perr.TimedOut = late
	return out, perr
}
