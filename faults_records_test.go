package podcni_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
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
			return strings.Replace(old, "cniCacheV1", "cniCacheV2", 1)
		}),
		"another's": write(func(old string) string {
			return strings.Replace(old, `"containerId":"`, `"containerId":"another-`, 1)
		}),
		"a directory": func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.MkdirAll(filepath.Join(path, "with", "content"), 0o700))
		},
	}
}

// onlyAside tells that there is nothing recorded but one file that was set
// aside, which Forget removes.
func (n *node) onlyAside(p *podcni.Plugin) {
	n.t.Helper()
	require.Empty(n.t, n.records())
	list, err := p.Attachments(n.t.Context())
	require.NoError(n.t, err)
	require.Len(n.t, list, 1)
	require.Equal(n.t, podcni.AttachmentUnreadable, list[0].State)
	require.ErrorIs(n.t, list[0].Err, podcni.ErrBadRecord)
	require.NoError(n.t, p.Forget(n.t.Context(), "sandbox"))
	list, err = p.Attachments(n.t.Context())
	require.NoError(n.t, err)
	require.Empty(n.t, list)
}

// A record that is none stops no DEL: it goes on without the result.
func TestTearDownWithADamagedRecord(t *testing.T) {
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
			damage(t, filepath.Join(n.cache, "results", "a-sandbox-eth0"))
			_, err = p.GetPodNetworkStatus(podcni.PodNetwork{ID: "sandbox"})
			require.ErrorIs(t, err, podcni.ErrBadRecord)
			require.Error(t, p.CheckPod(t.Context(), pod))

			require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox", NetNS: pod.NetNS}))
			require.Equal(t, []string{"ADD a", "ADD b", "DEL b", "DEL a"}, n.verbs())
			del := n.calls()[3]
			require.NotContains(t, string(del.Stdin), "prevResult")
			require.Equal(t, "eth0", del.Env["CNI_IFNAME"])
			require.Equal(t, pod.NetNS, del.Env["CNI_NETNS"])
			require.Empty(t, n.bin.Plugin("a").Held(t))
			require.Empty(t, n.bin.Plugin("b").Held(t))
			n.onlyAside(p)
		})
	}
}

// ... and is set aside only once the DEL has succeeded.
func TestTearDownFailsWithADamagedRecord(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	damages()["empty"](t, filepath.Join(n.cache, "results", "a-sandbox-eth0"))
	n.bin.Plugin("a").Next("DEL", failure())
	err = p.TearDownPod(pod)
	require.ErrorIs(t, err, podcni.ErrBadRecord)
	requirePluginError(t, err)
	require.Len(t, n.records(), 1)
	require.NoError(t, p.TearDownPod(pod))
	n.onlyAside(p)
}

// A set-up first detaches what the record was of.
func TestSetUpOverADamagedRecord(t *testing.T) {
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
			damage(t, filepath.Join(n.cache, "results", "a-sandbox-eth0"))
			_, err = p.SetUpPod(pod)
			require.NoError(t, err)
			require.Equal(t, []string{"ADD a", "DEL a", "ADD a"}, n.verbs())
			require.NoError(t, p.TearDownPod(pod))
			require.Empty(t, n.bin.Plugin("a").Held(t))
			n.onlyAside(p)
		})
	}
}

// GC detaches what a record was of that tells it by its name, unless the sandbox
// is valid or the network is not loaded.
func TestGCOfADamagedRecord(t *testing.T) {
	t.Parallel()
	for name, damage := range damages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "the-net")
			n.bin.Plugin("the-net").Pool()
			p := n.open(podcni.WithoutWatch())
			pod := n.pod("sandbox", "the-net")
			const id = "0123456789abcdef0123456789abcdef" // as runtimes make them
			stale := pod
			stale.ID = id
			for _, pod := range []podcni.PodNetwork{pod, stale} {
				_, err := p.SetUpPod(pod)
				require.NoError(t, err)
			}
			damage(t, filepath.Join(n.cache, "results", "the-net-"+id+"-eth0"))
			valid := []*podcni.PodNetwork{&pod, &stale}
			var re *podcni.RecordError
			require.ErrorAs(t, p.GC(t.Context(), valid), &re, "it is valid, and stays")
			require.ErrorIs(t, re, podcni.ErrBadRecord)
			require.Equal(t, []string{"ADD the-net", "ADD the-net"}, n.verbs())

			n.conf.Remove("00-the-net.conflist")
			require.NoError(t, p.Reload(t.Context()))
			require.NoError(t, p.GC(t.Context(), valid[:1]))
			require.Len(t, n.records(), 2, "of a network that is not loaded")

			require.NoError(t, n.open(podcni.WithConfList([]byte(theNet))).GC(t.Context(), valid[:1]))
			require.Equal(t, []string{"DEL the-net", "GC the-net"}, n.verbs()[2:])
			require.Equal(t, []string{"the-net-sandbox-eth0"}, n.records())
			require.Len(t, n.bin.Plugin("the-net").Held(t), 1)
		})
	}
}

const theNet = `{"cniVersion":"1.1.0","name":"the-net","plugins":[{"type":"the-net"}]}`

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

// A file where the directory of records should be: nothing runs.
func TestFileInPlaceOfTheRecords(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "results", "podcni", "podcni/lock/x"} {
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
			if name == "podcni/lock/x" {
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

// ... also when that was the same interface of another network.
func TestSetUpOverADamagedRecordOfAnotherNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	damages()["cut"](t, filepath.Join(n.cache, "results", "a-sandbox-eth0"))
	pod.Networks[0].Name = "b"
	_, err = p.SetUpPod(pod)
	require.NoError(t, err)
	require.Equal(t, []string{"ADD a", "DEL a", "ADD b"}, n.verbs())
}
