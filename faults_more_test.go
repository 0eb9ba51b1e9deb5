package podcni_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// failure is a plugin's answer that it failed.
func failure() testutils.Answer {
	return testutils.Answer{Error: types.NewError(100, "not now", "")}
}

// One DEL that hangs, and then goes on to its time limit, does not use up the
// grace of the pod's others.
func TestGraceIsShared(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b", "bad")
	n.bin.Plugin("bad").On("DEL", testutils.Answer{Hang: true})
	p := n.open(podcni.WithTeardownGrace(9 * time.Second))
	pod := n.pod("torn", "a", "bad", "b", "bad")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = p.TearDownPodWithContext(ctx, pod)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "bad", requirePluginError(t, err).Plugin)
	require.Equal(t, []string{"DEL bad", "DEL b", "DEL bad", "DEL a"}, n.verbs()[4:])
	require.ElementsMatch(t, []string{"bad-torn-eth1", "bad-torn-eth3"}, n.records())
}

// ... nor that of a set-up which is undone.
func TestUndoIsShared(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "bad")
	n.bin.Plugin("bad").On("DEL", testutils.Answer{Hang: true})
	n.bin.Plugin("bad").On("ADD", testutils.Answer{Exit: 1})
	p := n.open(podcni.WithTeardownGrace(6 * time.Second))
	_, err := p.SetUpPod(n.pod("sandbox", "a", "bad"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, []string{"ADD a", "ADD bad", "DEL bad", "DEL a"}, n.verbs())
	require.Equal(t, []string{"bad-sandbox-eth1"}, n.records())
}

// A plugin that is no program has done nothing: it does not keep those before it
// from being undone.
func TestPluginIsNoProgram(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.bin.Add("first", "second")
	n.bin.Plugin("first").Pool()
	n.conf.Write("net.conflist", testutils.List("net", "1.1.0", "first", "second"))
	p := n.open(podcni.WithoutWatch())
	path := n.bin.Plugin("second").Path()
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, []byte("\x7fELF, but cut"), 0o755))
	_, err := p.SetUpPod(n.pod("sandbox", "net"))
	require.ErrorIs(t, err, syscall.ENOEXEC)
	require.Equal(t, "second", requirePluginError(t, err).Plugin)
	require.Equal(t, []string{"ADD first", "DEL first"}, n.verbs())
	require.Empty(t, n.records())
	require.Empty(t, n.bin.Plugin("first").Held(t))
}
