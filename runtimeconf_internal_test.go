package podcni

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"
)

// testSnapshot has the networks of these names, the first of them the default.
func testSnapshot(names ...string) *snapshot {
	snap := &snapshot{byName: map[string]*network{}}
	for _, name := range names {
		n := &network{name: name, config: []byte(`{"name":"` + name + `"}`)}
		snap.networks = append(snap.networks, n)
		snap.byName[name] = n
	}
	if len(names) > 0 {
		snap.def = snap.networks[0]
	}
	return snap
}

func testOptions(t testing.TB, opts ...Option) *options {
	o, err := newOptions(opts)
	require.NoError(t, err)
	return o
}

// planOne plans the pod "id" on the network "net" with rc.
func planOne(t testing.TB, rc RuntimeConfig) (*record, error) {
	pod := &PodNetwork{
		ID: "id", Name: "name", Namespace: "ns", UID: "uid", NetNS: "/run/netns/x",
		RuntimeConfig: map[string]RuntimeConfig{"net": rc},
	}
	plan, err := planPod(testOptions(t), testSnapshot("net"), pod, "")
	if err != nil {
		require.Nil(t, plan)
		return nil, err
	}
	require.Len(t, plan, 1)
	return plan[0].rec, nil
}

// requireField wants an ErrInvalidPod that names the field, and gives the value
// that it names.
func requireField(t testing.TB, err error, field string) (value string) {
	t.Helper()
	var bad *FieldError
	require.ErrorAs(t, err, &bad)
	require.ErrorIs(t, err, ErrInvalidPod)
	require.Equal(t, field, bad.Field)
	require.Less(t, len(err.Error()), 1000, "an error must stay readable whatever was given")
	return bad.Value
}

func TestCheckPod(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("a", 10<<10)
	for _, tc := range []struct {
		name  string
		spoil func(*PodNetwork)
		field string // empty: valid
	}{
		{"valid", func(*PodNetwork) {}, ""},
		{"no names", func(p *PodNetwork) { p.Name, p.Namespace, p.UID = "", "", "" }, ""},
		{"odd but harmless name", func(p *PodNetwork) { p.Name = "a b/c:ü" }, ""},
		{"no ID", func(p *PodNetwork) { p.ID = "" }, "ID"},
		{"traversal in ID", func(p *PodNetwork) { p.ID = "../x" }, "ID"},
		{"NUL in ID", func(p *PodNetwork) { p.ID = "a\x00" }, "ID"},
		{"huge ID", func(p *PodNetwork) { p.ID = huge }, "ID"},
		{"semicolon in name", func(p *PodNetwork) { p.Name = "a;IP=10.0.0.1" }, "Name"},
		{"equals in namespace", func(p *PodNetwork) { p.Namespace = "a=b" }, "Namespace"},
		{"NUL in UID", func(p *PodNetwork) { p.UID = "\x00" }, "UID"},
		{"huge name", func(p *PodNetwork) { p.Name = huge }, "Name"},
		{"NUL in NetNS", func(p *PodNetwork) { p.NetNS = "/run/\x00" }, "NetNS"},
		{"huge NetNS", func(p *PodNetwork) { p.NetNS = "/" + huge }, "NetNS"},
		{"no network name", func(p *PodNetwork) { p.Networks[1].Name = "" }, "Networks[1].Name"},
		{"traversal in network", func(p *PodNetwork) { p.Networks[0].Name = "../a" }, "Networks[0].Name"},
		{"huge network", func(p *PodNetwork) { p.Networks[2].Name = huge }, "Networks[2].Name"},
		{"traversal in interface", func(p *PodNetwork) { p.Networks[1].Ifname = "x/../../v" }, "Networks[1].Ifname"},
		{"long interface", func(p *PodNetwork) { p.Networks[1].Ifname = "abcdefghijklmnop" }, "Networks[1].Ifname"},
		{"huge interface", func(p *PodNetwork) { p.Networks[1].Ifname = huge }, "Networks[1].Ifname"},
		{"interface twice", func(p *PodNetwork) { p.Networks[2].Ifname = p.Networks[0].Ifname }, "Networks[2].Ifname"},
		{"network twice", func(p *PodNetwork) { p.Networks[2].Name = p.Networks[0].Name }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			pod := PodNetwork{
				ID: "id", Name: "name", Namespace: "ns", UID: "uid", NetNS: "/run/netns/x",
				Networks: []NetAttachment{{"a", "eth0"}, {"b", ""}, {"c", "net1"}},
			}
			tc.spoil(&pod)
			err := checkPod(&pod, true)
			_, planErr := planPod(testOptions(t), testSnapshot("a", "b", "c"), &pod, "")
			if tc.field == "" {
				require.NoError(t, err)
				require.NoError(t, planErr)
				return
			}
			requireField(t, err, tc.field)
			requireField(t, planErr, tc.field)
		})
	}
}

