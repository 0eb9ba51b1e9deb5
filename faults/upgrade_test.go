package faults_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// libcni is what a runtime of today attaches pods with, as ocicni does.
func (n *node) libcni() *libcni.CNIConfig {
	exec := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}}
	return libcni.NewCNIConfigWithCacheDir([]string{n.bin.Path()}, n.cache, exec)
}

// A pod that ocicni attached, by way of libcni, is checked and detached as it was
// attached, also when the network's configuration has changed since.
func TestUpgradeInPlace(t *testing.T) {
	t.Parallel()
	const file = "net.conflist"
	old := testutils.ListJSON("net", "1.0.0", map[string]any{"type": "a", "mark": "old", "capabilities": map[string]bool{"portMappings": true}})
	for name, tc := range map[string]struct {
		change func(n *node)
		del    []string
		mark   string
	}{
		"the same": {func(*node) {}, []string{"DEL a"}, "old"},
		"changed":  {func(n *node) { n.conf.Write(file, testutils.List("net", "1.0.0", "b")) }, []string{"DEL a"}, "old"},
		"marked": {func(n *node) {
			n.conf.Write(file, testutils.ListJSON("net", "1.0.0", map[string]any{"type": "a", "mark": "new"}))
		}, []string{"DEL a"}, "old"},
		"gone":       {func(n *node) { n.conf.Remove(file) }, []string{"DEL a"}, "old"},
		"a folder's": {func(n *node) { n.conf.Write("net/10.conf", `{"type":"b","mark":"old"}`) }, []string{"DEL b", "DEL a"}, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.bin.Add("a", "b")
			n.bin.Plugin("a").Pool()
			n.conf.Write(file, old)
			list, err := libcni.NetworkConfFromBytes([]byte(old))
			require.NoError(t, err)
			pod := n.pod("sandbox", "net")
			_, err = n.libcni().AddNetworkList(t.Context(), list, &libcni.RuntimeConf{
				ContainerID: pod.ID, IfName: "eth0", NetNS: pod.NetNS,
				Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "web"}},
				CapabilityArgs: map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
			})
			require.NoError(t, err)
			require.NoError(t, os.MkdirAll(filepath.Join(n.conf.Path(), "net"), 0o700))
			tc.change(n)

			p := n.open()
			status, err := p.GetPodNetworkStatus(pod)
			require.NoError(t, err)
			require.Len(t, status, 1)
			_, err = types100.GetResult(status[0].Result)
			require.NoError(t, err)
			_, err = p.SetUpPod(pod)
			if name != "gone" {
				require.ErrorIs(t, err, podcni.ErrAlreadyAttached)
			}
			require.NoError(t, p.CheckPod(t.Context(), pod))
			before := len(n.verbs())
			require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
			require.Equal(t, tc.del, n.verbs()[before:])
			for _, del := range n.calls()[before:] {
				require.Contains(t, string(del.Stdin), `"prevResult"`)
				require.Contains(t, string(del.Stdin), `"mark":"`+tc.mark+`"`)
				require.Equal(t, pod.NetNS, del.Env["CNI_NETNS"])
				require.Equal(t, "IgnoreUnknown=1;K8S_POD_NAME=web", del.Env["CNI_ARGS"])
				if del.Plugin == "a" {
					require.Contains(t, string(del.Stdin), `"hostPort":8080`)
				}
			}
			require.Empty(t, n.records())
			require.Empty(t, n.bin.Plugin("a").Held(t))
		})
	}
}

// A pod that we attached is checked and detached by libcni: a node can go back.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	n.bin.Plugin("a").Pool()
	p := n.open()
	pod := n.pod("sandbox", "a")
	results, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, p.Shutdown())

	lib := n.libcni()
	list, err := libcni.NetworkConfFromBytes([]byte(testutils.List("a", "1.1.0", "a")))
	require.NoError(t, err)
	rt := &libcni.RuntimeConf{ContainerID: "sandbox", IfName: "eth0", NetNS: pod.NetNS}
	result, err := lib.GetNetworkListCachedResult(list, rt)
	require.NoError(t, err)
	require.Equal(t, results[0].Result, result)
	attachments, err := lib.GetCachedAttachments("sandbox")
	require.NoError(t, err)
	require.Len(t, attachments, 1)
	// From the record alone, as ocicni does it.
	config, rt, err := lib.GetNetworkListCachedConfig(list, rt)
	require.NoError(t, err)
	list, err = libcni.NetworkConfFromBytes(config)
	require.NoError(t, err)
	rt.NetNS = pod.NetNS
	require.NoError(t, lib.CheckNetworkList(t.Context(), list, rt))
	require.NoError(t, lib.DelNetworkList(t.Context(), list, rt))
	require.Equal(t, []string{"ADD a", "CHECK a", "DEL a"}, n.verbs())
	calls := n.calls()
	require.Equal(t, calls[0].Env["CNI_ARGS"], calls[2].Env["CNI_ARGS"])
	require.Contains(t, string(calls[2].Stdin), `"prevResult"`)
	require.Empty(t, n.bin.Plugin("a").Held(t))

	// podcni does not know of that DEL, and sends its own.
	require.NoFileExists(t, n.result("a-sandbox-eth0"))
	require.NoError(t, n.open().TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Equal(t, "DEL a", n.verbs()[3])
	require.Empty(t, n.records())
}
