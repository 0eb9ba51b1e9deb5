package podcni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/require"
)

func TestChangeIsLoadedOnceItIsQuiet(t *testing.T) {
	bubble(t, func(t *testing.T, r *running, src *fakeSource) {
		before := r.loader.loads.Load()
		write(t, filepath.Join(r.loader.conf, "a.conf"), "1")
		src.events <- r.wrote()
		time.Sleep(quietFor - 1)
		synctest.Wait()
		require.Equal(t, before, r.loader.loads.Load())
		time.Sleep(1 * time.Nanosecond)
		synctest.Wait()
		require.Equal(t, before+1, r.loader.loads.Load())
		require.Equal(t, "a.conf: 1\n", content(r.snap.Load()))
	})
}

func TestStreamOfEventsPutsNothingOffForEver(t *testing.T) {
	bubble(t, func(t *testing.T, r *running, src *fakeSource) {
		before := r.loader.loads.Load()
		write(t, filepath.Join(r.loader.conf, "a.conf"), "0")
		start := time.Now()
		var first time.Duration
		for i := range 500 {
			src.events <- r.wrote()
			write(t, filepath.Join(r.loader.conf, "a.conf"), fmt.Sprint(i))
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if first == 0 && r.loader.loads.Load() > before {
				first = time.Since(start)
			}
		}
		require.Positive(t, first)
		require.LessOrEqual(t, first, 100*time.Millisecond)
		time.Sleep(90 * time.Millisecond) // 100 after the last
		synctest.Wait()
		require.Equal(t, "a.conf: 499\n", content(r.snap.Load()))
		require.Less(t, r.loader.loads.Load()-before, int64(24))

		// It is as quick as before once the stream is over.
		before = r.loader.loads.Load()
		src.events <- r.wrote()
		time.Sleep(quietFor)
		synctest.Wait()
		require.Equal(t, before+1, r.loader.loads.Load())
	})
}

func TestForeignFilesAreIgnored(t *testing.T) {
	bubble(t, func(t *testing.T, r *running, src *fakeSource) {
		before := r.loader.loads.Load()
		for _, name := range []string{"README", "a.conf.swp", "a.conf~", ".tmp", "conf"} {
			for _, op := range []fsnotify.Op{fsnotify.Create, fsnotify.Write, fsnotify.Rename, fsnotify.Remove, fsnotify.Chmod} {
				src.events <- fsnotify.Event{Name: filepath.Join(r.loader.conf, name), Op: op}
			}
		}
		// Nor do the neighbours of the directories on the way matter.
		src.events <- fsnotify.Event{Name: filepath.Join(filepath.Dir(r.loader.conf), "other.conf"), Op: fsnotify.Create}
		time.Sleep(sweepEvery / 2)
		synctest.Wait()
		require.Equal(t, before, r.loader.loads.Load())
	})
}

func TestSweepWithoutEvents(t *testing.T) {
	bubble(t, func(t *testing.T, r *running, _ *fakeSource) {
		write(t, filepath.Join(r.loader.conf, "a.conf"), "unseen")
		time.Sleep(sweepEvery - 1)
		synctest.Wait()
		require.Empty(t, content(r.snap.Load()))
		time.Sleep(1 * time.Nanosecond)
		synctest.Wait()
		require.Equal(t, "a.conf: unseen\n", content(r.snap.Load()))
	})
}

func TestLostEventsWatchAllAnew(t *testing.T) {
	bubble(t, func(t *testing.T, r *running, src *fakeSource) {
		before := len(src.added)
		write(t, filepath.Join(r.loader.conf, "a.conf"), "1")
		src.errs <- fsnotify.ErrEventOverflow
		time.Sleep(quietFor)
		synctest.Wait()
		require.Equal(t, "a.conf: 1\n", content(r.snap.Load()))
		src.mu.Lock()
		defer src.mu.Unlock()
		require.Contains(t, src.removed, r.loader.conf)
		require.Contains(t, src.added[before:], r.loader.conf)
	})
}

