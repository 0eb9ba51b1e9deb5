// Package plugin runs CNI plugins: it finds the binary, starts it with a fitting
// environment in a process group of its own, bounds its time and its output, and
// says how it ended. It also ends plugins that a dead runtime left at work.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"golang.org/x/sync/semaphore"

	"github.com/podcni/podcni/internal/spec"
)

var (
	// ErrNotFound says that a plugin's binary is in none of the binary
	// directories, or that the binary cannot be started as it is.
	ErrNotFound = errors.New("plugin not found")
	// ErrNoOutput says that a plugin succeeded and printed nothing although its
	// verb wants an answer.
	ErrNoOutput = errors.New("plugin printed nothing")
	// ErrBadOutput says that what a plugin printed is not what its verb answers.
	ErrBadOutput = errors.New("plugin printed something that is no answer")
	// ErrOutputTooLarge says that a plugin printed more than 4 MiB.
	ErrOutputTooLarge = errors.New("plugin printed too much")
	// ErrUnsupportedVersion says that a result is in a version of the
	// specification that libcni does not know or cannot convert.
	ErrUnsupportedVersion = spec.ErrVersion
)

const (
	// termGrace is the time between TERM and KILL for a plugin that must end.
	termGrace = 2 * time.Second
	// killGrace is how long the end of a killed plugin is waited for.
	killGrace = 2 * time.Second
	// drainGrace is how long a pipe is read after the plugin's end while some
	// other process still holds it open.
	drainGrace = 100 * time.Millisecond
	// busyDelay is the time between two tries to start a binary that is being
	// written.
	busyDelay = 50 * time.Millisecond

	// startsPerCPU bounds how many processes are started at the same moment. As many
	// as the processors can serve come to their end sooner than all at once: of 500
	// pods, 20 times as many attach in a second.
	startsPerCPU = 4

	// maxWorkers bounds the runs that have not come to their end. Each that hangs
	// in the kernel keeps a thread, and the Go runtime ends the process when
	// there are 10,000.
	maxWorkers = 4096
)

// Options say how plugins are found and run. The zero value runs none, since it
// has no directories.
type Options struct {
	// BinDirs are searched for binaries, in order. They must be absolute.
	BinDirs []string
	// Env is what of this process's environment plugins see: NAME passes a
	// variable on, PREFIX* each that begins so, "*" all, and NAME=value sets one.
	// Variables that begin with CNI_ are left out. CNI_NETNS_OVERRIDE is
	// not, where its full name is given.
	Env []string
	// Limits bound a run's time, by verb. 0 or absent: no limit.
	Limits map[string]time.Duration
	// MaxConcurrent bounds how many plugins run at once, STATUS and VERSION
	// apart. 0: no bound.
	MaxConcurrent int
	// Check refuses binaries that Find found, before they are run; nil refuses
	// none.
	Check func(path string) error
	// Exec finds and runs plugins instead of this package. It gets the time
	// limit by its context.
	Exec invoke.Exec
}

// Runner runs plugins. It is safe for concurrent use.
type Runner struct {
	opts    Options
	env     []string // what every plugin gets
	procs   processes
	starts  *semaphore.Weighted
	common  *semaphore.Weighted // nil: no bound
	setups  *semaphore.Weighted
	downs   *semaphore.Weighted
	workers atomic.Int64 // that have not come to their end
	looks   atomic.Int64 // reads of other processes, likewise
}

// New makes a runner. It reads this process's environment once, so that a
// plugin's ADD and DEL agree.
func New(o Options) *Runner {
	o.BinDirs, o.Env, o.Limits = slices.Clone(o.BinDirs), slices.Clone(o.Env), maps.Clone(o.Limits)
	r := &Runner{
		opts: o, env: baseEnv(o.Env, o.BinDirs, os.Environ()), procs: newProcesses(),
		starts: semaphore.NewWeighted(int64(startsPerCPU * runtime.GOMAXPROCS(0))),
	}
	if n := int64(o.MaxConcurrent); n > 0 {
		r.common, r.setups, r.downs = semaphore.NewWeighted(n), semaphore.NewWeighted(n), semaphore.NewWeighted(n)
	}
	return r
}