func TestCheckPodNetNS(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkPod(&PodNetwork{ID: "id"}, false))
	err := checkPod(&PodNetwork{ID: "id"}, true)
	if runtime.GOOS == "windows" {
		require.NoError(t, err)
		return
	}
	requireField(t, err, "NetNS")
}

func TestInterfaceNames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		given, want []string
	}{
		{[]string{""}, []string{"eth0"}},
		{[]string{"", "", ""}, []string{"eth0", "eth1", "eth2"}},
		{[]string{"net0", "", ""}, []string{"net0", "eth0", "eth1"}},
		{[]string{"", "eth0", "", "eth2", ""}, []string{"eth1", "eth0", "eth3", "eth2", "eth4"}},
		{[]string{"eth1", "", "eth0"}, []string{"eth1", "eth2", "eth0"}},
	} {
		pod := &PodNetwork{ID: "id"}
		for _, ifName := range tc.given {
			pod.Networks = append(pod.Networks, NetAttachment{"net", ifName})
		}
		plan, err := planPod(testOptions(t), testSnapshot("net"), pod, "")
		require.NoError(t, err)
		var got []string
		for i, p := range plan {
			require.Equal(t, i, p.rec.Order)
			got = append(got, p.rec.IfName)
		}
		require.Equal(t, tc.want, got)
		for i, att := range pod.Networks {
			require.Equal(t, tc.given[i], att.Ifname, "the caller's slice must stay as it was")
		}
	}
}

func TestInterfacePrefix(t *testing.T) {
	t.Parallel()
	snap := testSnapshot("net")
	plan, err := planPod(testOptions(t, WithInterfacePrefix("net")), snap, &PodNetwork{ID: "id"}, "")
	require.NoError(t, err)
	require.Equal(t, "net0", plan[0].rec.IfName)

	// 12 bytes leave room for 1000 numbers.
	pod := &PodNetwork{ID: "id", Networks: make([]NetAttachment, 1001)}
	for i := range pod.Networks {
		pod.Networks[i].Name = "net"
	}
	o := testOptions(t, WithInterfacePrefix("abcdefghijkl"))
	_, err = planPod(o, snap, pod, "")
	requireField(t, err, "Networks[1000].Ifname")
	pod.Networks = pod.Networks[:1000]
	plan, err = planPod(o, snap, pod, "")
	require.NoError(t, err)
	require.Equal(t, "abcdefghijkl999", plan[999].rec.IfName)
}

func TestPlanRecords(t *testing.T) {
	t.Parallel()
	pod := &PodNetwork{
		ID: "id", Name: "name", Namespace: "ns", UID: "uid", NetNS: "/run/netns/x",
		Networks: []NetAttachment{{"b", ""}, {"a", "net1"}},
	}
	snap := testSnapshot("a", "b")
	plan, err := planPod(testOptions(t, WithOwner("me")), snap, pod, "")
	require.NoError(t, err)
	require.Len(t, plan, 2)
	require.Same(t, snap.byName["b"], plan[0].net)
	require.Same(t, snap.byName["a"], plan[1].net)
	require.Equal(t, &record{
		ContainerID: "id", IfName: "net1", Network: "a", NetNS: "/run/netns/x", Config: snap.byName["a"].config,
		CniArgs: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", "ns"},
			{"K8S_POD_NAME", "name"},
			{"K8S_POD_INFRA_CONTAINER_ID", "id"},
			{"K8S_POD_UID", "uid"},
		},
		State: stateAttaching, Owner: "me", Order: 1,
		Pod: podName{Namespace: "ns", Name: "name", UID: "uid"},
	}, plan[1].rec)
}

func TestPlanNetworkNotFound(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	snap := testSnapshot("a")
	reason := errors.New("half a file")
	snap.rejected = []ConfigError{{Path: "/etc/cni/net.d/1.conflist", Network: "bad", Err: reason}}
	pod := &PodNetwork{ID: "id", Networks: []NetAttachment{{Name: "a"}, {Name: "bad"}}}
	_, err := planPod(o, snap, pod, "")
	require.ErrorIs(t, err, ErrNetworkNotFound)
	require.ErrorIs(t, err, reason)
	var rejected *ConfigError
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, "/etc/cni/net.d/1.conflist", rejected.Path)

	pod.Networks[1].Name = "other"
	_, err = planPod(o, snap, pod, "")
	require.ErrorIs(t, err, ErrNetworkNotFound)
	require.NotErrorIs(t, err, reason)
	require.ErrorContains(t, err, `"other"`)

	snap.def, snap.reason = nil, reason
	_, err = planPod(o, snap, &PodNetwork{ID: "id"}, "")
	require.ErrorIs(t, err, ErrNetworkNotFound)
	require.ErrorIs(t, err, reason)
	snap.reason = nil
	_, err = planPod(o, snap, &PodNetwork{ID: "id"}, "")
	require.ErrorIs(t, err, ErrNetworkNotFound)
}

