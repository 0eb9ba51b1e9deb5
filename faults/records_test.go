package faults_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/internal/journal"
)

// damages are what may have become of a record.
func damages() map[string]func(t *testing.T, path string) {
	write := func(content func(old string) string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			old, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, []byte(content(string(old))), 0o600))
		}
	}
	return map[string]func(*testing.T, string){
		"empty":   write(func(string) string { return "" }),
		"cut":     write(func(old string) string { return old[:len(old)/2] }),
		"garbage": write(func(string) string { return "\x00\xff{]" }),
		"another kind": write(func(old string) string {
			return strings.NewReplacer("cniCacheV1", "cniCacheV2", `"version":1`, `"version":2`).Replace(old)
		}),
		"another's": write(func(old string) string {
			return strings.NewReplacer(`"containerId":"`, `"containerId":"another-`, `"containerID":"`, `"containerID":"another-`).Replace(old)
		}),
		"a directory": func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.MkdirAll(filepath.Join(path, "with", "content"), 0o700))
		},
	}
}

// without returns the verbs that are not among the others.
func without(verbs []string, but ...string) []string {
	return slices.DeleteFunc(verbs, func(v string) bool { return slices.Contains(but, v) })
}

// libcni's result is none any more: DEL goes out without it, by the journal.
func TestTearDownWithADamagedResult(t *testing.T) {
	t.Parallel()
	for name, damage := range damages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "b")
			n.bin.Plugin("a").Pool()
			n.bin.Plugin("b").Pool()
			p := n.open()
			pod := n.pod("sandbox", "a", "b")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			damage(t, n.result("a-sandbox-eth0"))
			_, err = p.GetPodNetworkStatus(podcni.PodNetwork{ID: "sandbox"})
			require.ErrorIs(t, err, podcni.ErrBadRecord)
			require.ErrorIs(t, err, podcni.ErrNotAttached)
			require.Error(t, p.CheckPod(t.Context(), pod))

			require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
			require.Equal(t, []string{"ADD a", "ADD b", "DEL b", "DEL a"}, n.verbs())
			del := n.calls()[3]
			require.NotContains(t, string(del.Stdin), "prevResult")
			require.Equal(t, pod.NetNS, del.Env["CNI_NETNS"])
			require.Empty(t, n.bin.Plugin("a").Held(t))
			require.Empty(t, n.bin.Plugin("b").Held(t))
			if name != "a directory" { // which is nobody's to remove
				require.Empty(t, n.records())
			}
		})
	}
}

// A result that libcni would panic over reaches no plugin.
func TestTearDownWithAResultThatPanics(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	text, err := os.ReadFile(n.result("a-sandbox-eth0"))
	require.NoError(t, err)
	var kept map[string]any
	require.NoError(t, json.Unmarshal(text, &kept))
	kept["result"] = map[string]any{"cniVersion": "0.4.0", "ips": []any{nil}}
	text, err = json.Marshal(kept)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.result("a-sandbox-eth0"), text, 0o600))
	_, err = p.GetPodNetworkStatus(pod)
	require.ErrorIs(t, err, podcni.ErrBadRecord)
	require.NoError(t, p.TearDownPod(pod))
	require.Equal(t, []string{"ADD a", "DEL a"}, n.verbs())
	require.NotContains(t, string(n.calls()[1].Stdin), "prevResult")
	require.Empty(t, n.records())
}

// A journal that is torn in any way: TearDownPod never returns nil without a DEL,
// and what it cannot read is set aside when everything was detached.
func TestTearDownWithADamagedJournal(t *testing.T) {
	t.Parallel()
	for name, damage := range damages() {
		for _, know := range []string{"by libcni's results", "by the networks that are named", "not at all"} {
			t.Run(name+" "+know, func(t *testing.T) {
				t.Parallel()
				n := newNode(t, "default", "a")
				n.bin.Plugin("a").Pool()
				p := n.open(podcni.WithDefaultNetwork("gone"))
				pod := n.pod("sandbox", "a")
				_, err := p.SetUpPod(pod)
				require.NoError(t, err)
				damage(t, n.journal())
				_, err = p.GetPodNetworkStatus(pod)
				require.ErrorIs(t, err, podcni.ErrBadRecord)
				down := podcni.PodNetwork{ID: "sandbox", NetNS: pod.NetNS}
				switch know {
				case "by the networks that are named":
					require.NoError(t, os.Remove(n.result("a-sandbox-eth0")))
					down.Networks = pod.Networks
				case "not at all":
					require.NoError(t, os.Remove(n.result("a-sandbox-eth0")))
					require.ErrorIs(t, p.TearDownPod(down), podcni.ErrBadRecord)
					require.Equal(t, []string{"ADD a"}, n.verbs())
					require.Equal(t, []string{"unreadable sandbox"}, n.records())
					down.Networks = pod.Networks
				}
				n.bin.Plugin("a").Next("DEL", failure())
				err = p.TearDownPod(down)
				require.ErrorIs(t, err, podcni.ErrBadRecord)
				require.NotZero(t, requirePluginError(t, err).Exit)
				require.NoError(t, p.TearDownPod(down))
				require.Equal(t, []string{"ADD a", "DEL a", "DEL a"}, n.verbs())
				require.Equal(t, "eth0", n.calls()[2].Env["CNI_IFNAME"])
				require.Empty(t, n.bin.Plugin("a").Held(t))
				require.Empty(t, n.records())
				list, err := p.Attachments(t.Context())
				require.NoError(t, err)
				require.Len(t, list, 1)
				require.Equal(t, podcni.AttachmentUnreadable, list[0].State)
				require.Equal(t, "sandbox", list[0].ContainerID)
			})
		}
	}
}

