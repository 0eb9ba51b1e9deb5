package podcni

import (
	"context"
	"fmt"
	"sync"
)

// limiter bounds how many plugin processes run at once. Within set-ups, and
// within teardowns, the first to come is the first to run; while both wait they
// take turns, so that neither starves behind a storm of the other. A nil limiter
// sets no bound.
type limiter struct {
	mu        sync.Mutex // guards what follows
	free      int        // slots; more than 0 only while nobody waits
	setups    waiters
	teardowns waiters
	lastDown  bool // a teardown got the slot that was given last
}

// newLimiter allows n processes at once; nil, no bound, if n is not positive.
func newLimiter(n int) *limiter {
	if n <= 0 {
		return nil
	}
	return &limiter{free: n}
}

// acquire waits for a slot until ctx ends. One that is over gets none, not even
// a free one. DEL and GC count as teardowns, all other verbs as set-ups.
func (l *limiter) acquire(ctx context.Context, verb string) error {
	if err := ctx.Err(); err != nil || l == nil {
		return err
	}
	down := verb == verbDel || verb == verbGC
	queue := &l.setups
	if down {
		queue = &l.teardowns
	}
	l.mu.Lock()
	if l.free > 0 {
		l.free--
		l.lastDown = down
		l.mu.Unlock()
		return nil
	}
	turn := queue.join()
	l.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	left := queue.leave(turn)
	l.mu.Unlock()
	if !left {
		l.release()
	}
	return fmt.Errorf("waiting to run a plugin: %w", ctx.Err())
}

// release gives a slot back, or on to one who waits.
func (l *limiter) release() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.releaseLocked()
}

func (l *limiter) releaseLocked() {
	first, second := &l.teardowns, &l.setups
	if l.lastDown {
		first, second = second, first
	}
	switch {
	case first.next():
		l.lastDown = !l.lastDown
	case second.next():
	default:
		l.free++
	}
}
