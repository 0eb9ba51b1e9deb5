package podcni

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asked is something that was asked for in the background. Its fields are there
// once it is over.
type asked struct {
	release func()
	err     error
	over    chan struct{}
}

func (a *asked) done() bool {
	synctest.Wait()
	select {
	case <-a.over:
		return true
	default:
		return false
	}
}

// inBackground calls take in a goroutine of the bubble.
func inBackground(take func() (func(), error)) *asked {
	a := &asked{over: make(chan struct{})}
	go func() {
		defer close(a.over)
		a.release, a.err = take()
	}()
	synctest.Wait()
	return a
}

// pause lets the bubble's clock run for d.
func pause(d time.Duration) { <-time.After(d) }

func TestSandboxLocksExclude(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l sandboxLocks
		ctx := t.Context()
		first, err := l.lock(ctx, "a")
		require.NoError(t, err)

		other, err := l.lock(ctx, "b")
		require.NoError(t, err, "another sandbox must not wait")
		other()

		var order []int
		for i := range 5 {
			go func() {
				unlock, err := l.lock(ctx, "a")
				if err != nil {
					panic(err)
				}
				order = append(order, i)
				unlock()
			}()
			synctest.Wait()
		}
		require.Empty(t, order)
		first()
		synctest.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, order, "first come, first served")
		require.Empty(t, l.held, "what nobody uses must not stay")
	})
}

func TestSandboxLocksContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l sandboxLocks
		over, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := l.lock(over, "a")
		require.ErrorIs(t, err, context.Canceled, "also when the lock is free")
		require.Empty(t, l.held)

		first, err := l.lock(t.Context(), "a")
		require.NoError(t, err)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		quitter := inBackground(func() (func(), error) { return l.lock(ctx, "a") })
		last := inBackground(func() (func(), error) { return l.lock(t.Context(), "a") })
		require.False(t, quitter.done())
		<-ctx.Done()
		require.True(t, quitter.done())
		require.ErrorIs(t, quitter.err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin), "a waiter leaves at once")
		require.False(t, last.done())

		first()
		require.True(t, last.done())
		first()
		_, stillHeld := l.held["a"]
		require.True(t, stillHeld, "unlocking twice must not take another's lock away")
		last.release()
		require.Empty(t, l.held)
	})
}

func TestGatesShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g networkGates
		ctx := t.Context()
		first, err := g.share(ctx, "net")
		require.NoError(t, err)
		second, err := g.share(ctx, "net")
		require.NoError(t, err, "operations do not exclude each other")
		other, err := g.exclude(ctx, "other", 0)
		require.NoError(t, err, "networks do not exclude each other")

		gc := inBackground(func() (func(), error) { return g.exclude(ctx, "net", 0) })
		require.False(t, gc.done())
		third, err := g.share(ctx, "net")
		require.NoError(t, err, "a GC that waits does not hold operations back")
		first()
		first()
		second()
		require.False(t, gc.done())
		third()
		require.True(t, gc.done(), "an idle network goes to the GC at once")
		require.NoError(t, gc.err)

		late := inBackground(func() (func(), error) { return g.share(ctx, "net") })
		later := inBackground(func() (func(), error) { return g.share(ctx, "net") })
		nextGC := inBackground(func() (func(), error) { return g.exclude(ctx, "net", 0) })
		require.False(t, late.done())
		gc.release()
		gc.release()
		require.True(t, late.done(), "operations go before the next GC")
		require.True(t, later.done())
		require.False(t, nextGC.done())
		late.release()
		later.release()
		require.True(t, nextGC.done())
		nextGC.release()
		other()
		require.Empty(t, g.gates)
		require.Empty(t, g.collectors.held)
	})
}

