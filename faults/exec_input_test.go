package faults_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// Everything that plugins are given, byte for byte: their environment, whole,
// and their stdin, through the life of one attachment.
func TestWhatPluginsAreGiven(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.bin.Add("first", "second")
	first := `{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.5/16"}]}`
	last := `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.0.5/16","interface":0}]}`
	n.bin.Plugin("first").On("ADD", testutils.Answer{Result: first})
	n.bin.Plugin("second").On("ADD", testutils.Answer{Result: last})
	n.conf.Write("net.conflist", `{
		"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "0.3.1"], "name": "net",
		"plugins": [
			{"type": "first", "capabilities": {"portMappings": true, "mac": false}, "own": {"big": 9007199254740991}, "ipam": {"type": "first"}},
			{"type": "second", "capabilities": {"mac": true, "bandwidth": true}, "args": {"cni": {"x": 1}}}
		]}`)
	p := n.open(podcni.WithPluginEnv("SET=by us"))
	pod := n.pod("sandbox", "net")
	pod.RuntimeConfig = map[string]podcni.RuntimeConfig{"net": {
		MAC:          "c2:11:22:33:44:55",
		PortMappings: []podcni.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"}},
	}}
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, p.CheckPod(t.Context(), pod))
	require.NoError(t, p.Status())
	require.NoError(t, p.GC(t.Context(), []*podcni.PodNetwork{&pod}))
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))

	const (
		args    = "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=sandbox;K8S_POD_UID=uid-sandbox;MAC=c2:11:22:33:44:55"
		one     = `"cniVersion":"1.1.0","name":"net","type":"first","capabilities":{"portMappings":true,"mac":false},"own":{"big":9007199254740991},"ipam":{"type":"first"}`
		two     = `"cniVersion":"1.1.0","name":"net","type":"second","capabilities":{"mac":true,"bandwidth":true},"args":{"cni":{"x":1}}`
		oneCaps = `"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":""}]}`
		twoCaps = `"runtimeConfig":{"mac":"c2:11:22:33:44:55"}`
		valid   = `[{"containerID":"sandbox","ifname":"eth0"}]`
	)
	base := []string{"SET=by us", "CNI_PATH=" + n.bin.Path()}
	attachment := func(verb string) []string {
		return append(slices.Clone(base), "CNI_COMMAND="+verb, "CNI_CONTAINERID=sandbox", "CNI_NETNS="+pod.NetNS, "CNI_IFNAME=eth0", args)
	}
	network := func(verb string) []string { return append(slices.Clone(base), "CNI_COMMAND="+verb) }
	object := func(parts ...string) string { return "{" + strings.Join(parts, ",") + "}" }
	want := []struct {
		call  string
		env   []string
		stdin string
	}{
		{"ADD first", attachment("ADD"), object(one, oneCaps)},
		{"ADD second", attachment("ADD"), object(two, twoCaps, `"prevResult":`+first)},
		{"CHECK first", attachment("CHECK"), object(one, oneCaps, `"prevResult":`+last)},
		{"CHECK second", attachment("CHECK"), object(two, twoCaps, `"prevResult":`+last)},
		{"STATUS first", network("STATUS"), object(one)},
		{"STATUS second", network("STATUS"), object(two)},
		{"GC first", network("GC"), object(one, `"cni.dev/attachments":`+valid, `"cni.dev/valid-attachments":`+valid)},
		{"GC second", network("GC"), object(two, `"cni.dev/attachments":`+valid, `"cni.dev/valid-attachments":`+valid)},
		{"DEL second", attachment("DEL"), object(two, twoCaps, `"prevResult":`+last)},
		{"DEL first", attachment("DEL"), object(one, oneCaps, `"prevResult":`+last)},
	}
	calls := n.calls()
	require.Len(t, calls, len(want))
	for i, w := range want {
		require.Equal(t, w.call, calls[i].Verb+" "+calls[i].Plugin)
		require.ElementsMatch(t, w.env, calls[i].Environ, w.call)
		require.JSONEq(t, w.stdin, string(calls[i].Stdin), w.call)
	}
	for _, call := range n.bin.Calls(t) {
		require.Equal(t, n.bin.Path(), call.Env["CNI_PATH"], call.Verb)
		if call.Verb == "VERSION" {
			require.ElementsMatch(t, network("VERSION"), call.Environ)
			require.Equal(t, `{"cniVersion":"1.1.0"}`, string(call.Stdin))
		}
	}
}

// A network before version 0.4.0 has no CHECK, and its DEL no prevResult.
func TestOldNetworks(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"} {
		t.Run(fmt.Sprintf("version %q", version), func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.bin.Add("a")
			n.conf.Write("net.conflist", testutils.List("net", version, "a"))
			p := n.open()
			pod := n.pod("sandbox", "net")
			results, err := p.SetUpPod(pod)
			require.NoError(t, err)
			want := version
			if want == "" {
				want = "0.1.0"
			}
			require.Equal(t, want, results[0].Result.Version())
			status, err := p.GetPodNetworkStatus(pod)
			require.NoError(t, err)
			require.Equal(t, results, status)
			require.NoError(t, p.CheckPod(t.Context(), pod))
			require.NoError(t, p.Status())
			require.NoError(t, p.GC(t.Context(), nil))
			verbs := []string{"ADD a", "CHECK a", "DEL a"}
			if version < "0.4.0" {
				verbs = []string{"ADD a", "DEL a"}
			}
			require.Equal(t, verbs, n.verbs())
			calls := n.calls()
			require.Equal(t, version >= "0.4.0", strings.Contains(string(calls[len(calls)-1].Stdin), "prevResult"))
		})
	}
}