func TestPlanInterfaceConfig(t *testing.T) {
	t.Parallel()
	o, snap := testOptions(t), testSnapshot("a", "b")
	pod := &PodNetwork{
		ID:       "id",
		Networks: []NetAttachment{{"a", ""}, {"a", "net1"}, {"b", ""}},
		RuntimeConfig: map[string]RuntimeConfig{
			"a":     {IP: "10.0.0.1", MAC: "02:00:00:00:00:01"},
			"other": {IP: "not looked at"},
		},
		InterfaceConfig: map[string]RuntimeConfig{"net1": {IP: "10.0.0.2"}, "eth1": {}},
		Aliases:         map[string][]string{"b": {"x", "y"}, "other": {"z"}},
	}
	plan, err := planPod(o, snap, pod, "")
	require.NoError(t, err)
	require.Contains(t, argsString(plan[0].rec.CniArgs), ";IP=10.0.0.1;MAC=02:00:00:00:00:01")
	require.Contains(t, argsString(plan[1].rec.CniArgs), ";IP=10.0.0.2")
	require.NotContains(t, argsString(plan[1].rec.CniArgs), "MAC=", "InterfaceConfig stands in for RuntimeConfig as a whole")
	require.Nil(t, plan[0].rec.CapabilityArgs["aliases"])
	require.JSONEq(t, `{"aliases":["x","y"]}`, asJSONValue(t, plan[2].rec.CapabilityArgs))

	pod.InterfaceConfig["net1"] = RuntimeConfig{IP: "x"}
	_, err = planPod(o, snap, pod, "")
	requireField(t, err, `InterfaceConfig["net1"].IP`)

	pod.InterfaceConfig = map[string]RuntimeConfig{"eth9": {}, "eth8": {}}
	_, err = planPod(o, snap, pod, "")
	require.Equal(t, "eth8", requireField(t, err, "InterfaceConfig"))
	pod.InterfaceConfig = map[string]RuntimeConfig{"": {}}
	_, err = planPod(o, snap, pod, "")
	requireField(t, err, "InterfaceConfig")
}

func TestCNIArgs(t *testing.T) {
	t.Parallel()
	const base = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=name;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=uid"
	pod := &PodNetwork{ID: "id", Name: "name", Namespace: "ns", UID: "uid"}
	for _, tc := range []struct {
		name    string
		rc      RuntimeConfig
		environ string
		want    string
	}{
		{"nothing", RuntimeConfig{}, "", base},
		{"address", RuntimeConfig{IP: "10.0.0.5/24", MAC: "02:00:00:00:00:01"}, "", base + ";IP=10.0.0.5/24;MAC=02:00:00:00:00:01"},
		{"addresses", RuntimeConfig{IPs: []string{"2001:db8::5", "10.0.0.5"}}, "", base + ";IP=2001:db8::5"},
		{"address first", RuntimeConfig{IP: "10.0.0.5", IPs: []string{"10.0.0.5/24"}}, "", base + ";IP=10.0.0.5"},
		{"more", RuntimeConfig{IP: "10.0.0.5", Args: map[string]string{"b": "2", "a": "1", "E": ""}}, "", base + ";IP=10.0.0.5;E=;a=1;b=2"},
		{"Args win", RuntimeConfig{IP: "10.0.0.5", Args: map[string]string{"IP": "x", "K8S_POD_UID": "u"}}, "", strings.Replace(base, "uid", "u", 1) + ";IP=x"},
		{"environment", RuntimeConfig{}, "a=1;b=2", base + ";a=1;b=2"},
		{"odd environment", RuntimeConfig{}, ";;x;=y;a=b=c;", base + ";a=b=c"},
		{"environment over the pod's name", RuntimeConfig{}, "K8S_POD_NAME=n2", strings.Replace(base, "name", "n2", 1)},
		{"address over environment", RuntimeConfig{IP: "10.0.0.5", Args: map[string]string{"a": "2"}}, "IP=10.0.0.9;a=1", base + ";IP=10.0.0.5;a=2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := *pod
			p.RuntimeConfig = map[string]RuntimeConfig{"net": tc.rc}
			plan, err := planPod(testOptions(t), testSnapshot("net"), &p, tc.environ)
			require.NoError(t, err)
			require.Equal(t, tc.want, argsString(plan[0].rec.CniArgs))
		})
	}
	require.Empty(t, argsString(nil))
}

