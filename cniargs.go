package podcni

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// longestArgs bounds CNI_ARGS as a whole, a little below the tightest limit
// of a platform (Windows, 32767). A longer one would make every run of a
// plugin fail, and DEL for ever.
const longestArgs = 32000

const macOctets = 6

var (
	errArgsTooLong   = fmt.Errorf("with it, CNI_ARGS would be longer than %d bytes", longestArgs)
	errNotIPOrPrefix = errors.New("it is not an IP address, with or without a prefix length")
	errTwoPrefixes   = errors.New("the same address is given with another prefix length")
	errNotMAC        = fmt.Errorf("it is not a hardware address of %d octets", macOctets)
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
		if !hasOctets(rc.MAC, macOctets) {
			return nil, invalidField(ErrInvalidPod, "MAC", rc.MAC, errNotMAC)
		}
		args = setArg(args, "MAC", rc.MAC)
	}
	if len(rc.Args) == 0 {
		return args, checkArgsLength(args)
	}
	for _, key := range slices.Sorted(maps.Keys(rc.Args)) {
		value := rc.Args[key]
		err := checkArgChars(key)
		if key == "" {
			err = errEmpty
		}
		if err != nil {
			return nil, invalidField(ErrInvalidPod, "Args", key, fmt.Errorf("the key: %w", err))
		}
		if err := checkArgChars(value); err != nil {
			return nil, invalidField(ErrInvalidPod, keyed("Args", key), value, err)
		}
		args = setArg(args, key, value)
	}
	return args, checkArgsLength(args)
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

func checkArgsLength(args [][2]string) error {
	if argsLength(args) > longestArgs {
		return invalidField(ErrInvalidPod, "Args", "", errArgsTooLong)
	}
	return nil
}

func argsLength(args [][2]string) int {
	n := max(0, len(args)-1)
	for i := range args {
		n += len(args[i][0]) + len("=") + len(args[i][1])
	}
	return n
}

// argsString is what CNI_ARGS is set to.
func argsString(args [][2]string) string {
	var b strings.Builder
	b.Grow(argsLength(args))
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
		return p.Addr(), p.Bits(), err == nil
	}
	addr, ok = parseAddr(s)
	return addr, noPrefix, ok
}

// parseAddr takes no zone: it means nothing in another namespace.
func parseAddr(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr, err == nil && addr.Zone() == ""
}

// hasOctets tells whether s is a hardware address of so many octets.
func hasOctets(s string, octets int) bool {
	addr, err := net.ParseMAC(s)
	return err == nil && len(addr) == octets
}
