package faults_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/testutils"
)

// bound is how long a test waits for what must happen, on a machine that may be
// busy with others.
const bound = 60 * time.Second

// node is what a runtime has on one machine: plugins, networks, records and
// network namespaces.
type node struct {
	t     *testing.T
	bin   *testutils.BinDir
	conf  *testutils.ConfDir
	cache string
	count atomic.Int32
}

// newNode makes a node with these networks, each of them one fake plugin of the
// same name, in order.
func newNode(t *testing.T, networks ...string) *node {
	t.Helper()
	n := &node{
		t:     t,
		bin:   testutils.NewBinDir(t),
		conf:  testutils.NewConfDir(t),
		cache: filepath.Join(t.TempDir(), "cache"),
	}
	for i, name := range networks {
		n.bin.Add(name)
		n.conf.Write(fmt.Sprintf("%02d-%s.conflist", i, name), testutils.List(name, "1.1.0", name))
	}
	return n
}

// open starts a Plugin on the node; it is shut down at the end of the test.
func (n *node) open(opts ...podcni.Option) *podcni.CNI {
	n.t.Helper()
	p, err := podcni.New(append([]podcni.Option{
		podcni.WithConfDir(n.conf.Path()),
		podcni.WithBinDirs(n.bin.Path()),
		podcni.WithCacheDir(n.cache),
		podcni.WithLogger(slog.New(slog.NewTextHandler(testWriter{n.t}, &slog.HandlerOptions{Level: slog.LevelWarn}))),
	}, opts...)...)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { require.NoError(n.t, p.Shutdown()) })
	return p
}

// pod is a pod with a network namespace of its own, on these networks.
func (n *node) pod(id string, networks ...string) podcni.PodNetwork {
	n.t.Helper()
	pod := podcni.PodNetwork{Name: "web", Namespace: "shop", ID: id, UID: "uid-" + id, NetNS: testutils.NewNetNS(n.t)}
	for _, name := range networks {
		pod.Networks = append(pod.Networks, podcni.NetAttachment{Name: name})
	}
	return pod
}

// verbs are the calls that plugins got, VERSION left out, as "ADD bridge".
func (n *node) verbs() []string {
	n.t.Helper()
	return testutils.Verbs(n.calls())
}

// calls are the calls that plugins got, VERSION left out.
func (n *node) calls() []testutils.Call {
	n.t.Helper()
	var calls []testutils.Call
	for _, c := range n.bin.Calls(n.t) {
		if c.Verb != "VERSION" {
			calls = append(calls, c)
		}
	}
	return calls
}

// records are the attachments that are recorded, by the names of libcni's files:
// those of the journals, and libcni's own.
func (n *node) records() []string {
	n.t.Helper()
	store := journal.Open(n.cache, false)
	names, err := store.ResultNames()
	require.NoError(n.t, err)
	ids, err := store.List()
	require.NoError(n.t, err)
	for _, id := range ids {
		j, err := store.Read(id)
		if err != nil {
			names = append(names, "unreadable "+id)
			continue
		}
		for _, a := range j.Attachments {
			names = append(names, filepath.Base(store.ResultPath(a.Network, id, a.IfName)))
		}
	}
	slices.Sort(names)
	return slices.Compact(append([]string{}, names...))
}

// journal is the path of the journal of "sandbox".
func (n *node) journal() string { return journal.Open(n.cache, false).Path("sandbox") }

// result is the path of libcni's result of an attachment.
func (n *node) result(name string) string { return filepath.Join(n.cache, "results", name) }

// waitForVerbs waits until the plugins got the call so often. It is for
// goroutines beside the test's own.
func (n *node) waitForVerbs(verb string, times int) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for end := time.Now().Add(bound); time.Now().Before(end); <-tick.C {
		count := 0
		for _, v := range n.verbs() {
			if v == verb {
				count++
			}
		}
		if count >= times {
			return
		}
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// requirePluginError gives the first plugin's error in err.
func requirePluginError(t *testing.T, err error) *podcni.PluginError {
	t.Helper()
	var pe *podcni.PluginError
	require.ErrorAs(t, err, &pe)
	return pe
}

func TestSetUpAttachesInOrder(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b", "c")
	p := n.open()
	pod := n.pod("sandbox", "c", "a")
	results, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.Equal(t, []string{"ADD c", "ADD a"}, n.verbs())
	require.Len(t, results, 2)
	require.Equal(t, podcni.NetAttachment{Name: "c", Ifname: "eth0"}, results[0].NetAttachment)
	require.Equal(t, podcni.NetAttachment{Name: "a", Ifname: "eth1"}, results[1].NetAttachment)
	_, err = types100.GetResult(results[0].Result)
	require.NoError(t, err)
	require.Equal(t, []string{"a-sandbox-eth1", "c-sandbox-eth0"}, n.records())

	status, err := p.GetPodNetworkStatus(pod)
	require.NoError(t, err)
	require.Equal(t, results, status)

	require.NoError(t, p.CheckPod(t.Context(), pod))
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Equal(t, []string{"ADD c", "ADD a", "CHECK c", "CHECK a", "DEL a", "DEL c"}, n.verbs())
	require.Empty(t, n.records())

	_, err = p.GetPodNetworkStatus(pod)
	require.ErrorIs(t, err, podcni.ErrNotAttached)
	require.ErrorIs(t, p.CheckPod(t.Context(), pod), podcni.ErrNotAttached)
}

func TestSetUpTakesTheDefaultNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	require.Equal(t, "a", n.open().GetDefaultNetworkName())
	p := n.open(podcni.WithDefaultNetwork("b"))
	results, err := p.SetUpPod(n.pod("sandbox"))
	require.NoError(t, err)
	require.Equal(t, podcni.NetAttachment{Name: "b", Ifname: "eth0"}, results[0].NetAttachment)
}

func TestSetUpIsAllOrNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "bad", "c")
	n.bin.Plugin("bad").On("ADD", testutils.Answer{Error: types.NewError(100, "out of luck", "truly"), Stderr: "some log"})
	p := n.open()
	_, err := p.SetUpPod(n.pod("sandbox", "a", "bad", "c"))

	pe := requirePluginError(t, err)
	require.Equal(t, "ADD", pe.Verb)
	require.Equal(t, "bad", pe.Network)
	require.Equal(t, "sandbox", pe.ContainerID)
	require.Equal(t, "eth1", pe.IfName)
	require.Contains(t, pe.Stderr, "some log")
	var answer *types.Error
	require.ErrorAs(t, err, &answer)
	require.EqualValues(t, 100, answer.Code)
	for _, want := range []string{"shop/web", "sandbox", "bad", "out of luck", "truly", "some log"} {
		require.Contains(t, err.Error(), want)
	}
	require.Equal(t, []string{"ADD a", "ADD bad", "DEL bad", "DEL a"}, n.verbs())
	require.Empty(t, n.records())
}

func TestSetUpTwiceIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	_, err = p.SetUpPod(pod)
	require.ErrorIs(t, err, podcni.ErrAlreadyAttached)
	require.Equal(t, []string{"ADD a"}, n.verbs())

	// A further network with an interface of its own is another attachment.
	pod.Networks = []podcni.NetAttachment{{Name: "b", Ifname: "net1"}}
	_, err = p.SetUpPod(pod)
	require.NoError(t, err)
	pod.Networks = nil
	require.NoError(t, p.TearDownPod(pod))
	require.Equal(t, []string{"ADD a", "ADD b", "DEL b", "DEL a"}, n.verbs())
	require.Empty(t, n.records())
}

// A network is taken from a running pod, as it was added to it. Everything else of
// the pod stays attached.
func TestTearDownOfNamedNetworks(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b", "c")
	p := n.open()
	pod := n.pod("sandbox", "a", "b")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	more := pod
	more.Networks = []podcni.NetAttachment{{Name: "b", Ifname: "net1"}}
	_, err = p.SetUpPod(more)
	require.NoError(t, err)
	require.Equal(t, []string{"a-sandbox-eth0", "b-sandbox-eth1", "b-sandbox-net1"}, n.records())

	require.NoError(t, p.TearDownPod(more), "the interface is named, too")
	require.Equal(t, []string{"a-sandbox-eth0", "b-sandbox-eth1"}, n.records())
	more.Networks[0].Ifname = ""
	require.NoError(t, p.TearDownPod(more))
	require.Equal(t, []string{"a-sandbox-eth0"}, n.records())

	// Nothing is recorded of c. Its DEL is not about the interface of a.
	more.Networks[0].Name = "c"
	require.NoError(t, p.TearDownPod(more))
	calls := n.calls()
	require.Equal(t, "eth1", calls[len(calls)-1].Env["CNI_IFNAME"])
	results, err := p.GetPodNetworkStatus(podcni.PodNetwork{ID: "sandbox"})
	require.NoError(t, err)
	require.Len(t, results, 1)
	more.Networks[0].Ifname = "eth0"
	require.NoError(t, p.TearDownPod(more))
	require.Equal(t, []string{"a-sandbox-eth0"}, n.records())
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Equal(t, []string{"ADD a", "ADD b", "ADD b", "DEL b", "DEL b", "DEL c", "DEL a"}, n.verbs())
	require.Empty(t, n.records())
}

func TestSetUpInParallel(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b", "bad")
	gates := []*testutils.Gate{n.bin.Plugin("a").Gate("ADD"), n.bin.Plugin("b").Gate("ADD")}
	p := n.open(podcni.WithParallelAttach())
	type answer struct {
		results []podcni.NetResult
		err     error
	}
	done := make(chan answer, 1)
	pod := n.pod("sandbox", "a", "b")
	go func() {
		results, err := p.SetUpPod(pod)
		done <- answer{results, err}
	}()
	for _, g := range gates { // both are at work at once
		g.Wait(t)
	}
	for _, g := range gates {
		g.Open()
	}
	got := <-done
	require.NoError(t, got.err)
	require.Equal(t, "a", got.results[0].Name)
	require.Equal(t, "b", got.results[1].Name)

	n.bin.Plugin("bad").On("ADD", testutils.Answer{Error: types.NewError(100, "no", "")})
	_, err := p.SetUpPod(n.pod("other", "a", "bad", "b"))
	require.Equal(t, "bad", requirePluginError(t, err).Network)
	for _, name := range n.records() {
		require.NotContains(t, name, "other")
	}
}

