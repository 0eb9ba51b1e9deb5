package podcni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podcni/podcni/internal/netns"
)

// PodResult is what attaching a pod gave, over all its networks. Everything is
// in the order of the attachments, and within one in the order of its plugins'
// answer. It shares no memory with the results that it was read from.
type PodResult struct {
	// Interfaces are those that the plugins made, in the pod and on the host.
	// Where a plugin gives addresses and lists no interface, as before version
	// 0.3.0, the attachment's own stands for it, by its name.
	Interfaces []Interface `json:"interfaces,omitempty"`
	// IPs are the pod's own addresses, each once: those of interfaces in the
	// pod, and those of which the plugin does not say whose they are.
	IPs []IP `json:"ips,omitempty"`
	// Routes are the pod's routes.
	Routes []Route `json:"routes,omitempty"`
	// DNS is every network's resolver configuration put together: each entry
	// once, and the first domain.
	DNS types.DNS `json:"dns,omitzero"`
}

// Interface is an interface that a plugin made.
type Interface struct {
	// Network is the network's name.
	Network string `json:"network"`
	// Name is the interface's name.
	Name string `json:"name"`
	// MAC is its hardware address as the plugin wrote it.
	MAC string `json:"mac,omitempty"`
	// MTU is in bytes; 0 when the plugin does not say.
	MTU int `json:"mtu,omitempty"`
	// Sandbox is the path of the pod's namespace when the interface is in it,
	// and empty when it is the host's.
	Sandbox string `json:"sandbox,omitempty"`
	// SocketPath is the socket file of the interface, where it has one.
	SocketPath string `json:"socketPath,omitempty"`
	// PciID is the PCI device of the interface, where it is one.
	PciID string `json:"pciID,omitempty"`
	// IPs are the interface's addresses.
	IPs []IP `json:"ips,omitempty"`
}

// IP is an address.
type IP struct {
	// Network is the network's name.
	Network string `json:"network"`
	// Interface is the name of its interface: for an address of which the
	// plugin does not say whose it is, that of the attachment.
	Interface string `json:"interface,omitempty"`
	// Address is the address with the length of its subnet's prefix.
	Address netip.Prefix `json:"address"`
	// Gateway is the subnet's gateway; the zero Addr when there is none.
	Gateway netip.Addr `json:"gateway,omitzero"`
}

// Route is a route of the pod.
type Route struct {
	// Network is the network's name.
	Network string `json:"network"`
	// Dst is where it leads.
	Dst netip.Prefix `json:"dst"`
	// GW is the next hop; the zero Addr leaves it to the plugin, which takes
	// the gateway of the address.
	GW netip.Addr `json:"gw,omitzero"`
	// MTU along the route and AdvMSS, the segment size to advertise, are in
	// bytes; 0 is not set.
	MTU    int `json:"mtu,omitempty"`
	AdvMSS int `json:"advmss,omitempty"`
	// Priority is the metric, lower is preferred; 0 is not set.
	Priority int `json:"priority,omitempty"`
	// Table and Scope are the routing table and the scope; nil is not set.
	Table *int `json:"table,omitempty"`
	Scope *int `json:"scope,omitempty"`
}

// MergeResults puts together what SetUpPod or GetPodNetworkStatus returned. It takes
// results of every version of the specification, and also ones that break it:
// an address that names no interface, or one that is not there, belongs to the
// attachment's own; what is null or is no address is left out.
//
// The error wraps [ErrVersion]. It is about a [types.Result] that is not libcni's.
// The rest is still read.
func MergeResults(results []NetResult) (PodResult, error) {
	r := resultReader{addrs: map[netip.Addr]struct{}{}, dns: map[dnsEntry]struct{}{}}
	var errs []error
	for _, result := range results {
		if err := r.read(result); err != nil {
			errs = append(errs, fmt.Errorf("result of network %q: %w", result.Name, err))
		}
	}
	return r.pod, errors.Join(errs...)
}

// Addrs are the pod's addresses.
func (r PodResult) Addrs() []netip.Addr { return r.addrs(netip.Addr.IsValid) }

// IPv4 are the pod's IPv4 addresses.
func (r PodResult) IPv4() []netip.Addr { return r.addrs(netip.Addr.Is4) }

// IPv6 are the pod's IPv6 addresses.
func (r PodResult) IPv6() []netip.Addr { return r.addrs(netip.Addr.Is6) }

// Primary is the pod's first address, of either family; the zero Addr when it
// has none.
func (r PodResult) Primary() netip.Addr {
	if len(r.IPs) == 0 {
		return netip.Addr{}
	}
	return r.IPs[0].Address.Addr()
}

