package integration_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
)

const (
	subnet4, subnet6 = "10.77.0.0/24", "fd00:77::/64"
	bridge           = "cnitest0"
	echoPort         = 7
)

func (n *node) bridge(more object) object {
	conf := object{
		"type": "bridge", "bridge": bridge, "isGateway": true,
		"ipam": n.hostLocal(subnet4, subnet6),
	}
	for key, value := range more {
		conf[key] = value
	}
	return conf
}

func TestBridgeDualStackWithMasquerading(t *testing.T) {
	onNode(t, func(n *node) {
		n.needNft()
		n.load([]string{bridge}, list("net", "1.0.0", n.bridge(object{"ipMasq": true, "ipMasqBackend": "nftables"})))
		a, b := n.pod("a"), n.pod("b")
		got := a.attach()
		b.attach()
		require.Len(t, got.IPv4(), 1)
		require.Len(t, got.IPv6(), 1)
		require.Len(t, n.reserved(), 4)
		require.Len(t, got.Routes, 2)
		require.True(t, netip.MustParsePrefix(subnet4).Contains(got.IPs[0].Gateway))
		rules, err := nft()
		require.NoError(t, err)
		require.Contains(t, rules, a.ID)
		require.Contains(t, rules, "masquerade")

		a.echo()
		for _, ip := range got.Addrs() {
			n.reaches(b.ns, ip, echoPort)
			n.reaches(nil, ip, echoPort)
		}
		require.NoError(t, n.CheckPod(t.Context(), a.PodNetwork))
		a.detach()
		b.detach()
		n.nothingLeft()
	})
}

func TestPublishedPort(t *testing.T) {
	onNode(t, func(n *node) {
		n.needNft()
		const hostPort = 18080
		portmap := object{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}}
		n.load([]string{bridge}, list("net", "1.0.0", n.bridge(nil), portmap))
		p := n.pod("a").ask(podcni.RuntimeConfig{PortMappings: []podcni.PortMapping{
			{HostPort: hostPort, ContainerPort: echoPort, Protocol: "TCP"},
			{HostPort: 0, ContainerPort: echoPort},
		}})
		got := p.attach()
		p.echo()
		for _, ip := range got.IPs {
			n.reaches(nil, ip.Gateway, hostPort)
		}
		// portmap's DEL does nothing without the mappings. They are recorded.
		p.RuntimeConfig = nil
		p.detach()
		n.nothingLeft()
	})
}

func TestBandwidth(t *testing.T) {
	onNode(t, func(n *node) {
		bandwidth := object{"type": "bandwidth", "capabilities": object{"bandwidth": true}}
		n.load([]string{bridge}, list("net", "1.0.0", n.bridge(nil), bandwidth))
		p := n.pod("a").ask(podcni.RuntimeConfig{Bandwidth: &podcni.BandwidthConfig{
			IngressRate: 10_000_000, IngressBurst: 1_000_000, EgressRate: 10_000_000, EgressBurst: 1_000_000,
		}})
		limited := 0
		for _, itf := range p.attach().Interfaces {
			if itf.Sandbox == "" && itf.Name != bridge {
				require.Contains(t, qdiscs(t, itf.Name), "tbf", itf.Name)
				limited++
			}
		}
		// The host's end of the pair for what the pod receives, and a device
		// of the plugin's own for what it sends.
		require.Equal(t, 2, limited)
		p.detach()
		n.nothingLeft()
	})
}

func TestHardwareAddressThroughTuning(t *testing.T) {
	onNode(t, func(n *node) {
		const mac = "c2:11:22:33:44:55"
		tuning := object{"type": "tuning", "dataDir": filepath.Join(n.dir, "tuning"), "capabilities": object{"mac": true}}
		n.load([]string{bridge}, list("net", "1.0.0", n.bridge(nil), tuning))
		p := n.pod("a").ask(podcni.RuntimeConfig{MAC: mac})
		p.attach()
		require.Equal(t, mac, p.kernel("eth0").MAC)
		p.detach()
		n.nothingLeft()
	})
}

func TestAddressRanges(t *testing.T) {
	onNode(t, func(n *node) {
		conf := n.bridge(object{
			"capabilities": object{"ipRanges": true},
			"ipam":         object{"type": "host-local", "dataDir": n.reservations()},
		})
		n.load([]string{bridge}, list("net", "1.0.0", conf))
		p := n.pod("a").ask(podcni.RuntimeConfig{IpRanges: [][]podcni.IPRange{
			{{Subnet: "10.78.0.0/16", RangeStart: "10.78.5.9", RangeEnd: "10.78.5.9", Gateway: "10.78.0.1"}},
			{{Subnet: "fd00:78::/64", RangeStart: "fd00:78::9", RangeEnd: "fd00:78::9"}},
		}})
		got := p.attach()
		require.Equal(t, []netip.Addr{netip.MustParseAddr("10.78.5.9"), netip.MustParseAddr("fd00:78::9")}, got.Addrs())
		require.Equal(t, netip.MustParseAddr("10.78.0.1"), got.IPs[0].Gateway)
		p.detach()
		n.nothingLeft()
	})
}

