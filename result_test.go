package podcni_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
)

func result(t *testing.T, network, ifName, text string) podcni.NetResult {
	t.Helper()
	res, err := create.CreateFromBytes([]byte(text))
	require.NoError(t, err)
	return podcni.NetResult{NetAttachment: podcni.NetAttachment{Name: network, Ifname: ifName}, Result: res}
}

func prefixes(ips []podcni.IP) []string {
	var texts []string
	for _, ip := range ips {
		texts = append(texts, ip.Interface+" "+ip.Address.String())
	}
	return texts
}

func TestMergeResults(t *testing.T) {
	t.Parallel()
	pod, err := podcni.MergeResults([]podcni.NetResult{
		result(t, "first", "eth0", `{"cniVersion":"1.1.0",
			"interfaces":[
				{"name":"cni0","mac":"aa:aa:aa:aa:aa:aa"},
				{"name":"eth0","mac":"bb:bb:bb:bb:bb:bb","mtu":1450,"sandbox":"/run/netns/a","socketPath":"/s","pciID":"0000:04:00.5"}],
			"ips":[
				{"address":"2001:db8::5/64","gateway":"2001:db8::1","interface":1},
				{"address":"10.0.0.5/24","gateway":"10.0.0.1","interface":1},
				{"address":"10.0.0.1/24","interface":0}],
			"routes":[
				{"dst":"0.0.0.0/0","gw":"10.0.0.1"},
				{"dst":"10.9.8.7/16","mtu":1400,"advmss":1360,"priority":10,"table":0,"scope":253}],
			"dns":{"nameservers":["10.0.0.53","10.0.0.54"],"search":["a.example"],"options":["ndots:5"]}}`),
		result(t, "second", "net1", `{"cniVersion":"0.4.0",
			"interfaces":[{"name":"net1","sandbox":"/run/netns/a"}],
			"ips":[{"version":"4","address":"10.1.0.5/24","interface":0}],
			"dns":{"nameservers":["10.0.0.54","10.1.0.53"],"domain":"b.example","search":["a.example","b.example"],"options":["ndots:5"]}}`),
		result(t, "third", "net2", `{"cniVersion":"0.2.0",
			"ip4":{"ip":"10.2.0.5/24","gateway":"10.2.0.1","routes":[{"dst":"10.3.0.0/16"}]},
			"ip6":{"ip":"2001:db8:2::5/64"},"dns":{"domain":"c.example"}}`),
	})
	require.NoError(t, err)

	addrs := func(texts ...string) (list []netip.Addr) {
		for _, text := range texts {
			list = append(list, netip.MustParseAddr(text))
		}
		return list
	}
	require.Equal(t, addrs("2001:db8::5", "10.0.0.5", "10.1.0.5", "10.2.0.5", "2001:db8:2::5"), pod.Addrs())
	require.Equal(t, addrs("10.0.0.5", "10.1.0.5", "10.2.0.5"), pod.IPv4())
	require.Equal(t, addrs("2001:db8::5", "2001:db8:2::5"), pod.IPv6())
	require.Equal(t, netip.MustParseAddr("2001:db8::5"), pod.Primary())

	require.Len(t, pod.Interfaces, 4)
	require.Equal(t, "cni0", pod.Interfaces[0].Name)
	require.Equal(t, []string{"cni0 10.0.0.1/24"}, prefixes(pod.Interfaces[0].IPs))
	require.Equal(t, podcni.Interface{
		Network: "first", Name: "eth0", MAC: "bb:bb:bb:bb:bb:bb", MTU: 1450, Sandbox: "/run/netns/a", SocketPath: "/s", PciID: "0000:04:00.5",
		IPs: []podcni.IP{
			{Network: "first", Interface: "eth0", Address: netip.MustParsePrefix("2001:db8::5/64"), Gateway: netip.MustParseAddr("2001:db8::1")},
			{Network: "first", Interface: "eth0", Address: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1")},
		},
	}, pod.Interfaces[1])
	require.Equal(t, "net1", pod.Interfaces[2].Name)
	require.Equal(t, "third", pod.Interfaces[3].Network)
	require.Equal(t, []string{"net2 10.2.0.5/24", "net2 2001:db8:2::5/64"}, prefixes(pod.Interfaces[3].IPs))

	table, scope := 0, 253
	require.Equal(t, []podcni.Route{
		{Network: "first", Dst: netip.MustParsePrefix("0.0.0.0/0"), GW: netip.MustParseAddr("10.0.0.1")},
		{Network: "first", Dst: netip.MustParsePrefix("10.9.0.0/16"), MTU: 1400, AdvMSS: 1360, Priority: 10, Table: &table, Scope: &scope},
		{Network: "third", Dst: netip.MustParsePrefix("10.3.0.0/16")},
	}, pod.Routes)
	require.Equal(t, types.DNS{
		Nameservers: []string{"10.0.0.53", "10.0.0.54", "10.1.0.53"},
		Domain:      "b.example",
		Search:      []string{"a.example", "b.example"},
		Options:     []string{"ndots:5"},
	}, pod.DNS)
}

func TestMergeResultsDecidesWhoseAnAddressIs(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		result string
		pod    []string // addresses of the pod
		inner  []string // addresses of all interfaces
	}{
		"no interface is named": {
			`{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.0.0.5/24"}]}`,
			[]string{"eth0 10.0.0.5/24"},
			[]string{"eth0 10.0.0.5/24"},
		},
		"an index out of range": {
			`{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.0.0.5/24","interface":2},{"address":"10.0.0.6/24","interface":-1}]}`,
			[]string{"eth0 10.0.0.5/24", "eth0 10.0.0.6/24"},
			[]string{"eth0 10.0.0.5/24", "eth0 10.0.0.6/24"},
		},
		"no interfaces at all": {
			`{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.5/24","interface":0}]}`,
			[]string{"eth0 10.0.0.5/24"},
			[]string{"eth0 10.0.0.5/24"},
		},
		"only the host's interfaces are listed": {
			`{"cniVersion":"1.0.0","interfaces":[{"name":"br0"}],"ips":[{"address":"10.0.0.5/24"},{"address":"10.0.0.1/24","interface":0}]}`,
			[]string{"eth0 10.0.0.5/24"},
			[]string{"br0 10.0.0.1/24"},
		},
		"no interface is marked as the pod's": {
			`{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0"}],"ips":[{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.5/24","interface":1}]}`,
			[]string{"eth0 10.0.0.5/24"},
			[]string{"br0 10.0.0.1/24", "eth0 10.0.0.5/24"},
		},
		"the same address again": {
			`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.0.0.5/24","interface":0},{"address":"10.0.0.5/32","interface":0}]}`,
			[]string{"eth0 10.0.0.5/24"},
			[]string{"eth0 10.0.0.5/24", "eth0 10.0.0.5/32"},
		},
		"a null and a nameless interface keep their places": {
			`{"cniVersion":"1.0.0","interfaces":[null,{"name":""},{"name":"eth0","sandbox":"/ns"}],"ips":[null,{"address":"10.0.0.5/24","interface":2},{},{"address":"10.0.0.6/24","interface":0}],"routes":[null,{}]}`,
			[]string{"eth0 10.0.0.5/24", "eth0 10.0.0.6/24"},
			[]string{"eth0 10.0.0.5/24", "eth0 10.0.0.6/24"},
		},
		"nothing": {`{"cniVersion":"1.0.0"}`, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod, err := podcni.MergeResults([]podcni.NetResult{result(t, "net", "eth0", tt.result)})
			require.NoError(t, err)
			require.Equal(t, tt.pod, prefixes(pod.IPs))
			var inner []string
			for _, ifc := range pod.Interfaces {
				require.NotEmpty(t, ifc.Name)
				inner = append(inner, prefixes(ifc.IPs)...)
			}
			require.Equal(t, tt.inner, inner)
			require.Empty(t, pod.Routes)
		})
	}
}