func TestCNIArgsTooLong(t *testing.T) {
	t.Parallel()
	many := make(map[string]string)
	for i := range longestArgs {
		many[fmt.Sprint(i)] = ""
	}
	for _, args := range []map[string]string{many, {"k": strings.Repeat("v", longestArgs)}} {
		_, err := planOne(t, RuntimeConfig{Args: args})
		requireField(t, err, `RuntimeConfig["net"].Args`)
	}
	_, err := planPod(testOptions(t), testSnapshot("net"), &PodNetwork{ID: "id"}, strings.Repeat("a=b;", longestArgs))
	requireField(t, err, `RuntimeConfig["net"].Args`)
	rec, err := planOne(t, RuntimeConfig{Args: map[string]string{"k": strings.Repeat("v", longestArgs-200)}})
	require.NoError(t, err)
	require.LessOrEqual(t, len(argsString(rec.CniArgs)), longestArgs)
}

func TestRuntimeConfigErrors(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("1", 10<<10)
	port := func(spoil func(*PortMapping)) RuntimeConfig {
		m := PortMapping{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}
		spoil(&m)
		return RuntimeConfig{PortMappings: []PortMapping{{HostPort: 1, ContainerPort: 1}, m}}
	}
	pool := func(r IPRange) RuntimeConfig {
		return RuntimeConfig{IpRanges: [][]IPRange{{{Subnet: "10.9.0.0/16"}}, {{Subnet: "10.8.0.0/16"}, r}}}
	}
	for _, tc := range []struct {
		field string
		rc    RuntimeConfig
	}{
		{"IP", RuntimeConfig{IP: "10.0.0"}},
		{"IP", RuntimeConfig{IP: "10.0.0.1/33"}},
		{"IP", RuntimeConfig{IP: "10.0.0.1;MAC=x"}},
		{"IP", RuntimeConfig{IP: "fe80::1%eth0"}},
		{"IP", RuntimeConfig{IP: huge}},
		{"IPs[0]", RuntimeConfig{IPs: []string{""}}},
		{"IPs[1]", RuntimeConfig{IPs: []string{"10.0.0.1", "x"}}},
		{"IPs[0]", RuntimeConfig{IP: "10.0.0.1", IPs: []string{"x"}}},
		{"IPs[0]", RuntimeConfig{IP: "10.0.0.1/24", IPs: []string{"10.0.0.1/16"}}},
		{"MAC", RuntimeConfig{MAC: "02:00:00:00:00"}},
		{"MAC", RuntimeConfig{MAC: "02:00:00:00:00:01;IP=x"}},
		{"MAC", RuntimeConfig{MAC: "02:00:00:00:00:01:02:03"}},
		{"InfinibandGUID", RuntimeConfig{InfinibandGUID: "02:00:00:00:00:01"}},
		{"InfinibandGUID", RuntimeConfig{InfinibandGUID: "0200.0000.0001.0203"}},
		{"PortMappings[1].HostPort", port(func(m *PortMapping) { m.HostPort = 65536 })},
		{"PortMappings[1].ContainerPort", port(func(m *PortMapping) { m.ContainerPort = 0 })},
		{"PortMappings[1].ContainerPort", port(func(m *PortMapping) { m.ContainerPort = 65536 })},
		{"PortMappings[1].Protocol", port(func(m *PortMapping) { m.Protocol = "icmp" })},
		{"PortMappings[1].Protocol", port(func(m *PortMapping) { m.Protocol = huge })},
		{"PortMappings[1].HostIP", port(func(m *PortMapping) { m.HostIP = "localhost" })},
		{"PortMappings[1].HostIP", port(func(m *PortMapping) { m.HostIP = "127.0.0.1/8" })},
		{"IpRanges[0]", RuntimeConfig{IpRanges: [][]IPRange{{}}}},
		{"IpRanges[1][1].Subnet", pool(IPRange{})},
		{"IpRanges[1][1].Subnet", pool(IPRange{Subnet: "10.1.0.0"})},
		{"IpRanges[1][1].RangeStart", pool(IPRange{Subnet: "10.1.0.0/16", RangeStart: "x"})},
		{"IpRanges[1][1].RangeStart", pool(IPRange{Subnet: "10.1.0.0/16", RangeStart: "10.2.0.1"})},
		{"IpRanges[1][1].RangeEnd", pool(IPRange{Subnet: "10.1.0.0/16", RangeEnd: "10.1.0.0/16"})},
		{"IpRanges[1][1].RangeEnd", pool(IPRange{Subnet: "10.1.0.0/16", RangeEnd: "2001:db8::1"})},
		{"IpRanges[1][1].RangeEnd", pool(IPRange{Subnet: "10.1.0.0/16", RangeStart: "10.1.0.9", RangeEnd: "10.1.0.8"})},
		{"IpRanges[1][1].Gateway", pool(IPRange{Subnet: "10.1.0.0/16", Gateway: "gw"})},
		{"Bandwidth.IngressBurst", RuntimeConfig{Bandwidth: &BandwidthConfig{IngressRate: 1}}},
		{"Bandwidth.IngressRate", RuntimeConfig{Bandwidth: &BandwidthConfig{IngressBurst: 1}}},
		{"Bandwidth.EgressBurst", RuntimeConfig{Bandwidth: &BandwidthConfig{IngressRate: 1, IngressBurst: 1, EgressRate: 1}}},
		{"Bandwidth.EgressRate", RuntimeConfig{Bandwidth: &BandwidthConfig{EgressBurst: 1}}},
		{"DNS.Servers[1]", RuntimeConfig{DNS: &DNSConfig{Servers: []string{"10.0.0.1", "dns.example"}}}},
		{"Args", RuntimeConfig{Args: map[string]string{"": "x"}}},
		{"Args", RuntimeConfig{Args: map[string]string{"a;b": "x"}}},
		{"Args", RuntimeConfig{Args: map[string]string{"a=b": "x"}}},
		{`Args["a"]`, RuntimeConfig{Args: map[string]string{"a": "x;y"}}},
		{`Args["a"]`, RuntimeConfig{Args: map[string]string{"a": "x=y"}}},
		{`Args["a"]`, RuntimeConfig{Args: map[string]string{"a": "x\x00"}}},
		{"CapabilityArgs", RuntimeConfig{CapabilityArgs: map[string]any{"": 1}}},
		{`CapabilityArgs["x"]`, RuntimeConfig{CapabilityArgs: map[string]any{"x": math.NaN()}}},
		{`CapabilityArgs["x"]`, RuntimeConfig{CapabilityArgs: map[string]any{"a": 1, "x": make(chan int)}}},
		{`CapabilityArgs["x"]`, RuntimeConfig{CapabilityArgs: map[string]any{"x": json.RawMessage("{")}}},
	} {
		_, err := planOne(t, tc.rc)
		requireField(t, err, `RuntimeConfig["net"].`+tc.field)
	}
}