// Behind an operation that hangs, a GC lets others through but for short times.
func TestGatesWindows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g networkGates
		hung, err := g.share(t.Context(), "net")
		require.NoError(t, err)
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		gc := inBackground(func() (func(), error) { return g.exclude(ctx, "net", 0) })
		// Its turn at the gate must not let a second one add to the waiting.
		second := inBackground(func() (func(), error) { return g.exclude(ctx, "net", 0) })

		// An operation every quarter of a second, off the beat of the windows.
		const beat = 250 * time.Millisecond
		pause(beat / 2)
		var longest, held time.Duration
		for time.Since(begin) < time.Minute {
			before := time.Now()
			release, err := g.share(t.Context(), "net")
			require.NoError(t, err)
			if waited := time.Since(before); waited > 0 {
				held += waited
				longest = max(longest, waited)
				require.Zero(t, time.Since(begin)%(gcPatience+gcWindow), "it goes on when a window ends")
			}
			release()
			pause(beat - time.Since(begin)%beat + beat/2)
		}
		require.False(t, gc.done())
		require.LessOrEqual(t, longest, gcWindow)
		require.Greater(t, held, 5*gcWindow/2, "there must be windows, or a GC never comes to its turn")
		require.LessOrEqual(t, held, 5*gcWindow)

		cancel()
		synctest.Wait()
		for _, g := range []*asked{gc, second} {
			require.True(t, g.done())
			require.ErrorIs(t, g.err, ErrBusy)
			require.ErrorIs(t, g.err, context.Canceled)
		}
		release, err := g.share(t.Context(), "net")
		require.NoError(t, err)
		release()
		hung()
		require.Empty(t, g.gates)
		require.Empty(t, g.collectors.held)
	})
}

// Where operations overlap all the time, the window is what lets a GC in.
func TestGatesGCAmongOverlappingOperations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			g       networkGates
			running atomic.Int32
			stop    = make(chan struct{})
			done    sync.WaitGroup
		)
		for i := range 4 {
			done.Go(func() {
				pause(time.Duration(i) * 250 * time.Millisecond)
				for {
					select {
					case <-stop:
						return
					default:
					}
					release, err := g.share(t.Context(), "net")
					if err != nil {
						panic(err)
					}
					running.Add(1)
					pause(time.Second)
					running.Add(-1)
					release()
				}
			})
		}
		pause(10 * time.Millisecond)
		begin := time.Now()
		release, err := g.exclude(t.Context(), "net", 0)
		require.NoError(t, err)
		require.Greater(t, time.Since(begin), gcPatience)
		require.LessOrEqual(t, time.Since(begin), gcPatience+gcWindow)
		for range 50 {
			require.Zero(t, running.Load())
			pause(100 * time.Millisecond)
		}
		release()
		close(stop)
		done.Wait()
		require.Empty(t, g.gates)
	})
}

func TestGatesContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g networkGates
		over, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := g.share(over, "net")
		require.ErrorIs(t, err, context.Canceled)
		_, err = g.exclude(over, "net", 0)
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, g.gates)

		gc, err := g.exclude(t.Context(), "net", 0)
		require.NoError(t, err)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = g.share(ctx, "net")
		require.ErrorIs(t, err, ErrBusy)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = g.exclude(ctx, "net", 0)
		require.ErrorIs(t, err, ErrBusy)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(begin))
		gc()
		require.Empty(t, g.gates)
	})
}

// A GC with little time divides it: neither all patience nor all window.
func TestGatesShortDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g networkGates
		hung, err := g.share(t.Context(), "net")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begin := time.Now()
		gc := inBackground(func() (func(), error) { return g.exclude(ctx, "net", time.Minute) })
		pause(time.Second + time.Millisecond)
		release, err := g.share(t.Context(), "net")
		require.NoError(t, err)
		require.Equal(t, 1500*time.Millisecond, time.Since(begin), "half of the time, then half of what was left")
		release()
		<-ctx.Done()
		require.True(t, gc.done())
		require.ErrorIs(t, gc.err, ErrBusy)
		require.ErrorIs(t, gc.err, context.DeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(begin))
		hung()
		require.Empty(t, g.gates)
	})
}

