package confdir

import (
	"context"
	"errors"
	"fmt"
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
	bubble(t, func(t *testing.T, r *running) {
		r.network("a.conf", "0")
		r.reload(t)
		before := r.loads.Load()
		r.network("a.conf", "1")
		r.src.events <- r.wrote()
		pass(quietFor - 1)
		require.Equal(t, before, r.loads.Load())
		pass(1)
		require.Equal(t, before+1, r.loads.Load())
		require.Equal(t, "a=1", state(r.d.Current()))
	})
}

func TestStreamOfEventsPutsNothingOffForEver(t *testing.T) {
	bubble(t, func(t *testing.T, r *running) {
		r.network("a.conf", "start")
		r.reload(t)
		before := r.loads.Load()
		start := time.Now()
		var first time.Duration
		for i := range 500 {
			r.src.events <- r.wrote()
			r.network("a.conf", fmt.Sprint(i))
			pass(10 * time.Millisecond)
			if first == 0 && r.loads.Load() > before {
				first = time.Since(start)
			}
		}
		require.Positive(t, first)
		require.LessOrEqual(t, first, 100*time.Millisecond)
		pass(90 * time.Millisecond) // 100 after the last
		synctest.Wait()
		require.Equal(t, "a=499", state(r.d.Current()))
		require.Less(t, r.loads.Load()-before, int64(24))

		// It is as quick as before once the stream is over.
		before = r.loads.Load()
		r.src.events <- r.wrote()
		pass(quietFor)
		require.Equal(t, before+1, r.loads.Load())
	})
}

func TestNeighboursOfDirectoriesAreIgnored(t *testing.T) {
	bubble(t, func(t *testing.T, r *running) {
		before := r.loads.Load()
		for _, name := range []string{"../README", "../other.conf", "../../x"} {
			for _, op := range []fsnotify.Op{fsnotify.Create, fsnotify.Write, fsnotify.Rename, fsnotify.Remove, fsnotify.Chmod} {
				r.src.events <- fsnotify.Event{Name: r.path(name), Op: op}
			}
		}
		pass(sweepEvery / 2)
		require.Equal(t, before, r.loads.Load())
	})
}

func TestSweepWithoutEvents(t *testing.T) {
	bubble(t, func(t *testing.T, r *running) {
		r.network("a.conf", "unseen")
		pass(sweepEvery - 1)
		require.Empty(t, state(r.d.Current()))
		pass(time.Second) // its plugin is asked
		synctest.Wait()
		require.Equal(t, "a=unseen", state(r.d.Current()))
	})
}

func TestLostEventsWatchAllAnew(t *testing.T) {
	bubble(t, func(t *testing.T, r *running) {
		before := len(r.src.added)
		r.network("a.conf", "1")
		r.src.errs <- fsnotify.ErrEventOverflow
		pass(quietFor + probeNews)
		require.Equal(t, "a=1", state(r.d.Current()))
		r.src.mu.Lock()
		defer r.src.mu.Unlock()
		require.Contains(t, r.src.removed, r.dir)
		require.Contains(t, r.src.added[before:], r.dir)
	})
}

func TestPollingWithoutInotify(t *testing.T) {
	for name, breakIt := range map[string]func(r *running, src *fakeNotifier) (mend func()){
		"no instance": func(r *running, src *fakeNotifier) func() {
			var works atomic.Bool
			r.d.watcher.open = func() (notifier, error) {
				if !works.Load() {
					return nil, errors.New("too many open files")
				}
				return src, nil
			}
			return func() { works.Store(true) }
		},
		"no watch": func(_ *running, src *fakeNotifier) func() {
			src.fail(errors.New("no space left on device"))
			return func() { src.fail(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t).plugin("a")
			synctest.Test(t, func(t *testing.T) {
				src := newFakeNotifier()
				r := b.run(t, func() (notifier, error) { return src, nil })
				mend := breakIt(r, src)
				b.network("a.conf", "start")
				r.d.start()
				defer r.d.Close()
				r.reload(t)
				for i := range 10 {
					b.network("a.conf", fmt.Sprint(i))
					pass(pollEvery)
					require.Equal(t, fmt.Sprintf("a=%d", i), state(r.d.Current()))
				}
				require.Len(t, b.logs.lines("polling"), 1)
				mend()
				pass(pollEvery)
				require.Len(t, b.logs.lines("again"), 1)
				loads := r.loads.Load()
				pass(sweepEvery - 1)
				require.Equal(t, loads, r.loads.Load(), "still polling")
				src.events <- r.wrote()
				pass(quietFor)
				require.Equal(t, loads+1, r.loads.Load())
			})
		})
	}
}

func TestNotifierThatEndsIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	synctest.Test(t, func(t *testing.T) {
		first, second := newFakeNotifier(), newFakeNotifier()
		all := []*fakeNotifier{first, second}
		r := b.run(t, func() (notifier, error) {
			src := all[0]
			all = all[1:]
			return src, nil
		})
		r.d.start()
		defer r.d.Close()
		r.reload(t)
		close(first.events)
		pass(quietFor)
		require.True(t, first.closed)
		require.Contains(t, second.added, b.dir)
	})
}

func TestLogsOneLineForAChangeAndNoneOtherwise(t *testing.T) {
	bubble(t, func(t *testing.T, r *running) {
		said := 0
		expect := func(words ...string) {
			t.Helper()
			r.reload(t)
			lines := r.logs.lines("")[said:]
			require.Len(t, lines, len(words), "%v", lines)
			for i, line := range words {
				for word := range strings.FieldsSeq(line) {
					require.Contains(t, lines[i], word)
				}
			}
			said += len(words)
		}
		expect("level=WARN ready")
		expect()
		r.network("b.conf", "1")
		expect("level=INFO [b] default=b")
		r.network("b.conf", "2")
		expect()
		r.network("a.conf", "3")
		expect("level=INFO default=a")
		r.write("c.conf", "{")
		expect("level=WARN c.conf line")
		expect()
		r.network("b.conf", "4")
		expect()
		r.write("d.conf", list("d", "1.0.0", "absent")).write("c.conf", "[]")
		expect("level=WARN c.conf array", "level=WARN d.conf absent")
		r.remove("c.conf")
		expect()
		r.write("c.conf", "[]")
		expect("level=WARN c.conf array")
		require.NoError(t, os.Remove(filepath.Join(r.bin, "a")))
		expect("level=WARN a.conf", "level=WARN b.conf", "level=WARN ready plugin")
		pass(10 * sweepEvery)
		expect()
	})
}

