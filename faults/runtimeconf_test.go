package faults_test

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// everything is a pod's wishes with each field set.
func everything() podcni.RuntimeConfig {
	return podcni.RuntimeConfig{
		IP:             "10.1.0.5/16",
		MAC:            "c2:11:22:33:44:55",
		PortMappings:   []podcni.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"}, {ContainerPort: 81}},
		Bandwidth:      &podcni.BandwidthConfig{IngressRate: 1, IngressBurst: 2, EgressRate: 3, EgressBurst: 4},
		IpRanges:       [][]podcni.IpRange{{{Subnet: "10.1.0.0/16"}}},
		CgroupPath:     "/kubelet.slice",
		PodAnnotations: &map[string]string{"a": "b"},
		IPs:            []string{"2001:db8::5/64"},
		DNS:            &podcni.DNSConfig{Servers: []string{"10.1.0.2"}},
		DeviceID:       "0000:04:00.5",
		InfinibandGUID: "c2:11:22:33:44:55:66:77",
		Args:           map[string]string{"COLOUR": "blue"},
		CapabilityArgs: map[string]any{"new": []int{1}},
	}
}

// everythingJSON is what plugins may be told of it, by capability.
var everythingJSON = map[string]string{
	"portMappings":                      `[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":""}]`,
	"ipRanges":                          `[[{"subnet":"10.1.0.0/16"}]]`,
	"bandwidth":                         `{"ingressRate":1,"ingressBurst":2,"egressRate":3,"egressBurst":4}`,
	"dns":                               `{"servers":["10.1.0.2"]}`,
	"ips":                               `["10.1.0.5/16","2001:db8::5/64"]`,
	"mac":                               `"c2:11:22:33:44:55"`,
	"infinibandGUID":                    `"c2:11:22:33:44:55:66:77"`,
	"deviceID":                          `"0000:04:00.5"`,
	"aliases":                           `["www"]`,
	"cgroupPath":                        `"/kubelet.slice"`,
	"io.kubernetes.cri.pod-annotations": `{"a":"b"}`,
	"new":                               `[1]`,
}

// What the caller asks must reach each plugin that declares it, on ADD and, from
// the record, on DEL, and no other.
func TestRuntimeConfigReachesPlugins(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	all := make(map[string]bool)
	for name := range everythingJSON {
		all[name] = true
	}
	n.bin.Add("all", "some", "none")
	n.conf.Write("net.conflist", testutils.ListJSON("net", "1.1.0",
		map[string]any{"type": "all", "capabilities": all},
		map[string]any{"type": "some", "capabilities": map[string]bool{"mac": true, "ips": false, "other": true}},
		map[string]any{"type": "none"},
	))
	p := n.open()
	pod := n.pod("sandbox")
	pod.RuntimeConfig = map[string]podcni.RuntimeConfig{"net": everything()}
	pod.Aliases = map[string][]string{"net": {"www"}, "elsewhere": {"x"}}
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	// From here on the record counts, not what the caller says.
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: pod.ID}))

	require.Equal(t, []string{"ADD all", "ADD some", "ADD none", "DEL none", "DEL some", "DEL all"}, n.verbs())
	for _, call := range n.calls() {
		what := call.Verb + " " + call.Plugin
		require.Equal(t, "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=sandbox;"+
			"K8S_POD_UID=uid-sandbox;IP=10.1.0.5/16;MAC=c2:11:22:33:44:55;COLOUR=blue", call.Env["CNI_ARGS"], what)
		var stdin struct{ RuntimeConfig map[string]json.RawMessage }
		require.NoError(t, json.Unmarshal(call.Stdin, &stdin))
		want := map[string]string{}
		switch call.Plugin {
		case "all":
			want = everythingJSON
		case "some":
			want["mac"] = everythingJSON["mac"]
		}
		got := map[string]string{}
		for name, raw := range stdin.RuntimeConfig {
			got[name] = string(raw)
		}
		require.Equal(t, want, got, what)
	}
}

// Bad input never reaches a plugin, leaves no record, and names its field.
func TestBadRuntimeConfigStopsEverything(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	p := n.open()
	pod := n.pod("sandbox", "a", "b")
	good := everything()
	bad := everything()
	bad.PortMappings[0].Protocol = "icmp"
	pod.RuntimeConfig = map[string]podcni.RuntimeConfig{"a": good, "b": bad}
	before := maps.Clone(pod.RuntimeConfig)

	_, err := p.SetUpPod(pod)
	require.ErrorIs(t, err, podcni.ErrInvalidPod)
	var field *podcni.FieldError
	require.ErrorAs(t, err, &field)
	require.Equal(t, `RuntimeConfig["b"].PortMappings[0].Protocol`, field.Field)
	require.Equal(t, "icmp", field.Value)
	var podErr *podcni.PodError
	require.ErrorAs(t, err, &podErr)
	require.Equal(t, "sandbox", podErr.ID)

	require.Empty(t, n.verbs())
	require.Empty(t, n.records())
	require.Equal(t, before, pod.RuntimeConfig)
	require.Equal(t, []podcni.NetAttachment{{Name: "a"}, {Name: "b"}}, pod.Networks)
	require.NoError(t, p.TearDownPod(pod), "what was refused needs no tear-down, and must not stand in its way")
}

// One network may be attached several times, each with options of its own.
func TestInterfaceConfigReachesItsAttachment(t *testing.T) {
	t.Parallel()
	n := newNode(t, "net")
	p := n.open()
	pod := n.pod("sandbox")
	pod.Networks = []podcni.NetAttachment{{Name: "net"}, {Name: "net", Ifname: "eth0"}, {Name: "net"}}
	pod.RuntimeConfig = map[string]podcni.RuntimeConfig{"net": {MAC: "02:00:00:00:00:01"}}
	pod.InterfaceConfig = map[string]podcni.RuntimeConfig{"eth0": {MAC: "02:00:00:00:00:02"}, "eth2": {}}
	results, err := p.SetUpPod(pod)
	require.NoError(t, err)
	var names []string
	for _, r := range results {
		names = append(names, r.Ifname)
	}
	require.Equal(t, []string{"eth1", "eth0", "eth2"}, names)
	const args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=sandbox;K8S_POD_UID=uid-sandbox"
	var got []string
	for _, call := range n.calls() {
		got = append(got, call.Env["CNI_IFNAME"]+" "+call.Env["CNI_ARGS"])
	}
	require.Equal(t, []string{
		"eth1 " + args + ";MAC=02:00:00:00:00:01",
		"eth0 " + args + ";MAC=02:00:00:00:00:02",
		"eth2 " + args,
	}, got)
	require.NoError(t, p.TearDownPod(pod))
}