func TestPollingWithoutInotify(t *testing.T) {
	for name, breakIt := range map[string]func(r *running, src *fakeSource) (mend func()){
		"no instance": func(r *running, src *fakeSource) func() {
			var works atomic.Bool
			r.watcher.open = func() (source, error) {
				if !works.Load() {
					return nil, errors.New("too many open files")
				}
				return src, nil
			}
			return func() { works.Store(true) }
		},
		"no watch": func(r *running, src *fakeSource) func() {
			src.fail(errors.New("no space left on device"))
			r.watcher.open = func() (source, error) { return src, nil }
			return func() { src.fail(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := realDir(t)
			synctest.Test(t, func(t *testing.T) {
				src := newFakeSource()
				r := newRunning(t, conf)
				mend := breakIt(r, src)
				r.begin()
				for i := range 10 {
					write(t, filepath.Join(conf, "a.conf"), fmt.Sprint(i))
					time.Sleep(pollEvery)
					synctest.Wait()
					require.Equal(t, fmt.Sprintf("a.conf: %d\n", i), content(r.snap.Load()))
				}
				require.Len(t, grep(r.logs.lines(slog.LevelInfo), "polling"), 1)
				mend()
				time.Sleep(pollEvery)
				synctest.Wait()
				require.Len(t, grep(r.logs.lines(slog.LevelInfo), "again"), 1)
				loads := r.loader.loads.Load()
				time.Sleep(sweepEvery - 1)
				synctest.Wait()
				require.Equal(t, loads, r.loader.loads.Load(), "still polling")
				src.events <- r.wrote()
				time.Sleep(quietFor)
				synctest.Wait()
				require.Equal(t, loads+1, r.loader.loads.Load())
			})
		})
	}
}

func grep(lines []string, word string) (found []string) {
	for _, line := range lines {
		if strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return found
}

func TestSourceThatEndsIsReplaced(t *testing.T) {
	t.Parallel()
	conf := realDir(t)
	synctest.Test(t, func(t *testing.T) {
		first, second := newFakeSource(), newFakeSource()
		sources := []*fakeSource{first, second}
		r := newRunning(t, conf)
		r.watcher.open = func() (source, error) {
			src := sources[0]
			sources = sources[1:]
			return src, nil
		}
		r.begin()
		close(first.events)
		time.Sleep(quietFor)
		synctest.Wait()
		require.True(t, first.closed)
		require.Contains(t, second.added, conf)
	})
}

func TestLogsOneLineForAChangeAndNoneOtherwise(t *testing.T) {
	bubble(t, func(t *testing.T, r *running, src *fakeSource) {
		said := 0
		expect := func(n int, words ...string) {
			t.Helper()
			require.NoError(t, r.reload(t.Context(), true))
			lines := r.logs.lines(slog.LevelInfo)
			require.Len(t, lines[said:], n)
			for _, word := range words {
				require.Contains(t, lines[said], word)
			}
			said = len(lines)
		}
		expect(1, "level=WARN", "there is no file")
		expect(0)
		write(t, filepath.Join(r.loader.conf, "b.conf"), "1")
		expect(1, "level=INFO", "b.conf", "default=b.conf")
		write(t, filepath.Join(r.loader.conf, "b.conf"), "2")
		expect(0)
		write(t, filepath.Join(r.loader.conf, "a.conf"), "3")
		expect(1, "a.conf", "b.conf", "default=a.conf")
		require.NoError(t, os.Remove(filepath.Join(r.loader.conf, "a.conf")))
		require.NoError(t, os.Remove(filepath.Join(r.loader.conf, "b.conf")))
		expect(1, "level=WARN", "there is no file")
		time.Sleep(10 * sweepEvery)
		expect(0)
	})
}

func TestReloadBeginsAfterTheCall(t *testing.T) {
	t.Parallel()
	r := newRunning(t, realDir(t))
	r.watcher.open = nil // only Reload is left to see anything
	r.begin()
	for i := range 50 {
		write(t, filepath.Join(r.loader.conf, "a.conf"), fmt.Sprint(i))
		require.NoError(t, r.reload(t.Context(), true))
		require.Equal(t, fmt.Sprintf("a.conf: %d\n", i), content(r.snap.Load()))
	}
}

func TestReloadWaitsForProbesUnderItsContext(t *testing.T) {
	t.Parallel()
	r := newRunning(t, realDir(t))
	r.watcher.open = nil
	r.begin()
	r.loader.pending.Store(1)
	require.NoError(t, r.reload(t.Context(), false))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.reload(ctx, true), context.Canceled)

	done := make(chan error, 1)
	loads := r.loader.loads.Load()
	go func() { done <- r.reload(context.Background(), true) }()
	require.Eventually(t, func() bool { return r.loader.loads.Load() > loads }, patience, time.Millisecond)
	require.Empty(t, done)
	r.loader.pending.Store(0)
	r.wake()
	require.NoError(t, <-done)
}

func TestSettledWaitsForProbesAndNoLonger(t *testing.T) {
	t.Parallel()
	conf := realDir(t)
	for _, limit := range []time.Duration{0, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := newRunning(t, conf)
			r.watcher.open = nil
			r.patience = limit
			if limit == 0 {
				o, err := newOptions([]Option{WithPluginTimeout("VERSION", 0)})
				require.NoError(t, err)
				r.patience = newReloader(o, nil).patience
				limit = quickTimeout
			}
			r.loader.pending.Store(1)
			start := time.Now()
			r.begin()
			require.Equal(t, limit, time.Since(start))
			require.Len(t, r.logs.lines(slog.LevelInfo), 1)
		})
	}
}

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	r := newRunning(t, realDir(t))
	r.loader.pending.Store(1)
	r.start(r.loader)
	updates := r.subs.add(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- r.reload(context.Background(), true) }()

	var all sync.WaitGroup
	for range 4 {
		all.Go(r.close)
	}
	all.Wait()
	require.ErrorIs(t, <-waiting, ErrShutdown)
	require.ErrorIs(t, r.reload(context.Background(), true), ErrShutdown)
	for range updates { // until it is closed
	}
	_, open := <-r.subs.add(context.Background())
	require.False(t, open)
	require.Nil(t, r.watcher.src)
	require.False(t, r.life.start(func(context.Context) { t.Error("started after the end") }))
	r.wake() // as a plugin may that answers late
}