func TestTwoNetworksInOnePod(t *testing.T) {
	onNode(t, func(n *node) {
		second := n.hostLocal("10.79.0.0/24")
		delete(second, "routes")
		n.load([]string{bridge, "cnitest1"},
			list("one", "1.0.0", n.bridge(nil)),
			list("two", "0.4.0", object{"type": "bridge", "bridge": "cnitest1", "isGateway": true, "ipam": second}),
		)
		p := n.pod("a", podcni.NetAttachment{Name: "two", Ifname: "net0"}, podcni.NetAttachment{Name: "one"})
		got := p.attach()
		require.Len(t, got.IPs, 3)
		require.Equal(t, "net0", got.IPs[0].Interface)
		require.Equal(t, "eth0", got.IPs[1].Interface)
		require.Equal(t, got.IPs[0].Address.Addr(), got.Primary())
		p.echo()
		for _, ip := range got.Addrs() {
			n.reaches(nil, ip, echoPort)
		}
		attachments, err := n.Attachments(t.Context())
		require.NoError(t, err)
		require.Len(t, attachments, 2)
		p.detach()
		n.nothingLeft()
	})
}

// A pod whose second network fails has nothing left of the first.
func TestSecondNetworkFails(t *testing.T) {
	onNode(t, func(n *node) {
		n.load([]string{bridge},
			list("one", "1.0.0", n.bridge(nil)),
			list("two", "1.0.0", object{"type": "macvlan", "master": "absent0", "ipam": n.hostLocal("10.79.0.0/24")}),
		)
		p := n.pod("a", podcni.NetAttachment{Name: "one"}, podcni.NetAttachment{Name: "two"})
		_, err := n.SetUpPodWithContext(t.Context(), p.PodNetwork)
		var failed *podcni.PluginError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "ADD", failed.Verb)
		require.Equal(t, "two", failed.Network)
		require.Equal(t, "macvlan", failed.Plugin)
		require.ErrorContains(t, err, "Link not found") // its own words
		n.nothingLeft()
		p.detach()
	})
}

func TestDetachTwiceAndWithoutNamespace(t *testing.T) {
	onNode(t, func(n *node) {
		n.load([]string{bridge}, list("net", "1.0.0", n.bridge(nil)))
		p := n.pod("a")
		p.attach()
		p.detach()
		p.detach()
		n.nothingLeft()

		p.attach()
		require.NoError(t, p.ns.Remove())
		require.NotEmpty(t, n.reserved())
		require.NoError(t, n.TearDownPodWithContext(t.Context(), p.PodNetwork))
		require.NoError(t, n.TearDownPodWithContext(t.Context(), p.PodNetwork))
		n.nothingLeft()
	})
}

func TestCheckFailsWithoutTheInterface(t *testing.T) {
	onNode(t, func(n *node) {
		n.load([]string{bridge}, list("net", "1.0.0", n.bridge(nil)))
		p := n.pod("a")
		p.attach()
		require.NoError(t, n.CheckPod(t.Context(), p.PodNetwork))
		require.NoError(t, p.ns.Do(func() error { return deleteLink("eth0") }))
		var failed *podcni.PluginError
		require.ErrorAs(t, n.CheckPod(t.Context(), p.PodNetwork), &failed)
		require.Equal(t, "CHECK", failed.Verb)
		p.detach()
		n.nothingLeft()
	})
}

func TestStatus(t *testing.T) {
	onNode(t, func(n *node) {
		n.load(nil, list("net", "1.1.0", n.bridge(nil)))
		require.NoError(t, n.StatusWithContext(t.Context()))
		// bridge asks its IPAM plugin.
		require.NoError(t, os.Remove(filepath.Join(n.binDir, "host-local")))
		err := n.StatusWithContext(t.Context())
		require.ErrorIs(t, err, podcni.ErrNotReady)
		var failed *podcni.PluginError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "STATUS", failed.Verb)
		require.Equal(t, "bridge", failed.Plugin)
		n.nothingLeft()
	})
}

// GC finds what a runtime left that forgot a pod, also with its rules.
func TestGC(t *testing.T) {
	onNode(t, func(n *node) {
		n.needNft()
		n.load([]string{bridge}, list("net", "1.1.0", n.bridge(object{"ipMasq": true, "ipMasqBackend": "nftables"})))
		a, b := n.pod("a"), n.pod("b")
		a.attach()
		b.attach()
		require.NoError(t, n.GC(t.Context(), []*podcni.PodNetwork{&b.PodNetwork}))
		require.Len(t, n.reserved(), 2)
		require.NoError(t, n.CheckPod(t.Context(), b.PodNetwork))
		b.detach()
		n.nothingLeft()
	})
}
