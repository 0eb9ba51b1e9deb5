package faults_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// validAttachments is what a call of GC was told.
func validAttachments(t *testing.T, call testutils.Call) []types.GCAttachment {
	t.Helper()
	var stdin struct {
		Name  string               `json:"name"`
		Valid []types.GCAttachment `json:"cni.dev/valid-attachments"`
	}
	require.NoError(t, json.Unmarshal(call.Stdin, &stdin))
	return stdin.Valid
}

func TestGC(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	p := n.open()
	for _, id := range []string{"keep", "stale"} {
		_, err := p.SetUpPod(n.pod(id, "a", "b"))
		require.NoError(t, err)
	}
	before := len(n.verbs())
	require.NoError(t, p.GC(t.Context(), []*podcni.PodNetwork{{ID: "keep"}, nil}))
	calls := n.calls()[before:]
	verbs := testutils.Verbs(calls)
	require.Equal(t, []string{"DEL b", "DEL a"}, verbs[:2])
	require.ElementsMatch(t, []string{"GC a", "GC b"}, verbs[2:])
	for _, call := range calls[2:] {
		ifName := map[string]string{"a": "eth0", "b": "eth1"}[call.Plugin]
		require.Equal(t, []types.GCAttachment{{ContainerID: "keep", IfName: ifName}}, validAttachments(t, call))
		require.NotContains(t, call.Env, "CNI_CONTAINERID")
		require.Contains(t, call.Env, "CNI_PATH")
	}
	require.Equal(t, []string{"a-keep-eth0", "b-keep-eth1"}, n.records())

	require.NoError(t, p.GC(t.Context(), nil))
	require.Empty(t, n.records())
	last := n.calls()[len(n.calls())-1]
	require.Contains(t, string(last.Stdin), `"cni.dev/valid-attachments":[]`)
}

func TestGCOfNetworksThatLeft(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "gone")
	p := n.open(podcni.WithoutWatch(), podcni.WithOwner("me"))
	_, err := p.SetUpPod(n.pod("stale", "a", "gone"))
	require.NoError(t, err)
	n.conf.Remove("01-gone.conflist")
	require.NoError(t, p.Reload(t.Context()))
	require.Len(t, p.Networks(), 1)
	require.NoError(t, p.GC(t.Context(), nil))
	require.Equal(t, []string{"ADD a", "ADD gone", "DEL gone", "DEL a", "GC a"}, n.verbs())
	require.Empty(t, n.records())
}

func TestGCLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "left")
	other := n.open(podcni.WithOwner("other"))
	_, err := other.SetUpPod(n.pod("theirs", "a", "left"))
	require.NoError(t, err)
	mine := n.open(podcni.WithOwner("mine"))
	_, err = mine.SetUpPod(n.pod("ours", "a"))
	require.NoError(t, err)
	before := len(n.calls())
	require.NoError(t, mine.GC(t.Context(), nil))
	calls := n.calls()[before:]
	require.Equal(t, "DEL a", testutils.Verbs(calls)[0])
	require.Equal(t, "ours", calls[0].Env["CNI_CONTAINERID"])
	require.Equal(t, []string{"a-theirs-eth0", "left-theirs-eth1"}, n.records())
	for _, call := range calls[1:] {
		require.Len(t, validAttachments(t, call), 1, "what is another runtime's is valid")
		require.Equal(t, "theirs", validAttachments(t, call)[0].ContainerID)
	}
}

func TestGCTakesOwnerlessRecordsOfLoadedNetworks(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "left")
	old := n.open()
	_, err := old.SetUpPod(n.pod("old", "a", "left"))
	require.NoError(t, err)
	n.conf.Remove("01-left.conflist")
	require.NoError(t, n.open(podcni.WithOwner("new")).GC(t.Context(), nil))
	require.Equal(t, []string{"a-old-eth0", "left-old-eth1"}, n.records(), "an owner collects its own")
	require.NoError(t, n.open().GC(t.Context(), nil))
	require.Equal(t, []string{"left-old-eth1"}, n.records())
}

func TestGCRespectsDisableGC(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.bin.Add("a")
	n.conf.Write("a.conflist", `{"cniVersion":"1.1.0","name":"a","disableGC":true,"plugins":[{"type":"a"}]}`)
	p := n.open()
	_, err := p.SetUpPod(n.pod("stale", "a"))
	require.NoError(t, err)
	require.NoError(t, p.GC(t.Context(), nil))
	require.Equal(t, []string{"ADD a"}, n.verbs())
	require.Len(t, n.records(), 1)
}

func TestGCGoesOnPastErrors(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	bad := testutils.Answer{Error: types.NewError(100, "no", "")}
	n.bin.Plugin("a").On("GC", bad)
	n.bin.Plugin("a").On("DEL", bad)
	p := n.open()
	for _, id := range []string{"one", "two"} {
		_, err := p.SetUpPod(n.pod(id, "a", "b"))
		require.NoError(t, err)
	}
	err := p.GC(t.Context(), nil)
	require.Equal(t, "DEL", requirePluginError(t, err).Verb)
	require.Equal(t, []string{"a-one-eth0", "a-two-eth0"}, n.records())
	require.Subset(t, n.verbs(), []string{"GC a", "GC b", "DEL b"})

	invalid := p.GC(t.Context(), []*podcni.PodNetwork{{ID: "../x"}})
	require.ErrorIs(t, invalid, podcni.ErrInvalidPod)
}

func TestGCWaitsForAnIdleNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	gate := n.bin.Plugin("a").Gate("ADD")
	p := n.open()
	added := make(chan error, 1)
	pod := n.pod("slow", "a")
	go func() {
		_, err := p.SetUpPod(pod)
		added <- err
	}()
	gate.Wait(t)
	collected := make(chan error, 1)
	go func() { collected <- p.GC(t.Context(), []*podcni.PodNetwork{{ID: "slow"}}) }()
	require.Eventually(t, func() bool {
		for _, v := range n.verbs() {
			if v == "GC b" {
				return true
			}
		}
		return false
	}, bound, pollEvery)
	require.NotContains(t, n.verbs(), "GC a", "an ADD is under way")
	gate.Open()
	require.NoError(t, <-added)
	require.NoError(t, <-collected)
	require.Equal(t, "GC a", n.verbs()[len(n.verbs())-1])
}

func TestGCSkipsWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	p := n.open()
	_, err := p.SetUpPod(n.pod("keep", "a"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.cache+"/results/a-unknown-eth0", []byte("{"), 0o600))
	err = p.GC(t.Context(), []*podcni.PodNetwork{{ID: "keep"}, {ID: "unknown"}})
	var re *podcni.RecordError
	require.ErrorAs(t, err, &re)
	require.Equal(t, []string{"ADD a", "GC b"}, n.verbs(), "a plugin that is told too few attachments would remove live ones")
}

// What is attached while GC runs is left alone, and told to the plugins as
// valid, although the caller could not name it.
func TestGCLeavesWhatComesLater(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	gate := n.bin.Plugin("a").Gate("DEL")
	p := n.open()
	_, err := p.SetUpPod(n.pod("stale", "a"))
	require.NoError(t, err)
	collected := make(chan error, 1)
	go func() { collected <- p.GC(t.Context(), nil) }()
	gate.Wait(t)
	_, err = p.SetUpPod(n.pod("later", "b"))
	require.NoError(t, err)
	gate.Open()
	require.NoError(t, <-collected)
	require.Equal(t, []string{"b-later-eth0"}, n.records())
	for _, call := range n.calls() {
		if call.Verb == "GC" && call.Plugin == "b" {
			require.Equal(t, []types.GCAttachment{{ContainerID: "later", IfName: "eth0"}}, validAttachments(t, call))
		}
	}
}

// GC found a sandbox stale. Before it comes to it, the sandbox is torn down and set
// up again.
func TestGCLeavesASandboxThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	n.bin.Plugin("b").Pool()
	p := n.open()
	for _, id := range strings.Split("a0 a1 a2 a3 a4 a5 a6 a7", " ") {
		_, err := p.SetUpPod(n.pod(id, "a"))
		require.NoError(t, err)
	}
	_, err := p.SetUpPod(n.pod("z", "b"))
	require.NoError(t, err)
	gate := n.bin.Plugin("a").Gate("DEL")
	done := make(chan error, 1)
	go func() { done <- p.GC(t.Context(), nil) }()
	for range 8 {
		gate.Wait(t)
	}
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "z"}))
	_, err = p.SetUpPod(n.pod("z", "b"))
	require.NoError(t, err)
	gate.Open()
	require.NoError(t, <-done)
	require.Equal(t, []string{"b z eth0"}, n.bin.Plugin("b").Held(t))
}

// A sandbox found stale is set up again before GC has the network: its plugins are
// told of it.
func TestGCTellsPluginsOfASandboxThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	_, err := p.SetUpPod(n.pod("z", "a"))
	require.NoError(t, err)
	gate := n.bin.Plugin("a").Gate("ADD")
	held := make(chan error, 1)
	go func() { _, err := p.SetUpPod(n.pod("slow", "a")); held <- err }()
	gate.Wait(t)
	done := make(chan error, 1)
	go func() { done <- p.GC(t.Context(), []*podcni.PodNetwork{{ID: "slow"}}) }()
	n.waitForVerbs("DEL a", 1) // z is collected; GC waits for the network
	again := make(chan error, 1)
	go func() { _, err := p.SetUpPod(n.pod("z", "a")); again <- err }() // waits 2 s behind GC
	gate.Wait(t)
	gate.Open()
	require.NoError(t, <-held)
	require.NoError(t, <-again)
	require.NoError(t, <-done)
	calls := n.calls()
	last := calls[len(calls)-1]
	require.Equal(t, "GC", last.Verb)
	require.Contains(t, validAttachments(t, last), types.GCAttachment{ContainerID: "z", IfName: "eth0"})
}
