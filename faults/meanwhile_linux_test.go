package faults_test

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// foreignAdd attaches as a runtime does that has libcni alone.
func (n *node) foreignAdd(pod podcni.PodNetwork, name, ifName string) {
	list, err := libcni.NetworkConfFromBytes([]byte(testutils.List(name, "1.1.0", name)))
	require.NoError(n.t, err)
	_, err = n.libcni().AddNetworkList(n.t.Context(), list, &libcni.RuntimeConf{ContainerID: pod.ID, IfName: ifName, NetNS: pod.NetNS})
	require.NoError(n.t, err)
}

// Another runtime attached a and b. A tear-down of b alone fails, and makes a
// journal: a is detached all the same.
func TestOtherRuntimesAttachmentsAfterAFailedTearDown(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	n.bin.Plugin("a").Pool()
	pod := n.pod("sandbox")
	n.foreignAdd(pod, "a", "eth0")
	n.foreignAdd(pod, "b", "eth1")
	n.bin.Plugin("b").Next("DEL", testutils.Answer{Error: types.NewError(100, "not now", "")})
	p := n.open()
	require.Error(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox", NetNS: pod.NetNS, Networks: []podcni.NetAttachment{{Name: "b", Ifname: "eth1"}}}))
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Empty(t, n.records())
	require.Empty(t, n.bin.Plugin("a").Held(t))
}

// podcni adds a network to a pod of another runtime. Its tear-down is of both.
func TestFurtherNetworkOnAnotherRuntimesPod(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	n.bin.Plugin("a").Pool()
	pod := n.pod("sandbox")
	n.foreignAdd(pod, "a", "eth0")
	p := n.open()
	more := pod
	more.Networks = []podcni.NetAttachment{{Name: "b", Ifname: "net1"}}
	_, err := p.SetUpPod(more)
	require.NoError(t, err)
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Empty(t, n.records())
	require.Empty(t, n.bin.Plugin("a").Held(t))
}

func TestTearDownOfAnotherRuntimesPodOnAFullDisk(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	n.smallCache()
	pod := n.pod("sandbox")
	n.foreignAdd(pod, "a", "eth0")
	n.fill()
	require.NoError(t, n.open().TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
}

// A result of a running pod gives an I/O error while a further network is set up:
// nobody knows that the pod is half attached.
func TestSetUpWhenAResultCannotBeRead(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	n.bin.Plugin("a").Pool()
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	mend := ioError(t, n.result("a-sandbox-eth0"))
	more := pod
	more.Networks = []podcni.NetAttachment{{Name: "b", Ifname: "net1"}}
	_, err = p.SetUpPod(more)
	mend()
	require.ErrorIs(t, err, unix.EIO)
	require.Equal(t, []string{"ADD a"}, n.verbs())
	require.Equal(t, []string{"a sandbox eth0"}, n.bin.Plugin("a").Held(t))
}

// libcni reads an object of JSON with keys that come twice in its own way.
func TestTearDownWithOddResults(t *testing.T) {
	for name, res := range map[string]string{
		"two results":  `"result":{"cniVersion":"0.4.0","ips":[null]},"Result":{"cniVersion":"0.4.0"}`,
		"two lists":    `"result":{"cniVersion":"0.4.0","ips":[null],"IPS":[{"version":"4","address":"10.0.0.1/8"}]}`,
		"two versions": `"result":{"cniVersion":"0.4.0","CNIVersion":"1.1.0","ips":[{"version":"4","address":"10.0.0.1/8"}]}`,
		"twice":        `"result":{"cniVersion":"0.4.0","ips":[null],"ips":[{"version":"4","address":"10.0.0.1/8"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, "a")
			p := n.open()
			pod := n.pod("sandbox", "a")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			data, err := os.ReadFile(n.result("a-sandbox-eth0"))
			require.NoError(t, err)
			var m map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(data, &m))
			delete(m, "result")
			out, err := json.Marshal(m)
			require.NoError(t, err)
			out = append(out[:len(out)-1], []byte(","+res+"}")...)
			require.NoError(t, os.WriteFile(n.result("a-sandbox-eth0"), out, 0o600))
			defer func() {
				if r := recover(); r != nil {
					t.Fatalf("panic: %v", r)
				}
			}()
			require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
		})
	}
}

// DEL of sandbox c on network a-b, while sandbox b-c is attached to a.
func TestTearDownLeavesAResultOfTheSameName(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "a-b")
	p := n.open()
	gate := n.bin.Plugin("a-b").Gate("DEL")
	done := make(chan error, 1)
	go func() { done <- p.TearDownPod(n.pod("c", "a-b")) }()
	gate.Wait(t)
	pod := n.pod("b-c", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	gate.Open()
	require.NoError(t, <-done)
	_, err = p.GetPodNetworkStatus(pod)
	require.NoError(t, err)
}

// Nothing is recorded on this node yet. One process tears down, another sets up.
func TestFirstTearDownKeepsASetUpOut(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	n.bin.Plugin("a").Pool()
	gate := n.bin.Plugin("a").Gate("DEL")
	pod := n.pod("sandbox", "a")
	cmd := n.runtime("teardown", pod)
	gate.Wait(t)
	p := n.open()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := p.SetUpPodWithContext(ctx, pod)
	require.ErrorIs(t, err, podcni.ErrBusy)
	require.Equal(t, []string{"DEL a"}, n.verbs())
	gate.Open()
	require.NoError(t, cmd.Wait())
	_, err = p.SetUpPod(pod)
	require.NoError(t, err)
	require.FileExists(t, n.journal())
}

func TestForgetRemovesWhatWasSetAside(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(n.journal(), 0))
	require.NoError(t, p.TearDownPod(pod))
	require.NoError(t, p.Forget(t.Context(), "sandbox"))
	list, err := p.Attachments(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
}

// A network is taken from a running pod whose journal cannot be read.
func TestTearDownOfANamedNetworkWithADamagedJournal(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	n.bin.Plugin("a").Pool()
	p := n.open()
	pod := n.pod("sandbox", "a", "b")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(n.journal(), 0))
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox", Networks: []podcni.NetAttachment{{Name: "b", Ifname: "eth1"}}}))
	require.Equal(t, []string{"a sandbox eth0"}, n.bin.Plugin("a").Held(t), "a was not named")
	require.FileExists(t, n.journal())
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Empty(t, n.bin.Plugin("a").Held(t))
	require.NoFileExists(t, n.journal())
}

// A set-up of a further network cannot record it, and takes nothing from the pod.
func TestFurtherNetworkWithADamagedJournal(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	n.bin.Plugin("a").Pool()
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(n.journal(), 0))
	more := pod
	more.Networks = []podcni.NetAttachment{{Name: "b", Ifname: "net1"}}
	_, err = p.SetUpPod(more)
	require.ErrorIs(t, err, podcni.ErrBadRecord)
	require.Equal(t, []string{"a sandbox eth0"}, n.bin.Plugin("a").Held(t), "the pod runs")
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Empty(t, n.bin.Plugin("a").Held(t))
}
