package plugin

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/spec"
)

// slowly returns a runner of at most n plugins at once, each of which takes a
// second, and what counts them: at the moment, and at most.
func slowly(n int) (r *Runner, running, most func() int) {
	var mu sync.Mutex
	var now, peak int
	r = New(Options{MaxConcurrent: n, BinDirs: []string{"/bin"}, Exec: &scriptedExec{
		run: func(ctx context.Context, _ string, _ []byte, _ []string) ([]byte, error) {
			mu.Lock()
			now++
			peak = max(peak, now)
			mu.Unlock()
			err := sleep(ctx, time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return []byte("{}"), err
		},
	}})
	get := func(of *int) func() int {
		return func() int {
			mu.Lock()
			defer mu.Unlock()
			return *of
		}
	}
	return r, get(&now), get(&peak)
}

// A storm of one kind does not keep the other from its turn.
func TestMaxConcurrentStorm(t *testing.T) {
	t.Parallel()
	for storm, verb := range map[string]string{spec.Del: spec.Add, spec.GC: spec.Check, spec.Add: spec.Del, spec.Check: spec.GC} {
		t.Run(storm, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, _, most := slowly(2)
				var group sync.WaitGroup
				for range 100 {
					group.Go(func() {
						if _, err := r.Run(t.Context(), Call{Verb: storm, Plugin: "p"}); err != nil {
							t.Error(err)
						}
					})
				}
				synctest.Wait()
				began := time.Now()
				_, err := r.Run(t.Context(), Call{Verb: verb, Plugin: "p"})
				require.NoError(t, err)
				require.LessOrEqual(t, time.Since(began), 3*time.Second)
				group.Wait()
				require.Equal(t, 2, most())
			})
		})
	}
}

// Questions about the node wait for no pod.
func TestMaxConcurrentLeavesStatusOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, _ := slowly(1)
		var group sync.WaitGroup
		for _, verb := range []string{spec.Add, spec.Del} {
			group.Go(func() { _, _ = r.Run(t.Context(), Call{Verb: verb, Plugin: "p"}) })
		}
		synctest.Wait()
		for _, verb := range []string{spec.Status, spec.Version} {
			began := time.Now()
			_, err := r.Run(t.Context(), Call{Verb: verb, Plugin: "p"})
			require.NoError(t, err)
			require.Equal(t, time.Second, time.Since(began))
		}
		group.Wait()
	})
}

// Whoever waits leaves with its context, and takes nothing with it: neither at
// the gate nor at the common queue. The limit of the verb is for the run alone.
func TestMaxConcurrentContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, running, _ := slowly(1)
		r.opts.Limits = map[string]time.Duration{spec.Del: 1500 * time.Millisecond}
		var group sync.WaitGroup
		group.Go(func() { _, _ = r.Run(t.Context(), Call{Verb: spec.Add, Plugin: "p"}) })
		synctest.Wait()
		for i, verb := range []string{spec.Del, spec.Add} {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*100*time.Millisecond)
				defer cancel()
				began := time.Now()
				out, err := r.Run(ctx, Call{Verb: verb, Plugin: "p"})
				assert.Equal(t, time.Duration(i+1)*100*time.Millisecond, time.Since(began), verb)
				assert.True(t, out.NotStarted)
				assert.False(t, out.TimedOut)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		group.Wait()
		for range 3 {
			group.Go(func() {
				if _, err := r.Run(t.Context(), Call{Verb: spec.Del, Plugin: "p"}); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		require.Zero(t, running())
		require.True(t, r.common.TryAcquire(1) && r.setups.TryAcquire(1) && r.downs.TryAcquire(1))
	})
}
