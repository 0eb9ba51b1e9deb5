package podcni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
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
	errNotIP         = errors.New("it is not the IP address of one host")
	errNotPrefix     = errors.New("it is not an IP prefix of hosts")
	errNotUTF8       = errors.New("it is not valid UTF-8")
	errNotGUID       = fmt.Errorf("it is not a GUID of %d octets with colons", guidOctets)
	errBadPort       = fmt.Errorf("it is not a port, 1 to %d", maxPort)
	errBadProtocol   = errors.New("it must be tcp, udp or sctp")
	errEmptyPool     = errors.New("it must hold a range")
	errOutsideSubnet = errors.New("it is not in the subnet")
	errReversed      = errors.New("it is before RangeStart")
	errNoBurst       = errors.New("a rate needs its burst")
	errNoRate        = errors.New("a burst needs its rate")
)

// capabilities checks and marshals everything that can be a capability. ips is
// what addresses returned. The result is nil when the pod asks for nothing.
func (rc *RuntimeConfig) capabilities(ips []string) (map[string]json.RawMessage, error) {
	var set capabilitySet
	set.addPortMappings(rc.PortMappings)
	set.addIPRanges(rc.IpRanges)
	set.addBandwidth(rc.Bandwidth)
	set.addDNS(rc.DNS)
	if len(ips) > 0 {
		set.add(capIPs, "IPs", ips)
	}
	if rc.MAC != "" {
		set.check("MAC", rc.MAC, checkMAC)
		set.add(capMAC, "MAC", rc.MAC)
	}
	if rc.InfinibandGUID != "" {
		if !hasOctets(rc.InfinibandGUID, guidOctets) || !strings.Contains(rc.InfinibandGUID, ":") {
			set.refuse("InfinibandGUID", rc.InfinibandGUID, errNotGUID)
		}
		set.add(capInfinibandGUID, "InfinibandGUID", rc.InfinibandGUID)
	}
	if rc.DeviceID != "" {
		set.check("DeviceID", rc.DeviceID, checkWord)
		set.add(capDeviceID, "DeviceID", rc.DeviceID)
	}
	if rc.CgroupPath != "" {
		set.check("CgroupPath", rc.CgroupPath, checkPath)
		set.add(capCgroupPath, "CgroupPath", rc.CgroupPath)
	}
	if rc.PodAnnotations != nil && *rc.PodAnnotations != nil {
		for key, value := range *rc.PodAnnotations {
			// Values may have several lines, and be long.
			if !utf8.ValidString(key) || !utf8.ValidString(value) {
				set.refuse(keyed("PodAnnotations", key), "", errNotUTF8)
			}
		}
		set.add(capAnnotations, "PodAnnotations", *rc.PodAnnotations)
	}
	for _, key := range sortedKeys(rc.CapabilityArgs) {
		set.check("CapabilityArgs", key, checkWord)
		set.add(key, keyed("CapabilityArgs", key), rc.CapabilityArgs[key])
	}
	return set.byName, set.err
}

