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

func TestLimiterUnbounded(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, -1} {
		l := newLimiter(n)
		for range 100 {
			require.NoError(t, l.acquire(t.Context(), verbAdd))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, l.acquire(ctx, verbDel), context.Canceled)
		l.release()
	}
}

// While both wait, set-ups and teardowns take turns, each in its own order.
func TestLimiterTakesTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(1)
		require.NoError(t, l.acquire(t.Context(), verbDel))
		var order []string
		ask := func(verb, name string) {
			go func() {
				if err := l.acquire(t.Context(), verb); err != nil {
					panic(err)
				}
				order = append(order, name)
				pause(time.Second)
				l.release()
			}()
			synctest.Wait()
		}
		for i := range 4 {
			ask(verbDel, fmt.Sprint("del", i))
		}
		ask(verbGC, "gc")
		ask(verbAdd, "add0")
		ask(verbAdd, "add1")
		ask(verbCheck, "check")
		require.Empty(t, order)
		l.release()
		pause(time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"add0", "del0", "add1", "del1", "check", "del2", "del3", "gc"}, order)
		require.Equal(t, 1, l.free)
	})
}

func TestLimiterContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(2)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, l.acquire(over, verbAdd), context.Canceled)
		require.Equal(t, 2, l.free)
		require.NoError(t, l.acquire(t.Context(), verbAdd))
		require.NoError(t, l.acquire(t.Context(), verbAdd))

		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, l.acquire(ctx, verbDel), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin), "a waiter leaves at once")
		l.release()
		l.release()
		require.Equal(t, 2, l.free, "one who left takes no slot")
	})
}

func TestLimiterProperty(t *testing.T) {
	t.Parallel()
	verbs := []string{verbAdd, verbDel, verbCheck, verbGC, verbStatus, verbVersion}
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				slots := 1 + int(seed%4)
				l := newLimiter(slots)
				var (
					running, ran atomic.Int32
					done         sync.WaitGroup
				)
				for i := range 40 {
					rng := rand.New(rand.NewPCG(seed, uint64(i)))
					done.Go(func() {
						for range 20 {
							// On a grid of time, so that contexts end at the moment of a hand-over.
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rng.IntN(30))*time.Second)
							if l.acquire(ctx, verbs[rng.IntN(len(verbs))]) == nil {
								assert.LessOrEqual(t, int(running.Add(1)), slots)
								pause(time.Duration(rng.IntN(3)) * time.Second)
								running.Add(-1)
								ran.Add(1)
								l.release()
							}
							cancel()
						}
					})
				}
				done.Wait()
				require.Equal(t, slots, l.free)
				require.Empty(t, l.setups)
				require.Empty(t, l.teardowns)
				require.Greater(t, ran.Load(), int32(slots))
			})
		})
	}
}

// A storm of teardowns must not keep a set-up from its slot, nor the reverse.
func TestLimiterStorm(t *testing.T) {
	t.Parallel()
	for storm, verb := range map[string]string{verbDel: verbAdd, verbAdd: verbDel} {
		t.Run(storm, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLimiter(2)
				var done sync.WaitGroup
				for range 500 {
					done.Go(func() {
						if err := l.acquire(t.Context(), storm); err != nil {
							panic(err)
						}
						pause(time.Second)
						l.release()
					})
				}
				synctest.Wait()
				begin := time.Now()
				require.NoError(t, l.acquire(t.Context(), verb))
				require.LessOrEqual(t, time.Since(begin), time.Second)
				l.release()
				done.Wait()
			})
		})
	}
}
