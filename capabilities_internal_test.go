package podcni

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCapabilities(t *testing.T) {
	t.Parallel()
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
		{"cgroupPath", RuntimeConfig{CgroupPath: "/kubelet.slice"}, `{"cgroupPath":"/kubelet.slice"}`},
		{
			"annotations",
			RuntimeConfig{PodAnnotations: &map[string]string{"a/b": "c"}},
			`{"io.kubernetes.cri.pod-annotations":{"a/b":"c"}}`,
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
			rec, err := planOne(t, tc.rc)
			require.NoError(t, err)
			require.JSONEq(t, tc.want, asJSON(t, rec.CapabilityArgs))
			require.JSONEq(t, before, asJSON(t, tc.rc), "what the caller gave must stay as it was")
		})
	}
}

// A record must not change when the caller goes on using what it gave.
func TestPlanCopies(t *testing.T) {
	t.Parallel()
	raw := json.RawMessage(`"kept"`)
	annotations := map[string]string{"k": "kept"}
	rc := RuntimeConfig{
		IPs: []string{"10.0.0.5"}, Args: map[string]string{"k": "kept"}, PodAnnotations: &annotations,
		DNS: &DNSConfig{Searches: []string{"kept"}}, CapabilityArgs: map[string]any{"raw": raw},
	}
	rec, err := planOne(t, rc)
	require.NoError(t, err)
	before := asJSON(t, rec)
	copy(raw, `"lost"`)
	annotations["k"], rc.Args["k"], rc.IPs[0], rc.DNS.Searches[0] = "lost", "lost", "10.0.0.6", "lost"
	require.Equal(t, before, asJSON(t, rec))
}

// The caller's Args and port mappings come in every order and number; the plan
// must be the same each time.
func TestPlanIsDeterministic(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	var want string
	for range 20 {
		rc := RuntimeConfig{Args: map[string]string{}, CapabilityArgs: map[string]any{}}
		rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for _, k := range keys {
			rc.Args[k], rc.CapabilityArgs[k] = k, k
		}
		rec, err := planOne(t, rc)
		require.NoError(t, err)
		got := asJSON(t, rec)
		if want == "" {
			want = got
		}
		require.Equal(t, want, got)
	}
}