func TestMergeResultsOfNothing(t *testing.T) {
	t.Parallel()
	pod, err := podcni.MergeResults([]podcni.NetResult{
		{},
		{Result: (*types020.Result)(nil)},
		{Result: (*types040.Result)(nil)},
		{Result: (*types100.Result)(nil)},
		// Types of libcni as no text gives them.
		{Result: &types040.Result{
			Interfaces: []*types040.Interface{nil}, IPs: []*types040.IPConfig{nil}, Routes: []*types.Route{nil},
		}},
		{Result: &types100.Result{IPs: []*types100.IPConfig{
			{Address: net.IPNet{IP: net.IP{1, 2, 3}, Mask: net.CIDRMask(8, 32)}},
			{Address: net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.IPMask{255, 0, 255, 0}}},
			{Address: net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(8, 32)}},
			{Address: net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.CIDRMask(64, 128)}},
		}}},
	})
	require.NoError(t, err)
	require.Equal(t, podcni.PodResult{}, pod)
	require.Equal(t, netip.Addr{}, pod.Primary())
	require.Empty(t, pod.Addrs())

	text, err := json.Marshal(pod)
	require.NoError(t, err)
	require.Equal(t, "{}", string(text))
}

func TestMergeResultsTakesAMaskInEitherLength(t *testing.T) {
	t.Parallel()
	pod, err := podcni.MergeResults([]podcni.NetResult{{Result: &types100.Result{IPs: []*types100.IPConfig{
		{Address: net.IPNet{IP: net.IPv4(10, 0, 0, 5), Mask: net.CIDRMask(24, 32)}},
		{Address: net.IPNet{IP: net.IPv4(10, 0, 0, 6).To4(), Mask: net.CIDRMask(120, 128)}},
	}}}})
	require.NoError(t, err)
	require.Equal(t, []string{" 10.0.0.5/24", " 10.0.0.6/24"}, prefixes(pod.IPs))
}

// foreign is a result that is not of libcni's types.
type foreign struct{ version string }

