package plugin

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/spec"
)

// scriptedExec is an invoke.Exec that tests script.
type scriptedExec struct {
	version.PluginDecoder
	run func(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error)
}

var _ invoke.Exec = &scriptedExec{}

func (e *scriptedExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	return e.run(ctx, path, stdin, env)
}

func (*scriptedExec) FindInPath(plugin string, paths []string) (string, error) {
	if plugin == "lost" {
		return "", errors.New("no such plugin")
	}
	return filepath.Join(paths[0], plugin), nil
}

func TestRunThroughExec(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testRunThroughExec)
}

func testRunThroughExec(t *testing.T) {
	exec := &scriptedExec{}
	bin := t.TempDir()
	r := New(Options{
		Exec: exec, BinDirs: []string{bin}, Env: []string{"A=b"},
		Limits: map[string]time.Duration{spec.Add: time.Hour, spec.Del: 20 * time.Millisecond},
	})
	_, err := r.Find("lost")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = r.Find("../bridge")
	require.ErrorIs(t, err, ErrNotFound)

	c := Call{
		Verb: spec.Add, Plugin: "bridge", ContainerID: "c", IfName: "eth0", Stdin: []byte(`{"cniVersion":"1.0.0"}`), CNIVersion: "1.0.0",
		NetNS: func(context.Context) (string, error) { return "/ns", nil },
	}
	path := filepath.Join(bin, "bridge")
	var gotPath, gotStdin string
	var gotEnv []string
	exec.run = func(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
		gotPath, gotStdin, gotEnv = path, string(stdin), env
		if _, limited := ctx.Deadline(); !limited {
			return nil, errors.New("no limit")
		}
		return []byte("{}"), nil
	}
	out, err := r.Run(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, Outcome{Path: path, Stdout: []byte(`{"cniVersion":"1.0.0"}`)}, out)
	require.Equal(t, path, gotPath)
	require.Equal(t, `{"cniVersion":"1.0.0"}`, gotStdin)
	require.Equal(t, []string{
		"A=b", "CNI_PATH=" + bin, "CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_NETNS=/ns", "CNI_IFNAME=eth0",
	}, gotEnv)

	own := types.NewError(11, "later", "")
	exec.run = func(context.Context, string, []byte, []string) ([]byte, error) { return nil, own }
	_, err = r.Run(t.Context(), c)
	var got *types.Error
	require.ErrorAs(t, err, &got)
	require.Same(t, own, got)

	exec.run = func(context.Context, string, []byte, []string) ([]byte, error) { return make([]byte, maxStdout+1), nil }
	_, err = r.Run(t.Context(), c)
	require.ErrorIs(t, err, ErrOutputTooLarge)

	// libcni's own Exec flattens the context's error into text.
	exec.run = func(ctx context.Context, _ string, _ []byte, _ []string) ([]byte, error) {
		<-ctx.Done()
		return nil, types.NewError(0, "signal: killed", "")
	}
	c.Verb = spec.Del
	out, err = r.Run(t.Context(), c)
	require.True(t, out.TimedOut)
	require.False(t, out.NotStarted)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorAs(t, err, &got)

	c.Verb = spec.Add
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	out, err = r.Run(ctx, c)
	require.False(t, out.TimedOut)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorAs(t, err, &got)
}

// A run that hangs in the kernel, once it may have started, holds its caller no
// longer than one that is being killed.
func TestRunGivesUpWhatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		r := New(Options{
			BinDirs: []string{"/bin"},
			Limits:  map[string]time.Duration{spec.Del: time.Minute},
			Exec: &scriptedExec{run: func(context.Context, string, []byte, []string) ([]byte, error) {
				<-hang
				return nil, nil
			}},
		})
		began := time.Now()
		out, err := r.Run(t.Context(), Call{Verb: spec.Del, Plugin: "p"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errUnknown)
		require.True(t, out.TimedOut)
		require.False(t, out.NotStarted)
		require.Equal(t, time.Minute+termGrace+killGrace, time.Since(began))
		require.EqualValues(t, 1, r.workers.Load())
		close(hang)
		synctest.Wait()
		require.Zero(t, r.workers.Load())
	})
}
