package integration_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
)

func TestPointToPoint(t *testing.T) {
	onNode(t, func(n *node) {
		n.needNft()
		ptp := object{"type": "ptp", "ipMasq": true, "ipMasqBackend": "nftables", "ipam": n.hostLocal(subnet4, subnet6)}
		n.load(nil, list("net", "1.0.0", ptp))
		a, b := n.pod("a"), n.pod("b")
		got := a.attach()
		b.attach()
		require.Len(t, got.IPv4(), 1)
		require.Len(t, got.IPv6(), 1)
		a.echo()
		for _, ip := range got.Addrs() {
			n.reaches(nil, ip, echoPort)
			n.reaches(b.ns, ip, echoPort)
		}
		require.NoError(t, n.CheckPod(t.Context(), a.PodNetwork))
		a.detach()
		b.detach()
		n.nothingLeft()
	})
}

// The address of a pod with the plugins macvlan and static, in each way that a
// runtime can ask for it.
func TestStaticAddress(t *testing.T) {
	const v4, v6 = "10.80.0.7/24", "fd00:80::7/64"
	ips := object{"ips": true}
	for name, test := range map[string]struct {
		capabilities object
		asked        podcni.RuntimeConfig
		want         []string
	}{
		"IP":       {ips, podcni.RuntimeConfig{IP: v4}, []string{v4}},
		"IPs":      {ips, podcni.RuntimeConfig{IPs: []string{v4, v6}}, []string{v4, v6}},
		"CNI_ARGS": {nil, podcni.RuntimeConfig{Args: map[string]string{"IP": v4, "GATEWAY": "10.80.0.1"}}, []string{v4}},
		// static reads CNI_ARGS also where the network declares no capability.
		"IP as CNI_ARGS": {nil, podcni.RuntimeConfig{IP: v4}, []string{v4}},
	} {
		t.Run(name, func(t *testing.T) {
			onNode(t, func(n *node) {
				addWire(t, "wire0", "wire1")
				macvlan := object{
					"type": "macvlan", "master": "wire0", "mode": "bridge",
					"ipam": object{"type": "static"},
				}
				if test.capabilities != nil {
					macvlan["capabilities"] = test.capabilities
				}
				n.load([]string{"wire0", "wire1"}, list("net", "1.0.0", macvlan))
				p := n.pod("a").ask(test.asked)
				got := p.attach()
				var addresses []string
				for _, ip := range got.IPs {
					addresses = append(addresses, ip.Address.String())
				}
				require.Equal(t, test.want, addresses)

				// Another pod on the wire reaches it.
				b := n.pod("b").ask(podcni.RuntimeConfig{Args: map[string]string{"IP": "10.80.0.8/24"}})
				if test.capabilities != nil {
					b.ask(podcni.RuntimeConfig{IP: "10.80.0.8/24"})
				}
				b.attach()
				p.echo()
				n.reaches(b.ns, netip.MustParsePrefix(v4).Addr(), echoPort)
				p.detach()
				b.detach()
				n.nothingLeft()
			})
		})
	}
}

// flannel, as its last release among the reference plugins, has bridge do the
// work.
func TestFlannel(t *testing.T) {
	onNode(t, func(n *node) {
		env := filepath.Join(n.dir, "subnet.env")
		require.NoError(t, os.WriteFile(env, []byte(
			"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n"), 0o644))
		dataDir := filepath.Join(n.dir, "flannel")
		n.load([]string{bridge}, list("cbr0", "0.3.1", object{
			"type": "flannel", "subnetFile": env, "dataDir": dataDir,
			"ipam":     object{"dataDir": n.reservations()},
			"delegate": object{"bridge": bridge, "hairpinMode": true, "isDefaultGateway": true},
		}))
		p := n.pod("a")
		got := p.attach()
		require.True(t, netip.MustParsePrefix("10.244.3.0/24").Contains(got.Primary()), got.Primary())
		require.Equal(t, 1400, p.kernel("eth0").MTU)
		p.echo()
		n.reaches(nil, got.Primary(), echoPort)
		p.detach()
		n.nothingLeft()
		left, err := os.ReadDir(dataDir)
		require.NoError(t, err)
		require.Empty(t, left, "what flannel noted")
	})
}
