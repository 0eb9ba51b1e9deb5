package confdir

import (
	"context"
	"math"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	firstRetry = 30 * time.Second
	lastRetry  = 5 * time.Minute
	// rememberedProbes bounds what is remembered of binaries that no network
	// uses any more.
	rememberedProbes = 1024
)

// binary is a plugin's executable as it was at one moment. The path is part of
// it: one file under several names may be several plugins.
type binary struct {
	typ, path string
	id        fileID
}

// answer is what is known of a binary.
type answer struct {
	versions []string // that it speaks
	err      error    // why that is not known
	pending  bool     // neither yet
}

type probe struct {
	answer
	wanted   bool
	failures int
	retryAt  time.Time          // once it has failed
	cancel   context.CancelFunc // of the run under way, or nil
}

// prober asks plugins what versions they speak: each binary once, a few at a
// time, in the background. It asks one that fails again after a while, as long
// as a network uses it.
type prober struct {
	versions func(ctx context.Context, plugin, path string) ([]string, error)
	answered func() // called after each answer; must not block
	slots    *semaphore.Weighted
	runs     sync.WaitGroup // added to under mu, and not once closed

	mu     sync.Mutex // guards what follows
	closed bool
	probes map[binary]*probe
}

func newProber(versions func(context.Context, string, string) ([]string, error), answered func()) *prober {
	return &prober{
		versions: versions, answered: answered,
		slots:  semaphore.NewWeighted(4 * int64(runtime.NumCPU())),
		probes: make(map[binary]*probe),
	}
}

// ask returns what is known of the binaries that are in use now, in their order,
// and starts what is due: nothing that ran is run again but what failed. Binaries
// that are not among them are not asked any more. It waits for nothing.
func (p *prober) ask(ctx context.Context, want []binary) []answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.probes {
		e.wanted = false
	}
	now := time.Now()
	answers := make([]answer, len(want))
	for i, b := range want {
		e := p.probes[b]
		if e == nil {
			e = &probe{answer: answer{pending: true}}
			p.probes[b] = e
		}
		e.wanted = true
		if e.cancel == nil && (e.pending || e.err != nil && !now.Before(e.retryAt)) {
			p.startLocked(ctx, b, e)
		}
		answers[i] = e.answer
	}
	for b, e := range p.probes {
		if e.wanted {
			continue
		}
		if e.cancel != nil {
			e.cancel()
			e.cancel = nil
		}
		if e.pending || len(p.probes) > rememberedProbes {
			delete(p.probes, b)
		}
	}
	return answers
}

func (p *prober) startLocked(ctx context.Context, b binary, e *probe) {
	if p.closed {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	e.cancel = cancel
	p.runs.Go(func() {
		defer cancel()
		if p.slots.Acquire(ctx, 1) != nil {
			return
		}
		versions, err := p.versions(ctx, b.typ, b.path)
		p.slots.Release(1)
		if p.learn(ctx, b, e, answer{versions: versions, err: err}) {
			p.answered()
		}
	})
}

// learn keeps an answer, and reports whether it was still wanted.
func (p *prober) learn(ctx context.Context, b binary, e *probe, a answer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil || p.probes[b] != e {
		return false
	}
	e.answer, e.cancel = a, nil
	if a.err != nil {
		e.retryAt = time.Now().Add(min(firstRetry<<min(e.failures, 10), lastRetry))
		e.failures++
	}
	return true
}

// pending reports whether a binary has not answered yet.
func (p *prober) pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.probes {
		if e.pending {
			return true
		}
	}
	return false
}

// retryIn is after how long ask has something to start again.
func (p *prober) retryIn() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	soonest := time.Duration(math.MaxInt64)
	for _, e := range p.probes {
		if e.wanted && e.cancel == nil && e.err != nil {
			soonest = min(soonest, max(0, time.Until(e.retryAt)))
		}
	}
	return soonest
}

// close waits for what runs, and lets nothing start any more. The context must
// have ended.
func (p *prober) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.runs.Wait()
}