func (r PodResult) addrs(want func(netip.Addr) bool) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range r.IPs {
		if addr := ip.Address.Addr(); want(addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// resultReader puts the results of a pod's networks together.
type resultReader struct {
	pod   PodResult
	addrs map[netip.Addr]struct{}
	dns   map[dnsEntry]struct{}

	// Of the network that is being read. Interfaces keep their indices until it
	// is complete: a null one counts.
	network, ifName string
	interfaces      []Interface
	sandboxed       bool // an interface says that it is in the pod
	own             *int // the attachment's own interface, once it was looked for
}

// dnsEntry is an entry of one of the lists of a DNS configuration.
type dnsEntry struct{ list, entry string }

// read reads one network's result. The types of libcni are taken apart here
// and not by libcni's converters: those panic on nulls, share memory, and write
// to a result that lacks its version.
func (r *resultReader) read(result NetResult) error {
	r.network, r.ifName = result.Name, result.Ifname
	r.interfaces, r.sandboxed, r.own = nil, false, nil
	switch res := result.Result.(type) {
	case nil:
	case *types020.Result:
		if res != nil {
			r.read020(res)
		}
	case *types040.Result:
		if res != nil {
			r.read040(res)
		}
	case *types100.Result:
		if res != nil {
			r.read100(res)
		}
	default:
		return fmt.Errorf("%w: %T is not a type of libcni", ErrVersion, res)
	}
	for _, ifc := range r.interfaces {
		if ifc.Name != "" {
			r.pod.Interfaces = append(r.pod.Interfaces, ifc)
		}
	}
	return nil
}

func (r *resultReader) read020(res *types020.Result) {
	for _, ip := range []*types020.IPConfig{res.IP4, res.IP6} {
		if ip == nil {
			continue
		}
		r.addIP(ip.IP, ip.Gateway, nil)
		for i := range ip.Routes {
			r.addRoute(&ip.Routes[i])
		}
	}
	r.addDNS(res.DNS)
}

func (r *resultReader) read040(res *types040.Result) {
	for _, ifc := range res.Interfaces {
		if ifc == nil {
			ifc = &types040.Interface{}
		}
		r.addInterface(types100.Interface{Name: ifc.Name, Mac: ifc.Mac, Sandbox: ifc.Sandbox})
	}
	for _, ip := range res.IPs {
		if ip != nil {
			r.addIP(ip.Address, ip.Gateway, ip.Interface)
		}
	}
	for _, route := range res.Routes {
		r.addRoute(route)
	}
	r.addDNS(res.DNS)
}

func (r *resultReader) read100(res *types100.Result) {
	for _, ifc := range res.Interfaces {
		if ifc == nil {
			ifc = &types100.Interface{}
		}
		r.addInterface(*ifc)
	}
	for _, ip := range res.IPs {
		if ip != nil {
			r.addIP(ip.Address, ip.Gateway, ip.Interface)
		}
	}
	for _, route := range res.Routes {
		r.addRoute(route)
	}
	r.addDNS(res.DNS)
}

func (r *resultReader) addInterface(ifc types100.Interface) {
	r.sandboxed = r.sandboxed || ifc.Sandbox != ""
	r.interfaces = append(r.interfaces, Interface{
		Network: r.network, Name: ifc.Name, MAC: ifc.Mac, MTU: ifc.Mtu,
		Sandbox: ifc.Sandbox, SocketPath: ifc.SocketPath, PciID: ifc.PciID,
	})
}

// addIP comes after all of a result's interfaces.
func (r *resultReader) addIP(address net.IPNet, gateway net.IP, index *int) {
	ip := IP{Network: r.network, Interface: r.ifName, Address: netns.PrefixOf(&address), Gateway: addrOf(gateway)}
	if !ip.Address.IsValid() {
		return
	}
	if len(r.interfaces) == 0 {
		r.addInterface(types100.Interface{Name: r.ifName})
	}
	owner := r.owner(index)
	if owner != nil {
		ip.Interface = owner.Name
		owner.IPs = append(owner.IPs, ip)
	}
	if owner == nil || r.inPod(owner) {
		addr := ip.Address.Addr()
		if _, known := r.addrs[addr]; !known {
			r.addrs[addr] = struct{}{}
			r.pod.IPs = append(r.pod.IPs, ip)
		}
	}
}

// owner is the interface of an address: the one that it names, otherwise the
// attachment's own; nil when there is no telling.
func (r *resultReader) owner(index *int) *Interface {
	if index != nil && *index >= 0 && *index < len(r.interfaces) && r.interfaces[*index].Name != "" {
		return &r.interfaces[*index]
	}
	if r.own == nil {
		own := slices.IndexFunc(r.interfaces, func(ifc Interface) bool {
			return ifc.Name != "" && ifc.Name == r.ifName && r.inPod(&ifc)
		})
		r.own = &own
	}
	if *r.own < 0 {
		return nil
	}
	return &r.interfaces[*r.own]
}

// inPod says whether an interface is the pod's. A plugin that marks none as
// the pod's still lists it by the name that it was told.
func (r *resultReader) inPod(ifc *Interface) bool {
	return ifc.Sandbox != "" || !r.sandboxed && ifc.Name == r.ifName
}

func (r *resultReader) addRoute(route *types.Route) {
	if route == nil {
		return
	}
	dst := netns.PrefixOf(&route.Dst)
	if !dst.IsValid() {
		return
	}
	r.pod.Routes = append(r.pod.Routes, Route{
		Network: r.network, Dst: dst.Masked(), GW: addrOf(route.GW),
		MTU: route.MTU, AdvMSS: route.AdvMSS, Priority: route.Priority,
		Table: copyInt(route.Table), Scope: copyInt(route.Scope),
	})
}

func (r *resultReader) addDNS(dns types.DNS) {
	merged := &r.pod.DNS
	if merged.Domain == "" {
		merged.Domain = dns.Domain
	}
	merged.Nameservers = r.appendNew(merged.Nameservers, "nameservers", dns.Nameservers)
	merged.Search = r.appendNew(merged.Search, "search", dns.Search)
	merged.Options = r.appendNew(merged.Options, "options", dns.Options)
}

func (r *resultReader) appendNew(to []string, list string, entries []string) []string {
	for _, entry := range entries {
		key := dnsEntry{list, entry}
		if _, known := r.dns[key]; !known && entry != "" {
			r.dns[key] = struct{}{}
			to = append(to, entry)
		}
	}
	return to
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

func copyInt(p *int) *int {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
