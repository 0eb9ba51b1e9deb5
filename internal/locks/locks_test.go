package locks_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/podcni/podcni/internal/locks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLocks(cache string) *locks.Locks {
	return locks.New(cache, slog.New(slog.DiscardHandler))
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// One Locks stands for one process: each opens the file for itself.
func TestSandboxIsForOne(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	here := newLocks(cache)
	for what, other := range map[string]*locks.Locks{"this process": here, "another process": newLocks(cache)} {
		id := "pod-" + what[:2]
		held, err := here.Sandbox(t.Context(), id, true)
		require.NoError(t, err, what)
		_, err = other.Sandbox(soon(t), id, true)
		require.ErrorIs(t, err, context.DeadlineExceeded, what)
		require.Equal(t, what == "another process", errors.Is(err, locks.ErrBusy), what)
		tried, err := other.TrySandbox(id)
		require.NoError(t, err)
		require.Nil(t, tried, what)
		free, err := other.Sandbox(t.Context(), "other", true)
		require.NoError(t, err, what)
		free.Release()

		got := make(chan error, 1)
		go func() {
			s, err := other.Sandbox(t.Context(), id, false)
			if err == nil {
				s.Release()
			}
			got <- err
		}()
		held.Release()
		require.NoError(t, <-got, what)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := here.Sandbox(over, "free", true)
	require.ErrorIs(t, err, context.Canceled, "a context that is over takes no lock, not even a free one")
}

func TestOperationsOnOneSandboxTakeTurns(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	processes := []*locks.Locks{newLocks(cache), newLocks(cache)}
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			s, err := processes[i%2].Sandbox(t.Context(), "pod", true)
			if err != nil {
				t.Error(err)
				return
			}
			most.Store(max(most.Load(), inside.Add(1)))
			inside.Add(-1)
			s.Release()
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, most.Load())
}

func TestBusy(t *testing.T) {
	t.Parallel()
	l := newLocks(t.TempDir())
	require.Empty(t, l.Busy())
	s, err := l.Sandbox(t.Context(), "pod", true)
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"pod": true}, l.Busy())
	s.Release()
	require.Empty(t, l.Busy())
}

// Operations share a network, also those of one sandbox; a GC has it alone.
func TestNetwork(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	here, there := newLocks(cache), newLocks(cache)
	for what, gc := range map[string]*locks.Locks{"this process": here, "another process": there} {
		a, err := here.Sandbox(t.Context(), "a", true)
		require.NoError(t, err)
		b, err := there.Sandbox(t.Context(), "b", true)
		require.NoError(t, err)
		var releases []func()
		for _, s := range []*locks.Sandbox{a, a, b} {
			release, err := s.Network(t.Context(), "net")
			require.NoError(t, err, what)
			releases = append(releases, release)
		}
		for _, release := range releases {
			_, err = gc.Network(soon(t), "net")
			require.ErrorIs(t, err, locks.ErrBusy, what)
			require.ErrorIs(t, err, context.DeadlineExceeded, what)
			release()
		}
		alone, err := gc.Network(t.Context(), "net")
		require.NoError(t, err, what)
		for _, s := range []*locks.Sandbox{a, b} {
			_, err = s.Network(soon(t), "net")
			require.ErrorIs(t, err, locks.ErrBusy, what)
			other, err := s.Network(t.Context(), "other")
			require.NoError(t, err, what)
			other()
		}
		alone()
		release, err := a.Network(t.Context(), "net")
		require.NoError(t, err, what)
		release()
		a.Release()
		b.Release()
	}
}

