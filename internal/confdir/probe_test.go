package confdir

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// probing runs a test of a prober in fake time.
func probing(t *testing.T, versions func(ctx context.Context, plugin string) ([]string, error),
	f func(t *testing.T, ask func(want ...string) []answer, p *prober, answers *atomic.Int32),
) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var answers atomic.Int32
		ctx, cancel := context.WithCancel(context.Background())
		p := newProber(func(ctx context.Context, plugin, _ string) ([]string, error) { return versions(ctx, plugin) },
			func() { answers.Add(1) })
		f(t, func(want ...string) []answer {
			var all []binary
			for _, typ := range want {
				all = append(all, binary{typ: typ})
			}
			return p.ask(ctx, all)
		}, p, &answers)
		cancel()
		p.close()
		require.True(t, p.ask(ctx, []binary{{typ: "late"}})[0].pending)
		p.close()
	})
}

func TestProbeOncePerBinary(t *testing.T) {
	var runs, most, now atomic.Int32
	probing(t, func(context.Context, string) ([]string, error) {
		runs.Add(1)
		most.Store(max(most.Load(), now.Add(1)))
		<-time.After(time.Second)
		now.Add(-1)
		return []string{"1.0.0"}, nil
	}, func(t *testing.T, ask func(...string) []answer, p *prober, answers *atomic.Int32) {
		for range 10 {
			for _, a := range ask("a", "b") {
				require.True(t, a.pending)
			}
		}
		require.True(t, p.pending())
		pass(2 * time.Second)
		require.False(t, p.pending())
		for range 10 {
			for _, a := range ask("b", "a") {
				require.Equal(t, []string{"1.0.0"}, a.versions)
			}
			ask()
		}
		require.Equal(t, int32(2), runs.Load())
		require.Equal(t, int32(2), answers.Load())
		many := make([]string, 20*runtime.NumCPU())
		for i := range many {
			many[i] = string(rune('A' + i))
		}
		ask(many...)
		pass(10 * time.Second)
		require.False(t, p.pending())
		require.Equal(t, int32(4*runtime.NumCPU()), most.Load(), "a few at a time")
	})
}

func TestFailedProbeIsRetriedSlowly(t *testing.T) {
	var runs atomic.Int32
	var well atomic.Bool
	probing(t, func(context.Context, string) ([]string, error) {
		runs.Add(1)
		if well.Load() {
			return []string{"1.0.0"}, nil
		}
		return nil, errors.New("crashed")
	}, func(t *testing.T, ask func(...string) []answer, p *prober, _ *atomic.Int32) {
		ask("a")
		synctest.Wait()
		for i, seconds := range []time.Duration{30, 60, 120, 240, 300, 300} {
			require.Equal(t, int32(i+1), runs.Load())
			require.Error(t, ask("a")[0].err)
			require.Equal(t, seconds*time.Second, p.retryIn())
			pass(seconds*time.Second - 1)
			ask("a")
			synctest.Wait()
			require.Equal(t, int32(i+1), runs.Load())
			pass(1)
			require.Error(t, ask("a")[0].err, "it is known to fail while it is asked again")
			synctest.Wait()
		}
		ask()
		before := runs.Load()
		pass(time.Hour)
		require.Greater(t, p.retryIn(), 24*time.Hour)
		require.Equal(t, before, runs.Load(), "nobody uses it")
		well.Store(true)
		ask("a")
		synctest.Wait()
		require.NotEmpty(t, ask("a")[0].versions)
	})
}

func TestProbeThatIsNotWantedEnds(t *testing.T) {
	var ended atomic.Int32
	probing(t, func(ctx context.Context, plugin string) ([]string, error) {
		if plugin == "quick" {
			return nil, nil
		}
		<-ctx.Done()
		ended.Add(1)
		return nil, ctx.Err()
	}, func(t *testing.T, ask func(...string) []answer, p *prober, answers *atomic.Int32) {
		ask("a", "b")
		pass(time.Second)
		require.True(t, ask("b", "quick")[1].pending, "one that hangs holds back no other")
		synctest.Wait()
		require.False(t, ask("b", "quick")[1].pending)
		require.Equal(t, int32(1), ended.Load())
		require.Equal(t, int32(1), answers.Load())
		require.True(t, p.pending())
	})
	t.Cleanup(func() { require.Equal(t, int32(2), ended.Load()) })
}
