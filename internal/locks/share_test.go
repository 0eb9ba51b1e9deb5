package locks_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/locks"
)

// A share that was taken on a new lock file is given back there, although another
// share of the network, on the file that was removed, ends later.
func TestShareOfANewLockFile(t *testing.T) {
	t.Parallel()
	cache, log := t.TempDir(), slog.New(slog.DiscardHandler)
	l := locks.New(cache, log)
	ctx := t.Context()
	sandbox := func(id string) *locks.Sandbox {
		s, err := l.Sandbox(ctx, id, true)
		require.NoError(t, err)
		t.Cleanup(s.Release)
		return s
	}
	old, err := sandbox("old").Network(ctx, "net")
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(cache, "podcni", ".lock")))
	sandbox("other") // keeps the new file open
	young, err := sandbox("young").Network(ctx, "net")
	require.NoError(t, err)
	young()
	old()
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	release, err := locks.New(cache, log).Network(soon, "net")
	require.NoError(t, err)
	release()
}
