package podcni

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The capabilities of the CNI conventions (CONVENTIONS.md beside the
// specification), and the one that container runtimes agree on for annotations.
const (
	capPortMappings   = "portMappings"
	capIPRanges       = "ipRanges"
	capBandwidth      = "bandwidth"
	capDNS            = "dns"
	capIPs            = "ips"
	capMAC            = "mac"
	capInfinibandGUID = "infinibandGUID"
	capDeviceID       = "deviceID"
	capAliases        = "aliases"
	capCgroupPath     = "cgroupPath"
	capAnnotations    = "io.kubernetes.cri.pod-annotations"
)

const (
	guidOctets = 8
	maxPort    = 65535
)

// protocols are those that a port can be published for. Never changed.
var protocols = []string{"tcp", "udp", "sctp"}

// The libraries' own errors are not wrapped here: they repeat the whole input.
var (
	errNotIP         = errors.New("it is not an IP address")
	errNotPrefix     = errors.New("it is not an IP prefix")
	errNotGUID       = fmt.Errorf("it is not a GUID of %d octets with colons", guidOctets)
	errBadPort       = fmt.Errorf("it is not a port, 1 to %d", maxPort)
	errBadProtocol   = errors.New("it must be tcp, udp or sctp")
	errEmptyPool     = errors.New("it must hold a range")
	errOutsideSubnet = errors.New("it is not in the subnet")
	errReversed      = errors.New("it is before RangeStart")
	errNoBurst       = errors.New("a rate needs its burst")
	errNoRate        = errors.New("a burst needs its rate")
)

// capabilities checks and marshals everything that can be a capability, once:
// for the record, and for each plugin that declares some of it. ips is what
// addresses gave. The result is nil when the pod asks for nothing.
func (rc *RuntimeConfig) capabilities(ips, aliases []string) (map[string]json.RawMessage, error) {
	var set capabilitySet
	set.addPortMappings(rc.PortMappings)
	set.addIPRanges(rc.IpRanges)
	set.addBandwidth(rc.Bandwidth)
	set.addDNS(rc.DNS)
	if len(ips) > 0 {
		set.add(capIPs, "IPs", ips)
	}
	if rc.MAC != "" {
		set.add(capMAC, "MAC", rc.MAC) // cniArgs has checked it
	}
	if rc.InfinibandGUID != "" {
		if !hasOctets(rc.InfinibandGUID, guidOctets) || !strings.Contains(rc.InfinibandGUID, ":") {
			set.refuse("InfinibandGUID", rc.InfinibandGUID, errNotGUID)
		}
		set.add(capInfinibandGUID, "InfinibandGUID", rc.InfinibandGUID)
	}
	if rc.DeviceID != "" {
		set.add(capDeviceID, "DeviceID", rc.DeviceID)
	}
	if len(aliases) > 0 {
		set.add(capAliases, "Aliases", aliases)
	}
	if rc.CgroupPath != "" {
		set.add(capCgroupPath, "CgroupPath", rc.CgroupPath)
	}
	if rc.PodAnnotations != nil && *rc.PodAnnotations != nil {
		set.add(capAnnotations, "PodAnnotations", *rc.PodAnnotations)
	}
	if len(rc.CapabilityArgs) > 0 {
		for _, key := range slices.Sorted(maps.Keys(rc.CapabilityArgs)) {
			if key == "" {
				set.refuse("CapabilityArgs", key, errEmpty)
			}
			set.add(key, keyed("CapabilityArgs", key), rc.CapabilityArgs[key])
		}
	}
	return set.byName, set.err
}

// capabilitySet collects capabilities up to the first error.
type capabilitySet struct {
	byName map[string]json.RawMessage
	err    error
}

func (s *capabilitySet) refuse(field, value string, err error) {
	if s.err == nil {
		s.err = invalidField(ErrInvalidPod, field, value, err)
	}
}

func (s *capabilitySet) add(name, field string, value any) {
	if s.err != nil {
		return
	}
	raw, err := json.Marshal(value)
	if err != nil {
		s.refuse(field, "", err)
		return
	}
	if s.byName == nil {
		s.byName = make(map[string]json.RawMessage)
	}
	s.byName[name] = raw
}

func (s *capabilitySet) addPortMappings(given []PortMapping) {
	var mappings []PortMapping
	for i, m := range given {
		if m.HostPort <= 0 {
			continue
		}
		field := func(name string) string { return fmt.Sprintf("PortMappings[%d].%s", i, name) }
		if m.HostPort > maxPort {
			s.refuse(field("HostPort"), strconv.Itoa(int(m.HostPort)), errBadPort)
		}
		if m.ContainerPort <= 0 || m.ContainerPort > maxPort {
			s.refuse(field("ContainerPort"), strconv.Itoa(int(m.ContainerPort)), errBadPort)
		}
		if m.HostIP != "" {
			if _, ok := parseAddr(m.HostIP); !ok {
				s.refuse(field("HostIP"), m.HostIP, errNotIP)
			}
		}
		if m.Protocol == "" {
			m.Protocol = "tcp"
		}
		// portmap compares in lower case.
		known := slices.IndexFunc(protocols, func(p string) bool { return strings.EqualFold(p, m.Protocol) })
		if known < 0 {
			s.refuse(field("Protocol"), m.Protocol, errBadProtocol)
			return
		}
		m.Protocol = protocols[known]
		mappings = append(mappings, m)
	}
	if len(mappings) > 0 {
		s.add(capPortMappings, "PortMappings", mappings)
	}
}

func (s *capabilitySet) addIPRanges(pools [][]IPRange) {
	if len(pools) == 0 {
		return
	}
	for i, pool := range pools {
		if len(pool) == 0 {
			s.refuse(fmt.Sprintf("IpRanges[%d]", i), "", errEmptyPool)
		}
		for j := range pool {
			field, value, err := pool[j].check()
			if err != nil {
				s.refuse(fmt.Sprintf("IpRanges[%d][%d].%s", i, j, field), value, err)
			}
		}
	}
	s.add(capIPRanges, "IpRanges", pools)
}

// check names the field that is wrong, and what is wrong with it. A gateway
// outside the subnet is left to the plugin: some routed networks have one.
func (r *IPRange) check() (field, value string, err error) {
	subnet, err := netip.ParsePrefix(r.Subnet)
	if err != nil {
		return "Subnet", r.Subnet, errNotPrefix
	}
	var start netip.Addr
	if r.RangeStart != "" {
		addr, ok := parseAddr(r.RangeStart)
		switch {
		case !ok:
			return "RangeStart", r.RangeStart, errNotIP
		case !subnet.Contains(addr):
			return "RangeStart", r.RangeStart, errOutsideSubnet
		}
		start = addr
	}
	if r.RangeEnd != "" {
		addr, ok := parseAddr(r.RangeEnd)
		switch {
		case !ok:
			return "RangeEnd", r.RangeEnd, errNotIP
		case !subnet.Contains(addr):
			return "RangeEnd", r.RangeEnd, errOutsideSubnet
		case start.IsValid() && addr.Less(start):
			return "RangeEnd", r.RangeEnd, errReversed
		}
	}
	if r.Gateway != "" {
		if _, ok := parseAddr(r.Gateway); !ok {
			return "Gateway", r.Gateway, errNotIP
		}
	}
	return "", "", nil
}

// bandwidthJSON is BandwidthConfig as the conventions spell it.
type bandwidthJSON struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

func (s *capabilitySet) addBandwidth(b *BandwidthConfig) {
	if b == nil || *b == (BandwidthConfig{}) {
		return
	}
	s.checkRate("Ingress", b.IngressRate, b.IngressBurst)
	s.checkRate("Egress", b.EgressRate, b.EgressBurst)
	s.add(capBandwidth, "Bandwidth", bandwidthJSON(*b))
}

func (s *capabilitySet) checkRate(direction string, rate, burst uint64) {
	if rate > 0 && burst == 0 {
		s.refuse("Bandwidth."+direction+"Burst", "0", errNoBurst)
	}
	if rate == 0 && burst > 0 {
		s.refuse("Bandwidth."+direction+"Rate", "0", errNoRate)
	}
}

func (s *capabilitySet) addDNS(dns *DNSConfig) {
	if dns == nil || len(dns.Servers)+len(dns.Searches)+len(dns.Options) == 0 {
		return
	}
	for i, server := range dns.Servers {
		// Unlike elsewhere, an address may have a zone, as in resolv.conf.
		if _, err := netip.ParseAddr(server); err != nil {
			s.refuse(fmt.Sprintf("DNS.Servers[%d]", i), server, errNotIP)
		}
	}
	s.add(capDNS, "DNS", dns)
}
