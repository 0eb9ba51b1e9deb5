package podcni_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

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