// What is handed over at the very moment that the waiter's context ends must go
// on to whoever is next. The mutex makes sure of the moment: the context wakes
// the waiter, which then finds that its turn has come.
func TestLeavingAtTheMomentOfHandOver(t *testing.T) {
	t.Parallel()
	t.Run("lock", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var l sandboxLocks
			_, err := l.lock(t.Context(), "id")
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			quitter := inBackground(func() (func(), error) { return l.lock(ctx, "id") })
			next := inBackground(func() (func(), error) { return l.lock(t.Context(), "id") })
			l.mu.Lock()
			cancel()
			l.unlockLocked("id")
			l.mu.Unlock()
			require.True(t, quitter.done())
			require.ErrorIs(t, quitter.err, context.Canceled)
			require.True(t, next.done())
			next.release()
			require.Empty(t, l.held)
		})
	})
	t.Run("share", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var g networkGates
			_, err := g.exclude(t.Context(), "net", 0)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			quitter := inBackground(func() (func(), error) { return g.share(ctx, "net") })
			g.mu.Lock()
			cancel()
			g.gates["net"].openLocked()
			g.mu.Unlock()
			require.True(t, quitter.done())
			require.ErrorIs(t, quitter.err, context.Canceled)
			require.Empty(t, g.gates)
		})
	})
	t.Run("exclude", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var g networkGates
			_, err := g.share(t.Context(), "net")
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			quitter := inBackground(func() (func(), error) { return g.exclude(ctx, "net", 0) })
			g.mu.Lock()
			cancel()
			g.unshareLocked("net")
			g.mu.Unlock()
			require.True(t, quitter.done())
			if quitter.err == nil {
				quitter.release() // it may as well have seen that the network is its own
			}
			require.Empty(t, g.gates)
			require.Empty(t, g.collectors.held)
		})
	})
	t.Run("slot", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := newLimiter(1)
			require.NoError(t, l.acquire(t.Context(), verbAdd))
			acquire := func(ctx context.Context) func() (func(), error) {
				return func() (func(), error) { return l.release, l.acquire(ctx, verbAdd) }
			}
			ctx, cancel := context.WithCancel(t.Context())
			quitter := inBackground(acquire(ctx))
			next := inBackground(acquire(t.Context()))
			l.mu.Lock()
			cancel()
			l.releaseLocked()
			l.mu.Unlock()
			require.True(t, quitter.done())
			require.ErrorIs(t, quitter.err, context.Canceled)
			require.True(t, next.done())
			next.release()
			require.Equal(t, 1, l.free)
		})
	})
}

// Whatever comes and goes, and whenever contexts end: nobody is let in beside a
// GC, everybody is let in in the end, and nothing is left.
func TestGatesProperty(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var (
					g         networkGates
					sandboxes sandboxLocks
					done      sync.WaitGroup
					shares    [2]atomic.Int32
					alone     [2]atomic.Int32
					inside    atomic.Int32
				)
				for i := range 40 {
					rng := rand.New(rand.NewPCG(seed, uint64(i)))
					done.Go(func() {
						for range 20 {
							pause(time.Duration(rng.IntN(3000)) * time.Millisecond)
							// On a grid of time, so that contexts end at the moment of a hand-over.
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(20))*time.Second)
							n := rng.IntN(2)
							network := fmt.Sprint(n)
							switch rng.IntN(8) {
							case 0:
								if release, err := g.exclude(ctx, network, time.Second); err == nil {
									assert.EqualValues(t, 1, alone[n].Add(1))
									assert.Zero(t, shares[n].Load())
									pause(time.Second)
									assert.Zero(t, shares[n].Load())
									alone[n].Add(-1)
									release()
								}
							case 1:
								if unlock, err := sandboxes.lock(ctx, "id"); err == nil {
									assert.EqualValues(t, 1, inside.Add(1))
									pause(time.Second)
									inside.Add(-1)
									unlock()
								}
							default:
								if release, err := g.share(ctx, network); err == nil {
									shares[n].Add(1)
									assert.Zero(t, alone[n].Load())
									pause(time.Duration(rng.IntN(4)) * time.Second)
									shares[n].Add(-1)
									release()
								}
							}
							cancel()
						}
					})
				}
				done.Wait()
				require.Empty(t, g.gates)
				require.Empty(t, g.collectors.held)
				require.Empty(t, sandboxes.held)
			})
		})
	}
}