func TestTearDownIsIdempotent(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, p.TearDownPod(pod))
	require.NoError(t, p.TearDownPod(pod))
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "never", Networks: []podcni.NetAttachment{{Name: "unknown"}}}))
	require.Equal(t, []string{"ADD a", "DEL a", "DEL a"}, n.verbs())

	// Of what is not recorded, those that are loaded get a DEL, each with the
	// interface that it would have had.
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "never", Networks: []podcni.NetAttachment{{Name: "unknown"}, {Name: "a"}}}))
	calls := n.calls()
	require.Equal(t, "eth1", calls[len(calls)-1].Env["CNI_IFNAME"])
}

func TestTearDownGoesOnPastFailures(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b", "c")
	n.bin.Plugin("b").Next("DEL", testutils.Answer{Error: types.NewError(100, "not now", "")})
	p := n.open()
	pod := n.pod("sandbox", "a", "b", "c")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.Equal(t, "b", requirePluginError(t, p.TearDownPod(pod)).Network)
	require.Equal(t, []string{"b-sandbox-eth1"}, n.records())
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: pod.ID}))
	require.Empty(t, n.records())
	require.Equal(t, []string{"DEL c", "DEL b", "DEL a", "DEL b"}, n.verbs()[3:])
}

func TestTearDownWithContextOver(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.SetUpPodWithContext(ctx, n.pod("other", "a"))
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, p.TearDownPodWithContext(ctx, pod))
	require.Equal(t, []string{"ADD a", "DEL a"}, n.verbs())
	require.Empty(t, n.records())
}

func TestCodes(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	again := testutils.Answer{Error: types.NewError(types.ErrTryAgainLater, "later", "")}
	n.bin.Plugin("a").Next("ADD", again)
	n.bin.Plugin("a").Next("DEL", testutils.Answer{}, again, testutils.Answer{Error: types.NewError(types.ErrUnknownContainer, "who?", "")})
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, p.TearDownPod(pod))
	require.Equal(t, []string{"ADD a", "DEL a", "ADD a", "DEL a", "DEL a"}, n.verbs())
	require.Empty(t, n.records())
}

func TestRetryEnds(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	n.bin.Plugin("a").On("ADD", testutils.Answer{Error: types.NewError(types.ErrTryAgainLater, "later", "")})
	p := n.open(podcni.WithMaxAttempts(2))
	_, err := p.SetUpPod(n.pod("sandbox", "a"))
	var answer *types.Error
	require.ErrorAs(t, err, &answer)
	require.EqualValues(t, types.ErrTryAgainLater, answer.Code)
	require.Equal(t, []string{"ADD a", "DEL a", "ADD a", "DEL a"}, n.verbs())
}

func TestShutdownEndsEverything(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, p.Shutdown())
	require.NoError(t, p.Shutdown())
	ctx := t.Context()
	_, setUp := p.SetUpPod(pod)
	_, status := p.GetPodNetworkStatus(pod)
	_, attachments := p.Attachments(ctx)
	for what, err := range map[string]error{
		"SetUpPod": setUp, "TearDownPod": p.TearDownPod(pod), "GetPodNetworkStatus": status,
		"CheckPod": p.CheckPod(ctx, pod), "GC": p.GC(ctx, nil), "Status": p.Status(), "Attachments": attachments,
		"Forget": p.Forget(ctx, "sandbox"), "Reload": p.Reload(ctx), "WaitReady": p.WaitReady(ctx),
		"UpdatePodCIDRs": p.UpdatePodCIDRs(t.Context(), nil),
	} {
		require.ErrorIs(t, err, podcni.ErrShutdown, what)
	}
	require.Equal(t, podcni.CNIPluginName, p.Name())
	require.Empty(t, p.GetDefaultNetworkName())
	require.Empty(t, p.Networks())

	require.NoError(t, n.open().TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Equal(t, []string{"ADD a", "DEL a"}, n.verbs())
}

func TestSetUpRefusesBadNamespaces(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	for _, path := range []string{"/nonexistent", t.TempDir(), "/proc/self/ns/net", "/proc/self/ns/mnt"} {
		pod := n.pod("sandbox", "a")
		pod.NetNS = path
		_, err := p.SetUpPod(pod)
		require.ErrorIs(t, err, podcni.ErrNetNS, path)
		var pe *podcni.PluginError
		require.False(t, errors.As(err, &pe))
	}
	require.Empty(t, n.verbs())
	require.Empty(t, n.records())
}