// addAliases adds the pod's further names on the attachment's network.
func addAliases(a *attachment, aliases []string) error {
	if len(aliases) == 0 {
		return nil
	}
	set := capabilitySet{byName: a.CapabilityArgs}
	for i, alias := range aliases {
		set.check(fmt.Sprintf("%s[%d]", keyed("Aliases", a.Network), i), alias, checkWord)
	}
	set.add(capAliases, keyed("Aliases", a.Network), aliases)
	a.CapabilityArgs = set.byName
	return set.err
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

func (s *capabilitySet) check(field, value string, check func(string) error) {
	if err := check(value); err != nil {
		s.refuse(field, value, err)
	}
}

func (s *capabilitySet) add(name, field string, value any) {
	if s.err != nil {
		return
	}
	raw, err := json.Marshal(value)
	// The encoder writes what is no UTF-8 as this escape, and nothing else so.
	if err == nil && (!utf8.Valid(raw) || bytes.Contains(raw, []byte(`\ufffd`))) {
		err = errNotUTF8
	}
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
	if err != nil || subnet.Addr().IsMulticast() {
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
		s.check(fmt.Sprintf("DNS.Servers[%d]", i), server, checkWord)
		if addr, err := netip.ParseAddr(server); err != nil || addr.IsMulticast() {
			s.refuse(fmt.Sprintf("DNS.Servers[%d]", i), server, errNotIP)
		}
	}
	for i, search := range dns.Searches {
		s.check(fmt.Sprintf("DNS.Searches[%d]", i), search, checkWord)
	}
	for i, option := range dns.Options {
		s.check(fmt.Sprintf("DNS.Options[%d]", i), option, checkWord)
	}
	s.add(capDNS, "DNS", dns)
}

// longestArgs bounds CNI_ARGS as a whole, a little below the tightest limit
// of a platform (Windows, 32767). A longer one would make every run of a
// plugin fail, and DEL for ever.
const longestArgs = 32000

const macOctets = 6

var (
	errArgsTooLong   = fmt.Errorf("with it, CNI_ARGS would be longer than %d bytes", longestArgs)
	errNotIPOrPrefix = errors.New("it is not an IP address, with or without a prefix length")
	errTwoPrefixes   = errors.New("the same address is given with another prefix length")
	errNotMAC        = fmt.Errorf("it is not the hardware address of one interface, %d octets with colons", macOctets)
)

// cniArgs are the attachment's CNI_ARGS, in order, each key once. Where several
// give the same key, the caller's Args win over the pod's address, that over
// the environment, and that over the pod's name, as plugins take it that go by
// the last.
func (rc *RuntimeConfig) cniArgs(pod *PodNetwork, addresses []string, environArgs string) ([][2]string, error) {
	// Before anything is built of them; the sum is checked at the end.
	if len(environArgs) > longestArgs || len(rc.Args) > longestArgs/len("k=v;") {
		return nil, invalidField(ErrInvalidPod, "Args", "", errArgsTooLong)
	}
	args := make([][2]string, 0, 7+len(rc.Args))
	args = append(args,
		[2]string{"IgnoreUnknown", "1"},
		[2]string{"K8S_POD_NAMESPACE", pod.Namespace},
		[2]string{"K8S_POD_NAME", pod.Name},
		[2]string{"K8S_POD_INFRA_CONTAINER_ID", pod.ID},
		[2]string{"K8S_POD_UID", pod.UID},
	)
	for environArgs != "" {
		var pair string
		pair, environArgs, _ = strings.Cut(environArgs, ";")
		if key, value, ok := strings.Cut(pair, "="); ok && key != "" {
			args = setArg(args, key, value)
		}
	}
	if ip := rc.IP; ip != "" {
		args = setArg(args, "IP", ip)
	} else if len(addresses) > 0 {
		args = setArg(args, "IP", addresses[0])
	}
	if rc.MAC != "" {
		args = setArg(args, "MAC", rc.MAC)
	}
	for _, key := range sortedKeys(rc.Args) {
		value := rc.Args[key]
		err := checkWord(key)
		if err == nil {
			err = checkArgChars(key)
		}
		if err != nil {
			return nil, invalidField(ErrInvalidPod, "Args", key, fmt.Errorf("the key: %w", err))
		}
		if err := checkArgChars(value); err != nil {
			return nil, invalidField(ErrInvalidPod, keyed("Args", key), value, err)
		}
		args = setArg(args, key, value)
	}
	if len(argsString(args)) > longestArgs {
		return nil, invalidField(ErrInvalidPod, "Args", "", errArgsTooLong)
	}
	return args, nil
}

// checkArgChars is for values, which may be long.
func checkArgChars(s string) error {
	if strings.ContainsAny(s, ";=") {
		return errArgChars
	}
	return checkChars(s)
}

// checkMAC is for the address of one interface: not of a group, and not zero.
func checkMAC(s string) error {
	addr, err := net.ParseMAC(s)
	if err != nil || len(addr) != macOctets || addr[0]&1 != 0 || !slices.ContainsFunc(addr, func(b byte) bool { return b != 0 }) {
		return errNotMAC
	}
	return nil
}

func setArg(args [][2]string, key, value string) [][2]string {
	for i := range args {
		if args[i][0] == key {
			args[i][1] = value
			return args
		}
	}
	return append(args, [2]string{key, value})
}

// argsString is what CNI_ARGS is set to.
func argsString(args [][2]string) string {
	var b strings.Builder
	for i := range args {
		if i > 0 {
			b.WriteByte(';')
		}
		b.WriteString(args[i][0])
		b.WriteByte('=')
		b.WriteString(args[i][1])
	}
	return b.String()
}

// addresses are IP and then IPs as they were given, each address once: with its
// prefix length if any of them has one.
func (rc *RuntimeConfig) addresses() ([]string, error) {
	if rc.IP == "" && len(rc.IPs) == 0 {
		return nil, nil
	}
	type entry struct{ index, bits int }
	var (
		given = make([]string, 0, 1+len(rc.IPs))
		seen  = make(map[netip.Addr]entry, 1+len(rc.IPs))
		all   = rc.IPs
	)
	if rc.IP != "" {
		all = append([]string{rc.IP}, rc.IPs...)
	}
	for i, s := range all {
		bad := func(err error) error {
			field := "IP"
			if rc.IP == "" {
				field = fmt.Sprintf("IPs[%d]", i)
			} else if i > 0 {
				field = fmt.Sprintf("IPs[%d]", i-1)
			}
			return invalidField(ErrInvalidPod, field, s, err)
		}
		addr, bits, ok := parseAddrOrPrefix(s)
		if !ok {
			return nil, bad(errNotIPOrPrefix)
		}
		before, twice := seen[addr]
		switch {
		case !twice:
			seen[addr] = entry{len(given), bits}
			given = append(given, s)
		case before.bits == noPrefix && bits != noPrefix:
			seen[addr] = entry{before.index, bits}
			given[before.index] = s
		case bits != noPrefix && bits != before.bits:
			return nil, bad(errTwoPrefixes)
		}
	}
	return given, nil
}

// noPrefix stands for the length of a prefix where there is none.
const noPrefix = -1

func parseAddrOrPrefix(s string) (addr netip.Addr, bits int, ok bool) {
	if strings.IndexByte(s, '/') >= 0 {
		p, err := netip.ParsePrefix(s)
		return p.Addr(), p.Bits(), err == nil && !p.Addr().IsMulticast()
	}
	addr, ok = parseAddr(s)
	return addr, noPrefix, ok
}

// parseAddr takes no group of hosts, and no zone, which means nothing in another
// namespace.
func parseAddr(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr, err == nil && addr.Zone() == "" && !addr.IsMulticast()
}

// hasOctets tells whether s is a hardware address of so many octets.
func hasOctets(s string, octets int) bool {
	addr, err := net.ParseMAC(s)
	return err == nil && len(addr) == octets
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
