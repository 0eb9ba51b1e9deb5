package podcni

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// waiters is a queue of goroutines, each waiting for its channel to be closed.
// What is waited for is handed over by whoever closes it, under the mutex that
// guards the queue, so that nothing is lost between waking and taking.
type waiters []chan struct{}

func (q *waiters) join() chan struct{} {
	turn := make(chan struct{})
	*q = append(*q, turn)
	return turn
}

// next lets the first one go on; false if there is none.
func (q *waiters) next() bool {
	if len(*q) == 0 {
		return false
	}
	close((*q)[0])
	*q = slices.Delete(*q, 0, 1)
	return true
}

// leave is false when it was the waiter's turn already: it then has what it
// waited for, and must give it back.
func (q *waiters) leave(turn chan struct{}) bool {
	i := slices.Index(*q, turn)
	if i >= 0 {
		*q = slices.Delete(*q, i, i+1)
	}
	return i >= 0
}

// sandboxLocks are locks by name, one for each sandbox that is in use. The zero
// value is ready.
type sandboxLocks struct {
	mu sync.Mutex // guards held
	// held has an entry for each lock that is held, with those who wait for it.
	held map[string]*waiters
}

// lock waits for the sandbox, first come first served, until ctx ends. A context
// that is over takes no lock, not even a free one. The result unlocks; only its
// first call counts.
func (l *sandboxLocks) lock(ctx context.Context, id string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	unlock = sync.OnceFunc(func() { l.unlock(id) })
	l.mu.Lock()
	queue, held := l.held[id]
	if !held {
		if l.held == nil {
			l.held = make(map[string]*waiters)
		}
		l.held[id] = new(waiters)
		l.mu.Unlock()
		return unlock, nil
	}
	turn := queue.join()
	l.mu.Unlock()

	select {
	case <-turn:
		return unlock, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	left := queue.leave(turn)
	l.mu.Unlock()
	if !left {
		unlock()
	}
	return nil, fmt.Errorf("waiting for the operation under way on %q: %w", id, ctx.Err())
}

func (l *sandboxLocks) unlock(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unlockLocked(id)
}

func (l *sandboxLocks) unlockLocked(id string) {
	if !l.held[id].next() {
		delete(l.held, id)
	}
}

const (
	// gcPatience is how long a GC waits for a network to be idle by itself
	// before it holds new operations back, and between two such times.
	gcPatience = 10 * time.Second
	// gcWindow is how long a GC holds new operations on a network back at a
	// time: what a hung plugin may cost the network's other pods.
	gcWindow = 2 * time.Second
	// shortestRound keeps the halving of what is left of a context's time from
	// going on for ever.
	shortestRound = 10 * time.Millisecond
)

// networkGates let many operations work on a network at once, or one GC alone,
// as the specification wants it ("GC"). The zero value is ready.
//
// An operation may hold several shares of one network, but not wait for one
// while it is itself within exclude.
type networkGates struct {
	collectors sandboxLocks // by network: one GC at a time waits at the gate

	mu    sync.Mutex // guards gates and all that they hold
	gates map[string]*gate
}

// gate is the state of a network that is in use.
type gate struct {
	shares  int           // operations at work
	shut    bool          // a GC is at work, or holds new operations back
	waiting waiters       // operations before the shut gate
	idle    chan struct{} // non-nil: a GC waits; closed when it gets the network
}

// share waits until no GC stands in the way of an operation on the network. The
// error wraps ErrBusy and the context's. The result ends the operation; only its
// first call counts.
func (g *networkGates) share(ctx context.Context, network string) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	release = sync.OnceFunc(func() { g.unshare(network) })
	g.mu.Lock()
	gt := g.gateLocked(network)
	if !gt.shut {
		gt.shares++
		g.mu.Unlock()
		return release, nil
	}
	turn := gt.waiting.join()
	g.mu.Unlock()

	select {
	case <-turn:
		return release, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	left := gt.waiting.leave(turn)
	g.mu.Unlock()
	if !left {
		release()
	}
	return nil, fmt.Errorf("%w: a GC has network %q: %w", ErrBusy, network, ctx.Err())
}

// exclude waits until the network is idle and keeps it so. It lets new
// operations through meanwhile; only after patience, and again after each
// further patience, does it hold them back for up to gcWindow. No patience means
// gcPatience. Neither takes more than half of what is left of the context's
// time. The error wraps ErrBusy and the context's. The result lets operations
// through again; only its first call counts.
func (g *networkGates) exclude(ctx context.Context, network string, patience time.Duration) (release func(), err error) {
	if patience <= 0 {
		patience = gcPatience
	}
	unlock, err := g.collectors.lock(ctx, network)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	g.mu.Lock()
	gt := g.gateLocked(network)
	if gt.shares == 0 {
		gt.shut = true
	} else {
		gt.idle = make(chan struct{})
	}
	idle := gt.idle
	g.mu.Unlock()
	release = sync.OnceFunc(func() {
		g.leave(network, gt)
		unlock()
	})

	for idle != nil && !waitFor(ctx, idle, patience) {
		g.hold(gt)
		if waitFor(ctx, idle, gcWindow) {
			break
		}
		g.letThrough(gt)
		if ctx.Err() != nil {
			// Also when the network was handed over at this moment.
			release()
			return nil, fmt.Errorf("%w: network %q was never idle: %w", ErrBusy, network, ctx.Err())
		}
	}
	return release, nil
}

// waitFor waits until ready is closed, and at most for d and half of what is
// left of the context's time.
func waitFor(ctx context.Context, ready <-chan struct{}, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok {
		d = max(min(d, time.Until(deadline)/2), shortestRound)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ready:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

func (g *networkGates) gateLocked(network string) *gate {
	gt := g.gates[network]
	if gt == nil {
		if g.gates == nil {
			g.gates = make(map[string]*gate)
		}
		gt = new(gate)
		g.gates[network] = gt
	}
	return gt
}

// hold begins a time in which no new operation is let through.
func (g *networkGates) hold(gt *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gt.shut = true
}

// letThrough ends such a time, unless the network was handed over meanwhile.
func (g *networkGates) letThrough(gt *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gt.idle != nil {
		gt.openLocked()
	}
}

// leave ends a GC's hold or wait.
func (g *networkGates) leave(network string, gt *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gt.idle = nil
	gt.openLocked()
	g.forgetLocked(network, gt)
}

func (g *networkGates) unshare(network string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unshareLocked(network)
}

func (g *networkGates) unshareLocked(network string) {
	gt := g.gates[network]
	gt.shares--
	if gt.shares == 0 && gt.idle != nil {
		gt.shut = true
		close(gt.idle)
		gt.idle = nil
	}
	g.forgetLocked(network, gt)
}

// openLocked lets all who wait through: they count as at work from here on, so that
// the next GC cannot slip in before them.
func (gt *gate) openLocked() {
	gt.shut = false
	for gt.waiting.next() {
		gt.shares++
	}
}

// forgetLocked drops a gate that nobody uses.
func (g *networkGates) forgetLocked(network string, gt *gate) {
	if gt.shares == 0 && !gt.shut {
		delete(g.gates, network)
	}
}