// A set-up first detaches what the journal was of.
func TestSetUpOverADamagedJournal(t *testing.T) {
	t.Parallel()
	for name, damage := range damages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a")
			n.bin.Plugin("a").Pool()
			p := n.open()
			pod := n.pod("sandbox", "a")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			damage(t, n.journal())
			_, err = p.SetUpPod(pod)
			require.NoError(t, err)
			require.Equal(t, []string{"ADD a", "DEL a", "ADD a"}, n.verbs())
			require.NoError(t, p.TearDownPod(pod))
			require.Empty(t, n.bin.Plugin("a").Held(t))
			require.Empty(t, n.records())
		})
	}
}

// GC leaves a sandbox alone whose journal cannot be read: it may be anybody's. Its
// attachments are told to the plugins if the sandbox is valid.
func TestGCOfADamagedJournal(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	damages()["cut"](t, n.journal())
	require.NoError(t, os.Remove(n.result("a-sandbox-eth0")))
	require.NoError(t, p.GC(t.Context(), nil))
	require.Equal(t, []string{"ADD a", "GC a"}, n.verbs())
	require.NoError(t, p.GC(t.Context(), []*podcni.PodNetwork{&pod}))
	calls := n.calls()
	require.Equal(t, []types.GCAttachment{{ContainerID: "sandbox", IfName: "eth0"}}, validAttachments(t, calls[2]))
}

// Two attachments whose records would share a file: the second is refused before
// anything runs, and neither is taken for the other.
func TestNamesThatRunTogether(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "a-b")
	p := n.open()
	one, two := n.pod("b-c", "a"), n.pod("c", "a-b")
	_, err := p.SetUpPod(one)
	require.NoError(t, err)
	_, err = p.SetUpPod(two)
	require.ErrorIs(t, err, podcni.ErrNameTaken)
	_, err = p.GetPodNetworkStatus(two)
	require.ErrorIs(t, err, podcni.ErrNotAttached)
	require.Equal(t, []string{"ADD a"}, n.verbs())
	require.NoError(t, p.TearDownPod(two))
	require.NoError(t, p.Forget(t.Context(), "c"))
	require.Equal(t, []string{"a-b-c-eth0"}, n.records())
	_, err = p.GetPodNetworkStatus(one)
	require.NoError(t, err)
	two.Networks[0].Ifname = "net1"
	_, err = p.SetUpPod(two)
	require.NoError(t, err)
	require.NoError(t, p.TearDownPod(one))
	require.NoError(t, p.TearDownPod(two))
	require.Empty(t, n.records())
}

// A file of libcni's that has the name of an attachment's result, and is another's,
// says nothing of that attachment.
func TestResultOfAnotherAttachment(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "a-b")
	gate := n.bin.Plugin("a").Gate("ADD")
	one, two := n.pod("b-c", "a"), n.pod("c", "a-b")
	cmd := n.runtime("setup", one)
	gate.Wait(t)
	kill(t, cmd)
	p := n.open()
	_, err := p.SetUpPod(two)
	require.NoError(t, err)
	states := make(map[string]podcni.AttachmentState)
	list, err := p.Attachments(t.Context())
	require.NoError(t, err)
	for _, a := range list {
		states[a.ContainerID] = a.State
	}
	require.Equal(t, map[string]podcni.AttachmentState{"b-c": podcni.AttachmentAttaching, "c": podcni.AttachmentAttached}, states)
	require.NoError(t, os.Remove(journal.Open(n.cache, false).Path("c")), "as another runtime attaches")
	require.NoError(t, n.open(podcni.WithOwner("other")).GC(t.Context(), nil))
	calls := n.calls()
	for _, call := range calls[len(calls)-2:] {
		require.Len(t, validAttachments(t, call), 1, call.Plugin)
	}
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "b-c"}))
	require.FileExists(t, n.result("a-b-c-eth0"), "it is the other's")
}

// A file where the directory of records should be: nothing runs.
func TestFileInPlaceOfTheRecords(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "results", "podcni", "podcni/.lock/x"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a")
			p := n.open()
			path := filepath.Join(n.cache, name)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			pod := n.pod("sandbox", "a")
			_, err := p.SetUpPod(pod)
			var re *podcni.RecordError
			require.ErrorAs(t, err, &re)
			require.Empty(t, n.verbs())
			require.NoError(t, os.RemoveAll(path))
			_, err = p.SetUpPod(pod)
			if name == "podcni/.lock/x" {
				require.ErrorAs(t, err, &re)
				require.NoError(t, os.RemoveAll(filepath.Dir(path)))
				_, err = p.SetUpPod(pod)
			}
			require.NoError(t, err)
			require.NoError(t, p.TearDownPod(pod))
		})
	}
}

// The directory of records vanishes while a plugin runs: it is made again.
func TestRecordsVanishDuringADD(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	gate := n.bin.Plugin("a").Gate("ADD")
	p := n.open()
	pod := n.pod("sandbox", "a")
	added := make(chan error, 1)
	go func() {
		_, err := p.SetUpPod(pod)
		added <- err
	}()
	gate.Wait(t)
	require.NoError(t, os.RemoveAll(n.cache))
	gate.Open()
	require.NoError(t, <-added)
	require.Len(t, n.records(), 1)
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Empty(t, n.records())
}