// Call is one run of one plugin.
type Call struct {
	Verb   string
	Plugin string // its type
	Path   string // its binary; empty: Find is called right before the start

	ContainerID, IfName, Args string // for ADD, DEL and CHECK; Args may be empty

	Stdin []byte
	// CNIVersion is the network's, for the result of ADD.
	CNIVersion string

	// NetNS returns CNI_NETNS; nil means that there is none. It is called right
	// before the process starts, after every wait; again only if the binary was
	// being written at that moment. With an error nothing is started.
	NetNS func(ctx context.Context) (string, error)
}

// Outcome is what is known of a run.
type Outcome struct {
	Path       string
	Stdout     []byte // for an ADD that succeeded: what CheckResult returned
	Stderr     string // its end
	Exit       int    // -1 when there is no exit status
	TimedOut   bool   // the verb's limit ended it
	NotStarted bool   // certainly
}

// limitError is the cause of a context that the verb's limit ended.
type limitError time.Duration

func (e limitError) Error() string {
	return fmt.Sprintf("the plugin's time limit of %v is over", time.Duration(e))
}

var (
	errStuck   = fmt.Errorf("%d runs of plugins hang in the kernel: is a file system dead?", maxWorkers)
	errUnknown = errors.New("it hangs in the kernel: it is not known whether it started, or it does not end although it was killed")
)

// Run runs the plugin once. It returns at the latest about four seconds after
// ctx or the verb's limit is over, whatever hangs.
//
// The error is nil when the exit status is 0 and, for ADD, Stdout holds a result
// that libcni can decode. Otherwise it wraps the plugin's own *types.Error, the
// context's error (context.DeadlineExceeded for the limit), NetNS's error,
// ErrNotFound, ErrNoOutput, ErrBadOutput, ErrOutputTooLarge or
// ErrUnsupportedVersion.
func (r *Runner) Run(ctx context.Context, c Call) (Outcome, error) {
	none := Outcome{Path: c.Path, Exit: -1, NotStarted: true}
	leave, err := r.enter(ctx, c.Verb)
	if err != nil {
		return none, err
	}
	defer leave()
	if r.workers.Add(1) > maxWorkers {
		r.workers.Add(-1)
		return none, errStuck
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if limit := r.opts.Limits[c.Verb]; limit > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, limit, limitError(limit))
		defer stop()
	}
	w := &worker{Runner: r, call: c, cancel: cancel, done: make(chan struct{})}
	go w.work(ctx)
	select {
	case <-w.done:
		return w.out, w.err
	case <-ctx.Done():
	}
	if w.phase.CompareAndSwap(preparing, abandoned) {
		w.endTurn()
		none.TimedOut = timedOut(ctx)
		return none, w.overdue(ctx)
	}
	patience := time.NewTimer(termGrace + killGrace)
	defer patience.Stop()
	select {
	case <-w.done:
		return w.out, w.err
	case <-patience.C:
		w.endTurn()
		return Outcome{Path: c.Path, Exit: -1, TimedOut: timedOut(ctx)}, fmt.Errorf("%w: %w", contextError(ctx), errUnknown)
	}
}

// enter waits for a place among those of MaxConcurrent. Each kind of verb has a
// gate of the same width before the common one: the common queue is then never
// longer than both gates, and a storm of one kind does not starve the other.
func (r *Runner) enter(ctx context.Context, verb string) (leave func(), err error) {
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	var gate *semaphore.Weighted
	switch verb {
	case spec.Add, spec.Check:
		gate = r.setups
	case spec.Del, spec.GC:
		gate = r.downs
	}
	if gate == nil {
		return func() {}, nil
	}
	if gate.Acquire(ctx, 1) != nil {
		return nil, fmt.Errorf("waiting to run a plugin: %w", contextError(ctx))
	}
	if r.common.Acquire(ctx, 1) != nil {
		gate.Release(1)
		return nil, fmt.Errorf("waiting to run a plugin: %w", contextError(ctx))
	}
	return func() {
		r.common.Release(1)
		gate.Release(1)
	}, nil
}

// What a worker is at.
const (
	preparing int32 = iota // nothing was started
	starting               // something may have been started
	abandoned              // nothing was started, nor will be
)

// worker is one run. Its goroutine does everything that can wait in the kernel:
// a file system that hangs then holds this goroutine and its thread, and not the
// caller. It goes on until the process is gone and reaped, and ends a process
// that comes up late, since its context is over by then.
type worker struct {
	*Runner
	call   Call
	cancel context.CancelCauseFunc
	phase  atomic.Int32
	turn   atomic.Pointer[func()] // gives the turn to start back; nil without one
	busy   atomic.Pointer[error]  // why the last try to start failed, if one did

	done chan struct{} // closed when out and err are set
	out  Outcome
	err  error
}

