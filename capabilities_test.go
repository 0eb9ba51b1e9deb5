package podcni

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func asJSON(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	c := (&fakeExec{}).open(t, withNet("net"))
	for _, tc := range []struct {
		name string
		rc   RuntimeConfig
		want string
	}{
		{"nothing", RuntimeConfig{}, `null`},
		{"nothing in anything", RuntimeConfig{
			PortMappings: []PortMapping{}, IpRanges: [][]IPRange{}, Bandwidth: &BandwidthConfig{}, DNS: &DNSConfig{},
			PodAnnotations: new(map[string]string), IPs: []string{}, Args: map[string]string{}, CapabilityArgs: map[string]any{},
		}, `null`},
		{
			"portMappings",
			RuntimeConfig{PortMappings: []PortMapping{
				{HostPort: 8080, ContainerPort: 80, Protocol: "TCP", HostIP: "127.0.0.1"},
				{HostPort: 0, ContainerPort: 81, Protocol: "TCP"},
				{HostPort: -1, ContainerPort: 0, Protocol: "none"},
				{HostPort: 65535, ContainerPort: 65535, HostIP: "::1"},
				{HostPort: 53, ContainerPort: 53, Protocol: "uDp"},
				{HostPort: 1, ContainerPort: 1, Protocol: "SCTP"},
			}},
			`{"portMappings":[
				{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"},
				{"hostPort":65535,"containerPort":65535,"protocol":"tcp","hostIP":"::1"},
				{"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":""},
				{"hostPort":1,"containerPort":1,"protocol":"sctp","hostIP":""}]}`,
		},
		{"no host port left", RuntimeConfig{PortMappings: []PortMapping{{ContainerPort: 80}}}, `null`},
		{
			"ipRanges",
			RuntimeConfig{IpRanges: [][]IpRange{
				{{Subnet: "10.1.0.0/16", RangeStart: "10.1.0.5", RangeEnd: "10.1.0.5", Gateway: "10.2.0.1"}, {Subnet: "10.3.0.0/16"}},
				{{Subnet: "2001:db8::/64"}},
			}},
			`{"ipRanges":[
				[{"subnet":"10.1.0.0/16","rangeStart":"10.1.0.5","rangeEnd":"10.1.0.5","gateway":"10.2.0.1"},{"subnet":"10.3.0.0/16"}],
				[{"subnet":"2001:db8::/64"}]]}`,
		},
		{
			"bandwidth",
			RuntimeConfig{Bandwidth: &BandwidthConfig{IngressRate: 1, IngressBurst: 2}},
			`{"bandwidth":{"ingressRate":1,"ingressBurst":2,"egressRate":0,"egressBurst":0}}`,
		},
		{
			"dns",
			RuntimeConfig{DNS: &DNSConfig{Servers: []string{"10.0.0.1", "fe80::1%eth0"}, Searches: []string{"a.b"}, Options: []string{"ndots:5"}}},
			`{"dns":{"servers":["10.0.0.1","fe80::1%eth0"],"searches":["a.b"],"options":["ndots:5"]}}`,
		},
		{"one address", RuntimeConfig{IP: "10.0.0.5"}, `{"ips":["10.0.0.5"]}`},
		{
			"addresses",
			RuntimeConfig{IP: "10.0.0.5/24", IPs: []string{"2001:db8::5", "10.0.0.5/24", "2001:DB8::0:5", "10.0.0.6"}},
			`{"ips":["10.0.0.5/24","2001:db8::5","10.0.0.6"]}`,
		},
		{
			"the prefix length is kept",
			RuntimeConfig{IP: "10.0.0.5", IPs: []string{"2001:db8::5/64", "10.0.0.5/24", "2001:db8::5"}},
			`{"ips":["10.0.0.5/24","2001:db8::5/64"]}`,
		},
		{"mac", RuntimeConfig{MAC: "C2-11-22-33-44-55"}, `{"mac":"C2-11-22-33-44-55"}`},
		{"infinibandGUID", RuntimeConfig{InfinibandGUID: "c2:11:22:33:44:55:66:77"}, `{"infinibandGUID":"c2:11:22:33:44:55:66:77"}`},
		{"deviceID", RuntimeConfig{DeviceID: "0000:04:00.5"}, `{"deviceID":"0000:04:00.5"}`},
		{"cgroupPath", RuntimeConfig{CgroupPath: "/kubelet slice"}, `{"cgroupPath":"/kubelet slice"}`},
		{
			"annotations of several lines",
			RuntimeConfig{PodAnnotations: &map[string]string{"a/b": "c\nd"}},
			`{"io.kubernetes.cri.pod-annotations":{"a/b":"c\nd"}}`,
		},
		{"no annotation", RuntimeConfig{PodAnnotations: &map[string]string{}}, `{"io.kubernetes.cri.pod-annotations":{}}`},
		{
			"CapabilityArgs win",
			RuntimeConfig{
				MAC: "02:00:00:00:00:01", DeviceID: "d",
				CapabilityArgs: map[string]any{"mac": "own", "new": map[string]int{"x": 1}, "raw": json.RawMessage(`[ 1 ]`), "null": nil},
			},
			`{"mac":"own","deviceID":"d","new":{"x":1},"raw":[1],"null":null}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			before := asJSON(t, tc.rc)
			a := planOne(t, c, askingPod(tc.rc))
			require.JSONEq(t, tc.want, asJSON(t, a.CapabilityArgs))
			require.JSONEq(t, before, asJSON(t, tc.rc), "what the caller gave must stay as it was")
		})
	}
}

func TestWishesAreChecked(t *testing.T) {
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
	dns := func(d DNSConfig) RuntimeConfig { return RuntimeConfig{DNS: &d} }
	exec := &fakeExec{}
	c := exec.open(t, withNet("net"))
	for _, tc := range []struct {
		field string
		rc    RuntimeConfig
	}{
		{"IP", RuntimeConfig{IP: "10.0.0"}},
		{"IP", RuntimeConfig{IP: "10.0.0.1/33"}},
		{"IP", RuntimeConfig{IP: "10.0.0.1;MAC=x"}},
		{"IP", RuntimeConfig{IP: "10.0.0.1\n"}},
		{"IP", RuntimeConfig{IP: "fe80::1%eth0"}},
		{"IP", RuntimeConfig{IP: "fe80::1%eth0/64"}},
		{"IP", RuntimeConfig{IP: "224.0.0.1"}},
		{"IP", RuntimeConfig{IP: "224.0.0.1/24"}},
		{"IP", RuntimeConfig{IP: "::ffff:224.0.0.1"}},
		{"IP", RuntimeConfig{IP: "ff02::1/64"}},
		{"IP", RuntimeConfig{IP: "\xff"}},
		{"IP", RuntimeConfig{IP: huge}},
		{"IPs[0]", RuntimeConfig{IPs: []string{""}}},
		{"IPs[1]", RuntimeConfig{IPs: []string{"10.0.0.1", "x"}}},
		{"IPs[1]", RuntimeConfig{IPs: []string{"10.0.0.1", "239.1.2.3"}}},
		{"IPs[0]", RuntimeConfig{IP: "10.0.0.1", IPs: []string{"x"}}},
		{"IPs[0]", RuntimeConfig{IP: "10.0.0.1/24", IPs: []string{"10.0.0.1/16"}}},
		{"MAC", RuntimeConfig{MAC: "02:00:00:00:00"}},
		{"MAC", RuntimeConfig{MAC: "02:00:00:00:00:01;IP=x"}},
		{"MAC", RuntimeConfig{MAC: "02:00:00:00:00:01\n"}},
		{"MAC", RuntimeConfig{MAC: "02:00:00:00:00:01:02:03"}},
		{"MAC", RuntimeConfig{MAC: "ff:ff:ff:ff:ff:ff"}},
		{"MAC", RuntimeConfig{MAC: "01:00:5e:00:00:01"}},
		{"MAC", RuntimeConfig{MAC: "33:33:00:00:00:01"}},
		{"MAC", RuntimeConfig{MAC: "00:00:00:00:00:00"}},
		{"InfinibandGUID", RuntimeConfig{InfinibandGUID: "02:00:00:00:00:01"}},
		{"InfinibandGUID", RuntimeConfig{InfinibandGUID: "0200.0000.0001.0203"}},
		{"InfinibandGUID", RuntimeConfig{InfinibandGUID: "c2:11:22:33:44:55:66:77\n"}},
		{"DeviceID", RuntimeConfig{DeviceID: "0000:04:00.5\n"}},
		{"DeviceID", RuntimeConfig{DeviceID: "0000 04"}},
		{"DeviceID", RuntimeConfig{DeviceID: "\x1b"}},
		{"DeviceID", RuntimeConfig{DeviceID: "\xff"}},
		{"DeviceID", RuntimeConfig{DeviceID: huge}},
		{"CgroupPath", RuntimeConfig{CgroupPath: "/a\nb"}},
		{"CgroupPath", RuntimeConfig{CgroupPath: "/a\x00"}},
		{"CgroupPath", RuntimeConfig{CgroupPath: "/\xff"}},
		{"CgroupPath", RuntimeConfig{CgroupPath: huge}},
		{`PodAnnotations["\xff"]`, RuntimeConfig{PodAnnotations: &map[string]string{"\xff": "x"}}},
		{`PodAnnotations["a"]`, RuntimeConfig{PodAnnotations: &map[string]string{"a": "\xff"}}},
		{"PortMappings[1].HostPort", port(func(m *PortMapping) { m.HostPort = 65536 })},
		{"PortMappings[1].ContainerPort", port(func(m *PortMapping) { m.ContainerPort = 0 })},
		{"PortMappings[1].ContainerPort", port(func(m *PortMapping) { m.ContainerPort = 65536 })},
		{"PortMappings[1].Protocol", port(func(m *PortMapping) { m.Protocol = "icmp" })},
		{"PortMappings[1].Protocol", port(func(m *PortMapping) { m.Protocol = "tcp\n" })},
		{"PortMappings[1].Protocol", port(func(m *PortMapping) { m.Protocol = huge })},
		{"PortMappings[1].HostIP", port(func(m *PortMapping) { m.HostIP = "localhost" })},
		{"PortMappings[1].HostIP", port(func(m *PortMapping) { m.HostIP = "127.0.0.1/8" })},
		{"PortMappings[1].HostIP", port(func(m *PortMapping) { m.HostIP = "fe80::1%\n" })},
		{"PortMappings[1].HostIP", port(func(m *PortMapping) { m.HostIP = "224.0.0.1" })},
		{"IpRanges[0]", RuntimeConfig{IpRanges: [][]IPRange{{}}}},
		{"IpRanges[1][1].Subnet", pool(IPRange{})},
		{"IpRanges[1][1].Subnet", pool(IPRange{Subnet: "10.1.0.0"})},
		{"IpRanges[1][1].Subnet", pool(IPRange{Subnet: "10.1.0.0/16\n"})},
		{"IpRanges[1][1].Subnet", pool(IPRange{Subnet: "224.0.0.0/4"})},
		{"IpRanges[1][1].RangeStart", pool(IPRange{Subnet: "10.1.0.0/16", RangeStart: "x"})},
		{"IpRanges[1][1].RangeStart", pool(IPRange{Subnet: "10.1.0.0/16", RangeStart: "10.2.0.1"})},
		{"IpRanges[1][1].RangeEnd", pool(IPRange{Subnet: "10.1.0.0/16", RangeEnd: "10.1.0.0/16"})},
		{"IpRanges[1][1].RangeEnd", pool(IPRange{Subnet: "10.1.0.0/16", RangeEnd: "2001:db8::1"})},
		{"IpRanges[1][1].RangeEnd", pool(IPRange{Subnet: "10.1.0.0/16", RangeEnd: "10.2.0.1"})},
		{"IpRanges[1][1].RangeEnd", pool(IPRange{Subnet: "10.1.0.0/16", RangeStart: "10.1.0.9", RangeEnd: "10.1.0.8"})},
		{"IpRanges[1][1].Gateway", pool(IPRange{Subnet: "10.1.0.0/16", Gateway: "gw"})},
		{"IpRanges[1][1].Gateway", pool(IPRange{Subnet: "10.1.0.0/16", Gateway: "224.0.0.1"})},
		{"IpRanges[1][1].Gateway", pool(IPRange{Subnet: "10.1.0.0/16", Gateway: "fe80::1%\n"})},
		{"Bandwidth.IngressBurst", RuntimeConfig{Bandwidth: &BandwidthConfig{IngressRate: 1}}},
		{"Bandwidth.IngressRate", RuntimeConfig{Bandwidth: &BandwidthConfig{IngressBurst: 1}}},
		{"Bandwidth.EgressBurst", RuntimeConfig{Bandwidth: &BandwidthConfig{IngressRate: 1, IngressBurst: 1, EgressRate: 1}}},
		{"Bandwidth.EgressRate", RuntimeConfig{Bandwidth: &BandwidthConfig{EgressBurst: 1}}},
		{"DNS.Servers[1]", dns(DNSConfig{Servers: []string{"10.0.0.1", "dns.example"}})},
		{"DNS.Servers[0]", dns(DNSConfig{Servers: []string{""}})},
		{"DNS.Servers[0]", dns(DNSConfig{Servers: []string{"10.0.0.1\n"}})},
		{"DNS.Servers[0]", dns(DNSConfig{Servers: []string{"224.0.0.251"}})},
		{"DNS.Servers[0]", dns(DNSConfig{Servers: []string{"ff02::fb%eth0"}})},
		{"DNS.Searches[1]", dns(DNSConfig{Searches: []string{"a.example", "b\nnameserver 10.0.0.9"}})},
		{"DNS.Searches[0]", dns(DNSConfig{Searches: []string{"a b"}})},
		{"DNS.Searches[0]", dns(DNSConfig{Searches: []string{""}})},
		{"DNS.Searches[0]", dns(DNSConfig{Searches: []string{"\xff"}})},
		{"DNS.Options[1]", dns(DNSConfig{Options: []string{"ndots:5", "a\n"}})},
		{"DNS.Options[0]", dns(DNSConfig{Options: []string{"ndots:5 rotate"}})},
		{"DNS.Options[0]", dns(DNSConfig{Options: []string{"\x00"}})},
		{"DNS.Options[0]", dns(DNSConfig{Options: []string{huge}})},
		{"Args", RuntimeConfig{Args: map[string]string{"": "x"}}},
		{"Args", RuntimeConfig{Args: map[string]string{"a;b": "x"}}},
		{"Args", RuntimeConfig{Args: map[string]string{"a=b": "x"}}},
		{"Args", RuntimeConfig{Args: map[string]string{"a b": "x"}}},
		{`Args["a"]`, RuntimeConfig{Args: map[string]string{"a": "x;y"}}},
		{`Args["a"]`, RuntimeConfig{Args: map[string]string{"a": "x=y"}}},
		{`Args["a"]`, RuntimeConfig{Args: map[string]string{"a": "x\x00"}}},
		{`Args["a"]`, RuntimeConfig{Args: map[string]string{"a": "x\ny"}}},
		{`Args["a"]`, RuntimeConfig{Args: map[string]string{"a": "\xff"}}},
		{"CapabilityArgs", RuntimeConfig{CapabilityArgs: map[string]any{"": 1}}},
		{"CapabilityArgs", RuntimeConfig{CapabilityArgs: map[string]any{"a\n": 1}}},
		{"CapabilityArgs", RuntimeConfig{CapabilityArgs: map[string]any{"\xff": 1}}},
		{`CapabilityArgs["x"]`, RuntimeConfig{CapabilityArgs: map[string]any{"x": math.NaN()}}},
		{`CapabilityArgs["x"]`, RuntimeConfig{CapabilityArgs: map[string]any{"a": 1, "x": make(chan int)}}},
		{`CapabilityArgs["x"]`, RuntimeConfig{CapabilityArgs: map[string]any{"x": json.RawMessage("{")}}},
	} {
		t.Run(tc.field, func(t *testing.T) {
			requireRefused(t, c, exec, askingPod(tc.rc), `RuntimeConfig["net"].`+tc.field)
		})
	}
}

// netip takes any text for a zone, and a name server's zone may stay in the
// address.
func TestZoneOfANameServerIsChecked(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	c := exec.open(t, withNet("net"))
	for _, zone := range []string{"eth0\nnameserver 10.0.0.9", "a b", "\x00", "\xff", strings.Repeat("z", 10<<10)} {
		pod := askingPod(RuntimeConfig{DNS: &DNSConfig{Servers: []string{"fe80::1%" + zone}}})
		requireRefused(t, c, exec, pod, `RuntimeConfig["net"].DNS.Servers[0]`)
	}
}

func TestCapabilityArgsAreUTF8(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	c := exec.open(t, withNet("net"))
	for _, value := range []any{json.RawMessage("\"\xff\""), "\xff"} {
		pod := askingPod(RuntimeConfig{CapabilityArgs: map[string]any{"x": value}})
		requireRefused(t, c, exec, pod, `RuntimeConfig["net"].CapabilityArgs["x"]`)
	}
}

// A key that is wrong in two ways is still one line, and says each thing once.
func TestKeysOfArgs(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	c := exec.open(t, withNet("net"))
	for _, key := range []string{"a\n", "\xff", "\x00"} {
		requireRefused(t, c, exec, askingPod(RuntimeConfig{Args: map[string]string{key: "x"}}), `RuntimeConfig["net"].Args`)
	}
}

// What a key of the caller's is too long for must not end up in the error.
func TestHugeKeys(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("k", 10<<10)
	c := (&fakeExec{}).open(t, withNet("net"), WithStrictCapabilities())
	for _, rc := range []RuntimeConfig{
		{Args: map[string]string{huge: ";"}},
		{Args: map[string]string{huge[:longestText]: ";"}},
		{CapabilityArgs: map[string]any{huge: 1}},
		{CapabilityArgs: map[string]any{huge[:longestText]: make(chan int)}},
		{CapabilityArgs: map[string]any{huge[:longestText]: 1}},
		{PodAnnotations: &map[string]string{huge + "\xff": ""}},
	} {
		_, err := planOf(c, askingPod(rc))
		require.ErrorIs(t, err, ErrInvalidPod)
		require.Less(t, len(err.Error()), 1000)
	}
	_, err := planOf(c, &PodNetwork{ID: "id", NetNS: "/ns", RuntimeConfig: map[string]RuntimeConfig{huge: {}}})
	require.ErrorIs(t, err, ErrInvalidPod)
	require.Less(t, len(err.Error()), 1000)
}

// A plan must not change when the caller goes on using what it gave.
func TestPlanCopies(t *testing.T) {
	t.Parallel()
	c := (&fakeExec{}).open(t, withNet("net"))
	raw := json.RawMessage(`"kept"`)
	annotations := map[string]string{"k": "kept"}
	pod := askingPod(RuntimeConfig{
		IPs: []string{"10.0.0.5"}, Args: map[string]string{"k": "kept"}, PodAnnotations: &annotations,
		DNS: &DNSConfig{Searches: []string{"kept"}}, CapabilityArgs: map[string]any{"raw": raw},
	})
	pod.Aliases = map[string][]string{"net": {"kept"}}
	a := planOne(t, c, pod)
	before := asJSON(t, a.Attachment)
	copy(raw, `"lost"`)
	rc := pod.RuntimeConfig["net"]
	annotations["k"], rc.Args["k"], rc.IPs[0], rc.DNS.Searches[0] = "lost", "lost", "10.0.0.6", "lost"
	pod.Aliases["net"][0] = "lost"
	require.Equal(t, before, asJSON(t, a.Attachment))
}

// Maps come in every order. The plan must be the same each time.
func TestPlanIsDeterministic(t *testing.T) {
	t.Parallel()
	c := (&fakeExec{}).open(t, withNet("net"))
	rng := rand.New(rand.NewPCG(1, 2))
	keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	want := ""
	for range 20 {
		rc := RuntimeConfig{Args: map[string]string{}, CapabilityArgs: map[string]any{}}
		rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for _, k := range keys {
			rc.Args[k], rc.CapabilityArgs[k] = k, k
		}
		got := asJSON(t, planOne(t, c, askingPod(rc)).Attachment)
		if want == "" {
			want = got
		}
		require.Equal(t, want, got)
	}
}