func TestUpdates(t *testing.T) {
	t.Parallel()
	r := newRunning(t, realDir(t))
	r.watcher.open = nil
	r.begin()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	idle, updates := r.subs.add(t.Context()), r.subs.add(ctx)
	require.NoError(t, r.reload(t.Context(), true))
	require.Empty(t, updates, "nothing has changed")
	for i := range 3 { // which nobody receives
		write(t, filepath.Join(r.loader.conf, "a.conf"), fmt.Sprint(i))
		require.NoError(t, r.reload(t.Context(), true))
	}
	<-updates
	require.Empty(t, updates, "they count as one")
	write(t, filepath.Join(r.loader.conf, "a.conf"), "more")
	require.NoError(t, r.reload(t.Context(), true))
	_, open := <-updates
	require.True(t, open)
	cancel()
	_, open = <-updates
	require.False(t, open)
	_, open = <-r.subs.add(ctx)
	require.False(t, open, "its context is over already")
	require.Len(t, idle, 1)
}

// A directory that is swapped between the look at it and its watch is seen to
// be another: nothing would tell of a change in it.
func TestWatchLooksAgainAfterWatching(t *testing.T) {
	t.Parallel()
	top := realDir(t)
	conf := filepath.Join(top, "net.d")
	require.NoError(t, os.Mkdir(conf, 0o700))
	src := newFakeSource()
	swapped := false
	src.onAdd = func(dir string) {
		if dir == conf && !swapped {
			swapped = true
			require.NoError(t, os.Rename(conf, filepath.Join(top, "old")))
			require.NoError(t, os.Symlink("new", conf))
			require.NoError(t, os.Mkdir(filepath.Join(top, "new"), 0o700))
		}
	}
	w := newWatcher(func() (source, error) { return src, nil }, slog.New(slog.DiscardHandler))
	require.True(t, w.arm([]watchTarget{{dir: conf}}))
	require.Contains(t, w.armed, filepath.Join(top, "new"))
	require.NotContains(t, w.armed, conf)
	require.Contains(t, src.removed, conf)
	require.False(t, w.arm([]watchTarget{{dir: conf}}), "nothing has changed since")

	// One that was removed and made again may well have the same inode.
	require.True(t, w.take(fsnotify.Event{Name: filepath.Join(top, "new"), Op: fsnotify.Create}, true))
	require.True(t, w.arm([]watchTarget{{dir: conf}}))
}

func TestRequestsThatWaitShareALoad(t *testing.T) {
	t.Parallel()
	conf := realDir(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRunning(t, conf)
		r.watcher.open = nil
		hold := make(chan struct{})
		publish := r.publish
		r.publish = func(s *snapshot) { <-hold; publish(s) }
		r.start(r.loader)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := r.reload(context.Background(), true); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(hold)
		all.Wait()
		require.Equal(t, int64(2), r.loader.loads.Load())
	})
}
