package podcni

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

const (
	firstProbeRetry = 30 * time.Second
	lastProbeRetry  = 5 * time.Minute
	// probeNews is how long answers wait for those of the other plugins, so that
	// a start with many plugins is not one load for each.
	probeNews = 50 * time.Millisecond
	// rememberedProbes bounds what is remembered of binaries that no network
	// uses any more.
	rememberedProbes = 1024
)

// pluginRunner is what the prober and the loader need of *runner.
type pluginRunner interface {
	find(typ string) (string, error)
	run(ctx context.Context, inv *invocation) (output, error)
	environ(verb, containerID, netNS, ifName, args string) []string
}

// binary is a plugin's executable as it was at one moment. The path is part of
// it: one file under several names may be several plugins.
type binary struct {
	typ, path string
	id        fileID
}

// probeResult is what is known of a binary.
type probeResult struct {
	versions []string // that it speaks
	err      error    // why that is not known
	pending  bool     // neither yet
}

type probeEntry struct {
	probeResult
	wanted   bool
	failures int
	cancel   context.CancelFunc // of the run under way; nil when there is none
	retry    *time.Timer        // nil when none is planned
}

// prober asks plugins what versions they speak: each binary once, a few at a
// time, in the background. One that fails is asked again after a while, as long
// as a network uses it.
type prober struct {
	ctx    context.Context // ends with close
	stop   context.CancelFunc
	run    pluginRunner
	log    *slog.Logger
	onDone func()
	slots  chan struct{}
	active sync.WaitGroup // runs and callbacks; added to under mu

	// mu guards what follows. No plugin runs and nothing is called under it.
	mu      sync.Mutex
	closed  bool
	entries map[binary]*probeEntry
	running int         // first answers that are still due
	news    *time.Timer // calls onDone; nil when there is nothing to tell
}

// newProber makes a prober. onDone is called, by a goroutine of the prober's,
// when there are answers that ask did not give yet.
func newProber(ctx context.Context, run pluginRunner, log *slog.Logger, onDone func()) *prober {
	p := &prober{
		run: run, log: log, onDone: onDone,
		slots:   make(chan struct{}, 4*runtime.NumCPU()),
		entries: make(map[binary]*probeEntry),
	}
	p.ctx, p.stop = context.WithCancel(ctx)
	return p
}

// ask says what is known of the binaries that are in use now, in their order,
// and sets out to learn the rest. Binaries that are not among them are not
// asked any more. It waits for nothing.
func (p *prober) ask(want []binary) []probeResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		e.wanted = false
	}
	results := make([]probeResult, len(want))
	for i, b := range want {
		e := p.entries[b]
		if e == nil {
			e = &probeEntry{probeResult: probeResult{pending: true}}
			p.entries[b] = e
			p.startLocked(b, e)
		}
		e.wanted = true
		if e.err != nil && e.cancel == nil && e.retry == nil {
			p.retryLocked(b, e)
		}
		results[i] = e.probeResult
	}
	for b, e := range p.entries {
		if !e.wanted {
			p.dropLocked(b, e)
		}
	}
	return results
}

// pending counts the binaries that have not answered yet.
func (p *prober) pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}

// close ends what is under way and waits for it. It may be called again.
func (p *prober) close() {
	p.stop()
	p.mu.Lock()
	p.closed = true
	for _, e := range p.entries {
		if e.retry != nil {
			e.retry.Stop()
		}
	}
	if p.news != nil {
		p.news.Stop()
	}
	p.mu.Unlock()
	p.active.Wait()
}

// dropLocked ends what is done for a binary that is not used, and forgets it
// unless it may be of use again.
func (p *prober) dropLocked(b binary, e *probeEntry) {
	if e.retry != nil {
		e.retry.Stop()
		e.retry = nil
	}
	if e.pending || len(p.entries) > rememberedProbes {
		delete(p.entries, b)
		if e.pending {
			p.running--
		}
	}
	if e.cancel != nil {
		e.cancel()
		e.cancel = nil
	}
}

// startLocked runs VERSION in the background.
func (p *prober) startLocked(b binary, e *probeEntry) {
	if p.closed {
		return
	}
	if e.pending {
		p.running++
	}
	ctx, cancel := context.WithCancel(p.ctx)
	e.cancel = cancel
	p.active.Go(func() {
		defer cancel()
		versions, err := p.probe(ctx, b)
		if ctx.Err() == nil {
			p.learn(b, e, versions, err)
		}
	})
}

func (p *prober) retryLocked(b binary, e *probeEntry) {
	if p.closed {
		return
	}
	delay := min(firstProbeRetry<<min(e.failures-1, 10), lastProbeRetry)
	e.retry = time.AfterFunc(delay, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if e.retry != nil && e.wanted {
			e.retry = nil
			p.startLocked(b, e)
		}
	})
}

// learn keeps the outcome of a run.
func (p *prober) learn(b binary, e *probeEntry, versions []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries[b] != e || e.cancel == nil { // not wanted meanwhile
		return
	}
	before := e.probeResult
	e.cancel = nil
	e.probeResult = probeResult{versions: versions, err: err}
	if before.pending {
		p.running--
	}
	if err != nil {
		e.failures++
		p.retryLocked(b, e)
		p.log.Debug("a CNI plugin does not say what versions it speaks", "plugin", b.typ, "path", b.path, "error", err)
	}
	if before.pending || err == nil || !sameText(before.err, err) {
		p.tellLocked()
	}
}

// tellLocked sees to it that onDone is called: at once when every binary has
// answered, and soon when some take their time.
func (p *prober) tellLocked() {
	if p.closed {
		return
	}
	delay := probeNews
	if p.running == 0 {
		delay = 0
	}
	if p.news != nil {
		if delay > 0 || !p.news.Stop() {
			return
		}
	}
	var timer *time.Timer
	timer = time.AfterFunc(delay, func() {
		p.mu.Lock()
		if p.news == timer {
			p.news = nil
		}
		if p.closed {
			p.mu.Unlock()
			return
		}
		p.active.Add(1)
		p.mu.Unlock()
		defer p.active.Done()
		p.onDone()
	})
	p.news = timer
}