func (w *worker) work(ctx context.Context) {
	defer w.workers.Add(-1)
	defer close(w.done)
	w.out = Outcome{Path: w.call.Path, Exit: -1, NotStarted: true}
	if w.out.Path == "" {
		if w.out.Path, w.err = w.Find(w.call.Plugin); w.err != nil {
			return
		}
	}
	if w.opts.Check != nil {
		if w.err = w.opts.Check(w.out.Path); w.err != nil {
			return
		}
	}
	for {
		end, err := w.attempt(ctx)
		switch {
		case err == nil:
			w.finish(ctx, end)
		case isBusy(err) && w.phase.Load() == starting:
			w.busy.Store(&err)
			w.phase.Store(preparing)
			_ = sleep(ctx, busyDelay) // the next attempt sees the end of ctx
			continue
		default:
			w.out.TimedOut = ctx.Err() != nil && timedOut(ctx)
			w.err = err
		}
		return
	}
}

// overdue is the error of a run whose time was over before the process started.
func (w *worker) overdue(ctx context.Context) error {
	if busy := w.busy.Load(); busy != nil {
		return fmt.Errorf("%w: %w", contextError(ctx), *busy)
	}
	return contextError(ctx)
}

// attempt runs the process. An error says that it did not start.
func (w *worker) attempt(ctx context.Context) (ended, error) {
	if w.opts.Exec == nil {
		peek(w.out.Path)
	}
	if w.starts.Acquire(ctx, 1) != nil {
		return ended{}, w.overdue(ctx)
	}
	release := func() { w.starts.Release(1) }
	w.turn.Store(&release)
	defer w.endTurn()
	var netNS string
	if w.call.NetNS != nil {
		var err error
		if netNS, err = w.call.NetNS(ctx); err != nil {
			return ended{}, err
		}
	}
	env := w.environ(ctx, &w.call, netNS)
	if ctx.Err() != nil || !w.phase.CompareAndSwap(preparing, starting) {
		return ended{}, w.overdue(ctx)
	}
	if w.opts.Exec != nil {
		return w.exec(ctx, env), nil
	}
	end, err := w.procs.run(ctx, &command{
		path: w.out.Path, env: env, stdin: w.call.Stdin, started: w.endTurn,
		tooMuch: func() { w.cancel(ErrOutputTooLarge) },
	})
	return end, startError(w.out.Path, err)
}

// endTurn lets the next process start, if this one has not done so already.
func (w *worker) endTurn() {
	if release := w.turn.Swap(nil); release != nil {
		(*release)()
	}
}

// exec runs the plugin through Options.Exec.
func (w *worker) exec(ctx context.Context, env []string) ended {
	stdout, err := w.opts.Exec.ExecPlugin(ctx, w.out.Path, w.call.Stdin, env)
	end := ended{stdout: stdout}
	switch {
	case len(stdout) > maxStdout:
		end = ended{exit: -1, failed: ErrOutputTooLarge}
	case err != nil && ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		// libcni's own Exec flattens the context's error into text.
		end.exit, end.failed = -1, fmt.Errorf("%w: %w", contextError(ctx), err)
	case err != nil:
		end.exit, end.failed = -1, err
	}
	return end
}

// finish makes an outcome of the process's end.
func (w *worker) finish(ctx context.Context, end ended) {
	w.out.Stdout, w.out.Stderr, w.out.Exit, w.out.NotStarted = end.stdout, end.stderr, end.exit, false
	w.err = verdict(end)
	w.out.TimedOut = end.failed != nil && timedOut(ctx)
	if w.err == nil && w.call.Verb == spec.Add {
		var checked []byte
		if checked, w.err = CheckResult(end.stdout, w.call.CNIVersion); w.err == nil {
			w.out.Stdout = checked
		}
	}
}

// contextError returns the error of a context that is over, with its cause where
// that says more.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case err == nil || errors.Is(cause, ErrOutputTooLarge):
		return cause
	case errors.Is(err, cause):
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// timedOut reports whether the verb's limit ended ctx.
func timedOut(ctx context.Context) bool {
	var limit limitError
	return errors.As(context.Cause(ctx), &limit)
}

// sleep waits for d. It returns the context's error when that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}