func (f foreign) Version() string                         { return f.version }
func (foreign) GetAsVersion(string) (types.Result, error) { return nil, nil }
func (foreign) Print() error                              { return nil }
func (foreign) PrintTo(io.Writer) error                   { return nil }

func mergeForeign(version string) (podcni.PodResult, error) {
	return podcni.MergeResults([]podcni.NetResult{
		{NetAttachment: podcni.NetAttachment{Name: "odd", Ifname: "eth0"}, Result: foreign{version}},
		{NetAttachment: podcni.NetAttachment{Name: "net", Ifname: "eth1"}, Result: &types100.Result{IPs: []*types100.IPConfig{
			{Address: net.IPNet{IP: net.IPv4(10, 0, 0, 5), Mask: net.CIDRMask(24, 32)}},
		}}},
	})
}

func TestMergeResultsOfForeignTypes(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"9.9.9", "", "x"} {
		pod, err := mergeForeign(version)
		require.ErrorIs(t, err, podcni.ErrVersion, version)
		require.ErrorContains(t, err, `"odd"`)
		require.Equal(t, []string{"eth1 10.0.0.5/24"}, prefixes(pod.IPs), "the rest is still read")
	}
}

func TestMergeResultsOfForeignTypesWithAKnownVersion(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"0.2.0", "0.4.0", "1.0.0", "1.1.0"} {
		pod, err := mergeForeign(version)
		require.ErrorIs(t, err, podcni.ErrVersion, version)
		require.Equal(t, []string{"eth1 10.0.0.5/24"}, prefixes(pod.IPs), "the rest is still read")
	}
}

// hugeResult has n interfaces of the pod, and n addresses: either one of each
// interface, or of none in particular, and then n routes and name servers too.
func hugeResult(n int, named bool) podcni.NetResult {
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	for i := range n {
		ip := &types100.IPConfig{Address: net.IPNet{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)), Mask: net.CIDRMask(8, 32)}}
		// The attachment's own interface comes last.
		res.Interfaces = append(res.Interfaces, &types100.Interface{Name: fmt.Sprint("i", n-1-i), Sandbox: "/ns"})
		res.IPs = append(res.IPs, ip)
		if named {
			ip.Interface = &i
			continue
		}
		res.Routes = append(res.Routes, &types.Route{Dst: ip.Address})
		res.DNS.Nameservers = append(res.DNS.Nameservers, ip.Address.IP.String())
	}
	return podcni.NetResult{NetAttachment: podcni.NetAttachment{Name: "net", Ifname: "i0"}, Result: res}
}

func TestMergeResultsThatAreHuge(t *testing.T) {
	t.Parallel()
	const n = 100_000
	for _, named := range []bool{true, false} {
		pod, err := podcni.MergeResults([]podcni.NetResult{hugeResult(n, named)})
		require.NoError(t, err)
		require.Len(t, pod.Interfaces, n)
		require.Len(t, pod.IPs, n)
		require.Len(t, pod.Addrs(), n)
		last := pod.Interfaces[n-1]
		if named {
			require.Equal(t, []string{"i0 10.1.134.159/8"}, prefixes(last.IPs))
			continue
		}
		require.Len(t, last.IPs, n, "they belong to the attachment's own interface")
		require.Len(t, pod.Routes, n)
		require.Len(t, pod.DNS.Nameservers, n)
	}
}

// The time for each interface must not grow with their number.
func BenchmarkMergeResults(b *testing.B) {
	for _, n := range []int{1, 1_000, 10_000, 100_000} {
		for _, named := range []bool{true, false} {
			results := []podcni.NetResult{hugeResult(n, named)}
			b.Run(fmt.Sprintf("interfaces=%d/named=%t", n, named), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := podcni.MergeResults(results); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/interface")
			})
		}
	}
}

func FuzzMergeResults(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/ns"},null],"ips":[{"address":"10.0.0.5/24","interface":1},null],"routes":[null,{"dst":"::/0","table":1}]}`,
		`{"cniVersion":"0.4.0","interfaces":[null],"ips":[{"version":"6","address":"::1/128","interface":-1}]}`,
		`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24","routes":[{}]},"ip6":{},"dns":{"nameservers":["a","a",""]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		res, err := create.CreateFromBytes(text)
		if err != nil {
			t.Skip()
		}
		before, err := json.Marshal(res)
		require.NoError(t, err)
		r := podcni.NetResult{NetAttachment: podcni.NetAttachment{Name: "net", Ifname: "eth0"}, Result: res}
		pod, err := podcni.MergeResults([]podcni.NetResult{r, r})
		require.NoError(t, err)
		for _, ip := range pod.IPs {
			require.True(t, ip.Address.IsValid())
		}
		for _, route := range pod.Routes {
			require.True(t, route.Dst.IsValid())
		}
		_, err = json.Marshal(pod)
		require.NoError(t, err)
		after, err := json.Marshal(res)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after), "the result was changed")
	})
}
