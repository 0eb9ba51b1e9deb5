package faults_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// While one pod's plugin hangs, everything else goes on: other pods, changes of
// the configuration, Status, and waiters for the same pod whose time is over.
func TestHungPluginHoldsUpNobody(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "hung")
	gate := n.bin.Plugin("hung").Gate("ADD")
	p := n.open()
	hung := n.pod("hung", "hung")
	done := make(chan error, 1)
	go func() {
		_, err := p.SetUpPod(hung)
		done <- err
	}()
	gate.Wait(t)

	require.NoError(t, p.Status())
	other := n.pod("other", "a")
	_, err := p.SetUpPod(other)
	require.NoError(t, err)
	_, err = p.GetPodNetworkStatus(other)
	require.NoError(t, err)
	_, err = p.GetPodNetworkStatus(hung)
	require.ErrorIs(t, err, podcni.ErrNotAttached)

	n.bin.Add("new")
	updates := p.Updates(t.Context())
	n.conf.Write("99-new.conflist", testutils.List("new", "1.1.0", "new"))
	for len(p.Networks()) < 3 { // it comes by itself, as always
		<-updates
	}
	_, err = p.SetUpPod(n.pod("third", "new"))
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := p.SetUpPodWithContext(ctx, hung)
		waiting <- err
	}()
	cancel()
	require.ErrorIs(t, <-waiting, context.Canceled)
	require.NoError(t, p.TearDownPod(other))

	gate.Open()
	require.NoError(t, <-done)
}

// Operations on one sandbox never overlap.
func TestOneOperationPerSandbox(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	gate := n.bin.Plugin("a").Gate("ADD")
	p := n.open()
	pod := n.pod("sandbox", "a")
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = p.SetUpPod(pod) })
	gate.Wait(t)
	wg.Go(func() { _ = p.TearDownPod(pod) })
	wg.Go(func() { _ = p.CheckPod(context.Background(), pod) })
	require.Equal(t, []string{"ADD a"}, n.verbs())
	gate.Open()
	wg.Wait()
	for _, call := range n.calls() {
		require.True(t, call.Done)
	}
	require.Contains(t, n.verbs(), "DEL a")
}

// Two hundred pods at once while networks come and go, with plugins that fail
// now and then: in the end nothing is held and nothing runs.
func TestManyPodsWhileConfigsChurn(t *testing.T) {
	t.Parallel()
	pods := 200
	if testing.Short() {
		pods = 40
	}
	n := newNode(t, "a", "b")
	n.bin.Plugin("a").Pool()
	n.bin.Plugin("b").Pool()
	no := testutils.Answer{Error: types.NewError(100, "not now", "")}
	n.bin.Plugin("b").Next("ADD", no, testutils.Answer{}, no, testutils.Answer{}, no)
	n.bin.Plugin("a").Next("DEL", no, testutils.Answer{}, no)
	p := n.open(podcni.WithMaxConcurrent(16))
	netns := n.pod("shared").NetNS

	stop := make(chan struct{})
	var churn, work sync.WaitGroup
	churn.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("90-churn%d.conflist", i%3)
			n.conf.Write(name, testutils.List(fmt.Sprintf("churn%d", i), "1.1.0", "a"))
			_ = p.Reload(context.Background())
			n.conf.Remove(name)
		}
	})
	for i := range pods {
		work.Go(func() {
			pod := podcni.PodNetwork{
				ID: fmt.Sprintf("pod-%d", i), NetNS: netns,
				Networks: []podcni.NetAttachment{{Name: "a"}, {Name: "b"}},
			}
			_, _ = p.SetUpPod(pod)
			if p.TearDownPod(pod) != nil {
				_ = p.TearDownPod(pod)
			}
		})
	}
	work.Wait()
	close(stop)
	churn.Wait()
	require.NoError(t, p.GC(t.Context(), nil))
	require.Empty(t, n.bin.Plugin("a").Held(t))
	require.Empty(t, n.bin.Plugin("b").Held(t))
	require.Empty(t, n.records())
	n.requireNoPlugins()
}

// GC while pods come and go touches none that are valid.
func TestGCWhilePodsComeAndGo(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	n.bin.Plugin("a").Pool()
	p := n.open()
	keep := n.pod("keep", "a")
	_, err := p.SetUpPod(keep)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			pod := keep
			pod.ID = fmt.Sprintf("pod-%d", i)
			for range 3 {
				if _, err := p.SetUpPod(pod); err == nil {
					_ = p.TearDownPod(pod)
				}
			}
		})
	}
	for range 5 {
		require.NoError(t, p.GC(t.Context(), []*podcni.PodNetwork{&keep}))
	}
	wg.Wait()
	require.Equal(t, []string{"a-keep-eth0"}, n.records())
	require.Len(t, n.bin.Plugin("a").Held(t), 1)
}

// Whoever lists records while they are written and removed sees each whole or
// not at all.
func TestListingWhilePodsComeAndGo(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("pod", "a")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			mine := pod
			mine.ID = fmt.Sprintf("pod-%d", i)
			for range 25 {
				_, _ = p.SetUpPod(mine)
				_ = p.TearDownPod(mine)
			}
		})
	}
	go func() {
		wg.Wait()
		close(stop)
	}()
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		attachments, err := p.Attachments(t.Context())
		require.NoError(t, err)
		for _, a := range attachments {
			require.NotEqual(t, podcni.AttachmentUnreadable, a.State, a.Path)
		}
		if _, err := p.GetPodNetworkStatus(podcni.PodNetwork{ID: "pod-1"}); err != nil {
			require.ErrorIs(t, err, podcni.ErrNotAttached)
		}
	}
}