// A GC that waits for a hung plugin holds other pods back for two seconds at a
// time, and lets them through in between.
func TestWaitingGCLetsOthersThrough(t *testing.T) {
	cache := t.TempDir() // no lock file is made without create: nothing but semaphores
	synctest.Test(t, func(t *testing.T) {
		l := newLocks(cache)
		hung, err := l.Sandbox(t.Context(), "hung", false)
		require.NoError(t, err)
		release, err := hung.Network(t.Context(), "net")
		require.NoError(t, err)
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := l.Network(ctx, "net")
			done <- err
		}()
		synctest.Wait()
		pod, err := l.Sandbox(t.Context(), "pod", false)
		require.NoError(t, err)
		began := time.Now()
		share, err := pod.Network(t.Context(), "net")
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), 2*time.Second)
		share()
		cancel()
		require.ErrorIs(t, <-done, locks.ErrBusy)
		release()
		hung.Release()
		pod.Release()
	})
}

func TestClaim(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	here, there := newLocks(cache), newLocks(cache)
	a, err := here.Sandbox(t.Context(), "a", true)
	require.NoError(t, err)
	ok, err := a.Claim("name")
	require.NoError(t, err)
	require.True(t, ok)
	ok, err = a.Claim("name")
	require.NoError(t, err)
	require.False(t, ok, "two attachments of one sandbox may compete, too")
	for what, l := range map[string]*locks.Locks{"this process": here, "another process": there} {
		b, err := l.Sandbox(t.Context(), "b", true)
		require.NoError(t, err)
		ok, err = b.Claim("name")
		require.NoError(t, err)
		require.False(t, ok, what)
		b.Release()
	}
	a.Release()
	b, err := there.Sandbox(t.Context(), "b", true)
	require.NoError(t, err)
	ok, err = b.Claim("name")
	require.NoError(t, err)
	require.True(t, ok)
	b.Release()
}

// The directory is removed while a lock is held: who comes next makes a new file,
// and all who come after that see the same one.
func TestLockFileRemoved(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	here, there := newLocks(cache), newLocks(cache)
	s, err := here.Sandbox(t.Context(), "before", true)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(filepath.Join(cache, "podcni")))
	a, err := here.Sandbox(t.Context(), "pod", true)
	require.NoError(t, err)
	_, err = there.Sandbox(soon(t), "pod", true)
	require.ErrorIs(t, err, locks.ErrBusy)
	a.Release()
	s.Release()
}

func TestNothingIsCreatedWithoutNeed(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(t.TempDir(), "cache")
	l := newLocks(cache)
	s, err := l.Sandbox(t.Context(), "pod", false)
	require.NoError(t, err)
	s.Release()
	require.NoDirExists(t, cache)
	// libcni has recorded something: then tear-downs exclude each other, too.
	require.NoError(t, os.MkdirAll(filepath.Join(cache, "results"), 0o700))
	s, err = l.Sandbox(t.Context(), "pod", false)
	require.NoError(t, err)
	_, err = newLocks(cache).Sandbox(soon(t), "pod", false)
	require.ErrorIs(t, err, locks.ErrBusy)
	s.Release()
}

// A set-up does not go on without a lock; a tear-down does.
func TestLockFileCannotBeMade(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(dir string) error{
		"a file in the directory's place": func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"a link in the file's place": func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Symlink("/dev/null", filepath.Join(dir, ".lock")))
		},
		"a directory in the file's place": func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, ".lock"), 0o700)
		},
	} {
		cache := t.TempDir()
		require.NoError(t, spoil(filepath.Join(cache, "podcni")), what)
		l := newLocks(cache)
		_, err := l.Sandbox(t.Context(), "pod", true)
		require.Error(t, err, what)
		require.NotErrorIs(t, err, locks.ErrBusy, what)
		s, err := l.Sandbox(t.Context(), "pod", false)
		require.NoError(t, err, what)
		s.Release()
	}
}

func BenchmarkSandbox(b *testing.B) {
	l := newLocks(b.TempDir())
	for i := 0; b.Loop(); i++ {
		s, err := l.Sandbox(b.Context(), fmt.Sprint(i), true)
		if err != nil {
			b.Fatal(err)
		}
		release, err := s.Network(b.Context(), "net")
		if err != nil {
			b.Fatal(err)
		}
		release()
		s.Release()
	}
}
