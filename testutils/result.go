package testutils

import (
	"bytes"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Result is a plugin's answer to ADD as JSON, for [Answer]: one interface with
// the given addresses, such as 10.1.0.5/16, each with its subnet's first
// address as gateway, and a default route per family. It panics if the version
// is unknown or an address is none.
func Result(version, ifname, sandbox string, addresses ...string) string {
	result, err := makeResult(version, ifname, "02:00:00:00:00:01", sandbox, addresses)
	if err != nil {
		panic(err)
	}
	return result
}

func makeResult(version, ifname, mac, sandbox string, addresses []string) (string, error) {
	if version == "" {
		version = "0.1.0"
	}
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: ifname, Mac: mac, Sandbox: sandbox}},
	}
	routed := make(map[bool]bool) // by being of IPv4
	for _, address := range addresses {
		ip, subnet, err := net.ParseCIDR(address)
		if err != nil {
			return "", fmt.Errorf("an address of a result: %w", err)
		}
		gateway := append(net.IP(nil), subnet.IP...)
		gateway[len(gateway)-1] |= 1
		r.IPs = append(r.IPs, &types100.IPConfig{
			Interface: types100.Int(0),
			Address:   net.IPNet{IP: ip, Mask: subnet.Mask},
			Gateway:   gateway,
		})
		v4 := ip.To4() != nil
		if routed[v4] {
			continue
		}
		routed[v4] = true
		any4 := net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		any6 := net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		if v4 {
			r.Routes = append(r.Routes, &types.Route{Dst: any4, GW: gateway})
		} else {
			r.Routes = append(r.Routes, &types.Route{Dst: any6, GW: gateway})
		}
	}
	converted, err := r.GetAsVersion(version)
	if err != nil {
		return "", fmt.Errorf("a result of version %q: %w", version, err)
	}
	var b bytes.Buffer
	if err := converted.PrintTo(&b); err != nil {
		return "", err
	}
	return b.String(), nil
}