func TestRequestsThatWaitShareALoad(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	synctest.Test(t, func(t *testing.T) {
		r := b.run(t, nil)
		begun, hold := make(chan struct{}, 9), make(chan struct{})
		load := r.d.load
		r.d.load = func(ctx context.Context, prev *Snapshot) *Snapshot {
			begun <- struct{}{}
			<-hold
			return load(ctx, prev)
		}
		r.d.start()
		defer r.d.Close()
		<-begun
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := r.d.Reload(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(hold)
		all.Wait()
		require.Equal(t, int64(2), r.loads.Load())
	})
}

func TestReloadBeginsAfterTheCall(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	d := b.open() // and does not watch
	for i := range 50 {
		b.network("a.conf", fmt.Sprint(i))
		require.NoError(t, d.Reload(t.Context()))
		require.Equal(t, fmt.Sprintf("a=%d", i), state(d.Current()))
	}
}

func TestOpenAndReloadWaitForPlugins(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b", "hung")
	b.network("a.conf", "1")
	b.write("b.conf", list("b", "1.0.0", "b")).write("h.conf", list("h", "1.0.0", "hung"))
	b.o.ProbeTimeout = 3 * time.Second
	synctest.Test(t, func(t *testing.T) {
		b.o.Versions = func(ctx context.Context, plugin, path string) ([]string, error) {
			if plugin != "hung" {
				<-time.After(time.Second)
				return b.versions(ctx, plugin, path)
			}
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start := time.Now()
		d, err := Open(b.o)
		require.NoError(t, err)
		defer d.Close()
		require.Equal(t, 3*time.Second, time.Since(start))
		require.Equal(t, []string{"a", "b"}, names(d.Current()), "one that hangs holds back no other")
		require.ErrorIs(t, d.Current().Rejected[0].Err, errProbing)
		synctest.Wait()
		require.Len(t, b.logs.lines("networks changed"), 1)

		start = time.Now()
		require.NoError(t, d.Reload(t.Context()))
		require.Equal(t, 3*time.Second, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, d.Reload(ctx), context.DeadlineExceeded)
		pass(time.Minute)
		require.ErrorIs(t, d.Current().Rejected[0].Err, context.DeadlineExceeded)
		start = time.Now()
		require.NoError(t, d.Reload(t.Context()))
		require.Zero(t, time.Since(start))
	})
}

func TestPluginThatFailsIsAskedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.network("a.conf", "1")
	synctest.Test(t, func(t *testing.T) {
		b.set(nil, errors.New("crashed"))
		d, err := Open(b.o) // which does not watch
		require.NoError(t, err)
		defer d.Close()
		require.ErrorContains(t, d.Current().Reason, "crashed")
		b.set(nil, nil)
		pass(firstRetry - time.Millisecond)
		require.Empty(t, d.Current().Networks)
		pass(time.Millisecond)
		require.Equal(t, "a=1", state(d.Current()))
		require.NoError(t, d.Current().Reason)
	})
}

// A file system that hangs holds the loading goroutine.
func TestHungFileSystemHoldsNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.network("a.conf", "1")
	b.o.ProbeTimeout = 3 * time.Second
	synctest.Test(t, func(t *testing.T) {
		back := make(chan struct{})
		find := b.o.Find
		b.o.Find = func(typ string) (string, error) {
			<-back
			return find(typ)
		}
		start := time.Now()
		d, err := Open(b.o)
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(start), b.o.ProbeTimeout+moment)
		require.ErrorContains(t, d.Current().Reason, b.dir+" has not been read yet")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, d.Reload(ctx), context.DeadlineExceeded)
		updates := d.Subscribe(t.Context())
		start = time.Now()
		d.Close()
		require.LessOrEqual(t, time.Since(start), moment)
		_, open := <-updates
		require.False(t, open)
		before := d.Current()
		close(back)
		synctest.Wait() // and the goroutine ends
		require.Same(t, before, d.Current())
		require.Empty(t, b.ran(), "no plugin is started any more")
	})
}

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.network("a.conf", "1")
	b.o.Watch, b.o.ProbeTimeout = true, 0
	hold := make(chan struct{})
	b.set(hold, nil)
	d := b.open()
	updates := d.Subscribe(t.Context())
	b.network("b.conf", "1")
	var all sync.WaitGroup
	for range 4 {
		all.Go(d.Close)
	}
	all.Wait()
	require.ErrorIs(t, d.Reload(t.Context()), ErrClosed)
	for range updates { // until it is closed
	}
	_, open := <-d.Subscribe(t.Context())
	require.False(t, open)
	require.Nil(t, d.watcher.src)
	require.NotNil(t, d.Current())
	close(hold)
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	d := b.open()
	ctx, cancel := context.WithCancel(t.Context())
	idle, updates := d.Subscribe(t.Context()), d.Subscribe(ctx)
	require.NoError(t, d.Reload(t.Context()))
	require.Empty(t, updates, "nothing has changed")
	for i := range 3 { // which nobody receives
		b.network("a.conf", fmt.Sprint(i))
		require.NoError(t, d.Reload(t.Context()))
	}
	<-updates
	require.Empty(t, updates, "they count as one")
	for _, change := range []func(){
		func() { b.write("b.conf", "{") },
		func() { b.write("b.conf", "[]") },
		func() { require.NoError(t, os.Remove(filepath.Join(b.bin, "a"))) },
	} {
		change()
		require.NoError(t, d.Reload(t.Context()))
		_, open := <-updates
		require.True(t, open)
	}
	cancel()
	_, open := <-updates
	require.False(t, open)
	_, open = <-d.Subscribe(ctx)
	require.False(t, open, "its context is over already")
	require.Len(t, idle, 1)
}

// A directory that is swapped between the look at it and its watch is seen to be
// another: nothing would tell of a change in it.
func TestWatchLooksAgainAfterWatching(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	top := filepath.Dir(b.dir)
	src := newFakeNotifier()
	swapped := false
	src.onAdd = func(dir string) {
		if dir == b.dir && !swapped {
			swapped = true
			rename(t, b.dir, filepath.Join(top, "old"))
			require.NoError(t, os.Symlink("new", b.dir))
			mkdir(t, filepath.Join(top, "new"))
		}
	}
	w := newWatcher(func() (notifier, error) { return src, nil }, b.o.Log)
	targets := []string{b.dir}
	require.True(t, w.arm(targets))
	require.True(t, w.arm(targets))
	require.Contains(t, w.armed, filepath.Join(top, "new"))
	require.NotContains(t, w.armed, b.dir)
	require.Contains(t, src.removed, b.dir)
	require.False(t, w.arm(targets), "nothing has changed since")

	// One that was removed and made again may well have the same inode.
	require.True(t, w.take(fsnotify.Event{Name: filepath.Join(top, "new"), Op: fsnotify.Create}, true))
	require.True(t, w.arm(targets))

	// Another directory is in its place, and nothing has told.
	require.False(t, w.arm(targets))
	rename(t, filepath.Join(top, "new"), filepath.Join(top, "newer"))
	mkdir(t, filepath.Join(top, "new"))
	require.True(t, w.arm(targets))
}
