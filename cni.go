package podcni

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Plugin attaches pods to networks and detaches them. Make one with [New] and
// end it with Shutdown. It is safe for concurrent use: operations on one
// sandbox wait for each other, those on different sandboxes do not.
type Plugin struct {
	opts        *options
	environArgs string // CNI_ARGS of the environment, for InitCNI

	slots     *limiter
	run       *runner
	probes    *prober
	loader    *loader
	reloads   *reloader
	records   *recordStore
	sandboxes sandboxLocks
	gates     networkGates
	orphans   orphans
	self      writerID

	// snap is what operations go by; each takes it once.
	snap atomic.Pointer[snapshot]

	// done is closed when Shutdown begins.
	done chan struct{}

	// mu guards closed and inFlight. It is never held while anything else is
	// waited for.
	mu       sync.Mutex
	closed   bool
	inFlight int

	statuses statusRuns
}

// New makes a Plugin: it applies the defaults and the options, loads the
// networks, asks their plugins for the versions that they speak, each binary
// once and all at the same time, and begins to watch. A directory that is
// missing, a file that does not parse or a plugin that is not there is no error
// here: [Plugin.Status] and [Plugin.Rejected] tell. New blocks for as long as
// the plugins take to answer VERSION, at most that verb's time limit.
//
// It fails with ErrInvalidOption, as a *FieldError, for an option that cannot
// be used. Nothing on disk is created or changed.
func New(opts ...Option) (*Plugin, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	p := &Plugin{
		opts:  o,
		slots: newLimiter(o.maxConcurrent),
		self:  thisWriter(),
		done:  make(chan struct{}),
	}
	if o.passCNIArgs {
		p.environArgs = os.Getenv("CNI_ARGS")
	}
	p.run = newRunner(o, p.slots)
	p.records = openRecords(o)
	p.reloads = newReloader(o, p.snap.Store)
	p.probes = newProber(context.Background(), p.run, o.log, p.reloads.wake)
	if p.loader, err = newLoader(o, p.probes); err != nil {
		return nil, err
	}
	p.reloads.start(p.loader)
	<-p.reloads.settled
	return p, nil
}

// Name is [CNIPluginName].
func (p *Plugin) Name() string { return CNIPluginName }

// Shutdown ends watching and probing, waits for both, and makes every later
// call that can fail answer ErrShutdown, except for Shutdown itself, which may
// be called again. Attached pods stay attached. Operations that
// are under way go on to their end under their own contexts; Shutdown does not
// wait for them. It always returns nil.
func (p *Plugin) Shutdown() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	idle := p.inFlight == 0
	p.mu.Unlock()
	if first {
		close(p.done)
		if idle {
			p.records.close()
		}
	}
	p.reloads.close()
	p.probes.close()
	return nil
}

// begin counts an operation, so that what it uses outlives it. The caller calls
// what it returns at the end.
func (p *Plugin) begin() (end func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrShutdown
	}
	p.inFlight++
	return p.end, nil
}

func (p *Plugin) end() {
	p.mu.Lock()
	p.inFlight--
	last := p.closed && p.inFlight == 0
	p.mu.Unlock()
	if last {
		p.records.close()
	}
}

// lockSandbox keeps every other operation off the sandbox: those of this Plugin
// and, where the platform can, those of other processes that share its records.
// create says whether a record may be about to be written.
func (p *Plugin) lockSandbox(ctx context.Context, id string, create bool) (unlock func(), err error) {
	release, err := p.sandboxes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	releaseFile, err := p.records.lockSandbox(ctx, id, create)
	if err != nil {
		release()
		return nil, err
	}
	return func() {
		releaseFile()
		release()
	}, nil
}

// outlast gives a context that ends d after ctx has, with ctx's values: what
// must be done is not given up because the caller's time is over, and not
// without an end either.
func outlast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(context.Cause(ctx))
		case <-out.Done():
		}
	})
	return out, func() {
		stop()
		cancel(nil)
	}
}

// podError says which pod an operation failed for.
func podError(op string, pod *PodNetwork, err error) error {
	if err == nil {
		return nil
	}
	short := func(s string) string { return s[:min(len(s), longestValue)] }
	return &PodError{Op: op, Namespace: short(pod.Namespace), Name: short(pod.Name), ID: short(pod.ID), Err: err}
}