// What a key of the caller's is too long for must not end up in the error.
func TestHugeKeys(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("k", 10<<10)
	for _, rc := range []RuntimeConfig{
		{Args: map[string]string{huge: ";"}},
		{CapabilityArgs: map[string]any{huge: make(chan int)}},
	} {
		_, err := planOne(t, rc)
		require.ErrorIs(t, err, ErrInvalidPod)
		require.Less(t, len(err.Error()), 1000)
	}
}

// The arguments must read back as types.LoadArgs, which plugins use, reads them.
func TestArgsReadBack(t *testing.T) {
	t.Parallel()
	rec, err := planOne(t, RuntimeConfig{IP: "10.0.0.5", Args: map[string]string{"OTHER": "x"}})
	require.NoError(t, err)
	var got struct {
		types.CommonArgs
		IP                         netip.Addr
		K8S_POD_NAME               types.UnmarshallableString
		K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
	}
	require.NoError(t, types.LoadArgs(argsString(rec.CniArgs), &got))
	require.Equal(t, "10.0.0.5", got.IP.String())
	require.EqualValues(t, "name", got.K8S_POD_NAME)
	require.EqualValues(t, "id", got.K8S_POD_INFRA_CONTAINER_ID)
}

func asJSONValue(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}

func BenchmarkPlanPod(b *testing.B) {
	o, snap := testOptions(b), testSnapshot("net")
	for _, bc := range []struct {
		name string
		pod  PodNetwork
	}{
		{"network", PodNetwork{}},
		{"ports", PodNetwork{RuntimeConfig: map[string]RuntimeConfig{
			"net": {PortMappings: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"}}},
		}}},
		{"two networks", PodNetwork{Networks: []NetAttachment{{Name: "net"}, {Name: "net"}}}},
	} {
		bc.pod.ID, bc.pod.Name, bc.pod.Namespace, bc.pod.NetNS = strings.Repeat("f", 64), "pod", "default", "/run/netns/x"
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := planPod(o, snap, &bc.pod, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
