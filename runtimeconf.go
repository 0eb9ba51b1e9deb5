package podcni

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/podcni/podcni/internal/confdir"
	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/spec"
)

const (
	// longestText bounds each text of a pod that is not the name of a file, in
	// bytes.
	longestText = 1024
	// longestPath bounds paths, in bytes.
	longestPath = 4096
)

var (
	errArgChars      = errors.New("it must not contain ';' or '=': nothing in CNI_ARGS is escaped")
	errControl       = errors.New("it must not contain control characters, NUL or invalid UTF-8")
	errSpaces        = errors.New("it must not contain spaces")
	errTextTooLong   = fmt.Errorf("it must not be longer than %d bytes", longestText)
	errPathTooLong   = fmt.Errorf("it must not be longer than %d bytes", longestPath)
	errIfNameTwice   = errors.New("another attachment of the pod has this name")
	errNotAttachment = errors.New("the pod has no attachment with this interface")
	errNoDefault     = errors.New("the pod names no network, and there is no default network")
)

// checkPod checks what identifies the pod and its attachments. needNetNS is for
// operations that cannot do without a namespace. What the pod asks of its
// networks is checked by plan.
func checkPod(pod *PodNetwork, needNetNS bool) error {
	for _, f := range []struct {
		field, value string
		check        func(string) error
	}{
		{"ID", pod.ID, spec.CheckContainerID},
		{"Name", pod.Name, checkArgText},
		{"Namespace", pod.Namespace, checkArgText},
		{"UID", pod.UID, checkArgText},
		{"NetNS", pod.NetNS, checkPath},
	} {
		if err := f.check(f.value); err != nil {
			return invalidField(ErrInvalidPod, f.field, f.value, err)
		}
	}
	// On Windows what CNI_NETNS holds depends on the plugins, and some want
	// nothing.
	if needNetNS && pod.NetNS == "" && runtime.GOOS != "windows" {
		return invalidField(ErrInvalidPod, "NetNS", "", spec.ErrEmpty)
	}
	taken := make(map[string]bool, len(pod.Networks))
	for i, n := range pod.Networks {
		if err := spec.CheckNetworkName(n.Name); err != nil {
			return invalidField(ErrInvalidPod, fmt.Sprintf("Networks[%d].Name", i), n.Name, err)
		}
		if n.Ifname == "" {
			continue
		}
		err := spec.CheckIfName(n.Ifname)
		if taken[n.Ifname] {
			err = errIfNameTwice
		}
		if err != nil {
			return invalidField(ErrInvalidPod, fmt.Sprintf("Networks[%d].Ifname", i), n.Ifname, err)
		}
		taken[n.Ifname] = true
	}
	return nil
}

// checkText is for text that reaches plugins: no control characters, which could
// forge a line of a log or of a file.
func checkText(s string) error {
	if len(s) > longestText {
		return errTextTooLong
	}
	return checkChars(s)
}

func checkChars(s string) error {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return errControl
	}
	return nil
}

// checkWord is for text that has no spaces either.
func checkWord(s string) error {
	switch {
	case s == "":
		return spec.ErrEmpty
	case strings.ContainsFunc(s, unicode.IsSpace):
		return errSpaces
	}
	return checkText(s)
}

func checkPath(s string) error {
	if len(s) > longestPath {
		return errPathTooLong
	}
	return checkChars(s)
}

// checkArgText is for text that becomes a part of CNI_ARGS.
func checkArgText(s string) error {
	if strings.ContainsAny(s, ";=") {
		return errArgChars
	}
	return checkText(s)
}

// plan says what attaching the pod means: its networks in order, or the default
// one, each with all that libcni needs. It checks everything that the pod asks
// for, and changes and keeps nothing of it.
//
// Attachments without an interface get the prefix and the lowest free number, in
// order, around all names that the caller gave, as in ocicni.
func (c *CNI) plan(snap *confdir.Snapshot, pod *PodNetwork) ([]*attachment, error) {
	wanted := pod.Networks
	if len(wanted) == 0 {
		if snap.Default == nil {
			return nil, noDefault(snap)
		}
		wanted = []NetAttachment{{Name: snap.Default.List.Name}}
	}
	names, err := ifNames(c.opts.ifPrefix, wanted, nil)
	if err != nil {
		return nil, err
	}
	if err := checkInterfaceConfig(pod, names); err != nil {
		return nil, err
	}
	plan := make([]*attachment, len(wanted))
	for i, want := range wanted {
		net := snap.Network(want.Name)
		if net == nil {
			return nil, networkNotFound(snap, want.Name)
		}
		if plan[i], err = c.planOne(net, pod, names[i]); err != nil {
			return nil, err
		}
	}
	return plan, c.checkServed(snap, pod, plan)
}

func (c *CNI) planOne(net *confdir.Network, pod *PodNetwork, ifName string) (*attachment, error) {
	a := &attachment{
		Attachment: journal.Attachment{
			Key:   journal.Key{Network: net.List.Name, IfName: ifName},
			NetNS: pod.NetNS, Config: net.List.Bytes,
		},
		containerID: pod.ID,
		list:        net.List,
	}
	field, key := "InterfaceConfig", ifName
	rc, ok := pod.InterfaceConfig[key]
	if !ok {
		field, key = "RuntimeConfig", net.List.Name
		rc = pod.RuntimeConfig[key]
	}
	addresses, err := rc.addresses()
	if err == nil {
		a.Args, err = rc.cniArgs(pod, addresses, c.environArgs)
	}
	if err == nil {
		a.CapabilityArgs, err = rc.capabilities(addresses)
	}
	a.asked = keyed(field, key)
	if err != nil {
		return nil, within(a.asked, err)
	}
	if err := addAliases(a, pod.Aliases[net.List.Name]); err != nil {
		return nil, err
	}
	if err := journal.CheckNames(a.Network, a.containerID, a.IfName); err != nil {
		return nil, invalidField(ErrInvalidPod, "ID", pod.ID, err)
	}
	return a, nil
}

// checkServed finds what the pod asks for and nobody will do: a capability that
// no plugin of the network declares, and a RuntimeConfig for a network that is
// not the pod's. Some agents serve these by other means. So it is an error only
// with WithStrictCapabilities, and otherwise a warning.
func (c *CNI) checkServed(snap *confdir.Snapshot, pod *PodNetwork, plan []*attachment) error {
	for _, a := range plan {
		declared := snap.Network(a.Network).Capabilities
		for _, name := range sortedKeys(a.CapabilityArgs) {
			// Annotations and the cgroup are told, not asked for.
			if name == capAnnotations || name == capCgroupPath || slices.Contains(declared, name) {
				continue
			}
			if c.opts.strictCapabilities {
				field := a.asked
				if name == capAliases {
					field = keyed("Aliases", a.Network)
				}
				return invalidField(ErrInvalidPod, field, name, errors.New("no plugin of the network declares this capability"))
			}
			c.opts.log.Warn("no plugin of the network declares a capability that the pod asks for",
				"sandbox", pod.ID, "network", a.Network, "capability", name)
		}
	}
	for _, network := range sortedKeys(pod.RuntimeConfig) {
		if slices.ContainsFunc(plan, func(a *attachment) bool { return a.Network == network }) {
			continue
		}
		if c.opts.strictCapabilities {
			return invalidField(ErrInvalidPod, keyed("RuntimeConfig", network), "", errors.New("the pod is not attached to this network"))
		}
		c.opts.log.Warn("the pod has a RuntimeConfig for a network that it is not attached to", "sandbox", pod.ID, "network", network)
	}
	return nil
}

// planLoaded plans, for a DEL, what the pod names and is loaded; the default
// network when it names none. What cannot be planned was not set up by us either.
// Interfaces that the journal has are another network's.
func (c *CNI) planLoaded(pod *PodNetwork, j *journal.Journal) []*attachment {
	snap := c.networks.Current()
	wanted := pod.Networks
	if len(wanted) == 0 && snap.Default != nil {
		wanted = []NetAttachment{{Name: snap.Default.List.Name}}
	}
	recorded := make(map[string]string)
	if j != nil {
		for _, a := range j.Attachments {
			recorded[a.IfName] = a.Network
		}
	}
	names, err := ifNames(c.opts.ifPrefix, wanted, recorded)
	if err != nil {
		return nil
	}
	var plan []*attachment
	for i, want := range wanted {
		net := snap.Network(want.Name)
		if owner, taken := recorded[names[i]]; net == nil || taken && owner != want.Name {
			continue
		}
		a, err := c.planOne(net, pod, names[i])
		if err != nil {
			c.opts.log.Warn("no DEL for a network that is not recorded", "sandbox", pod.ID, "network", want.Name, "err", err)
			continue
		}
		a.started = len(a.list.Plugins)
		plan = append(plan, a)
	}
	return plan
}

func noDefault(snap *confdir.Snapshot) error {
	if snap.Reason == nil {
		return fmt.Errorf("%w: %w", ErrNetworkNotFound, errNoDefault)
	}
	return fmt.Errorf("%w: %w: %w", ErrNetworkNotFound, errNoDefault, snap.Reason)
}

// networkNotFound says why a network is not loaded, or which ones are.
func networkNotFound(snap *confdir.Snapshot, name string) error {
	for _, r := range snap.Rejected {
		if r.Network == name {
			return fmt.Errorf("%w: %q: %w", ErrNetworkNotFound, name, configError(r))
		}
	}
	loaded := make([]string, len(snap.Networks))
	for i, n := range snap.Networks {
		loaded[i] = n.List.Name
	}
	if len(loaded) == 0 {
		return fmt.Errorf("%w: %q: no network is loaded", ErrNetworkNotFound, name)
	}
	return fmt.Errorf("%w: %q: loaded are %s", ErrNetworkNotFound, name, strings.Join(loaded, ", "))
}

// ifNames gives each attachment its interface. Numbers pass over the names that
// are taken.
func ifNames(prefix string, wanted []NetAttachment, taken map[string]string) ([]string, error) {
	names := make([]string, len(wanted))
	given := make(map[string]bool, len(wanted))
	for _, want := range wanted {
		given[want.Ifname] = true
	}
	number := 0
	for i, want := range wanted {
		if names[i] = want.Ifname; names[i] != "" {
			continue
		}
		for used := true; used; number++ {
			names[i] = prefix + strconv.Itoa(number)
			owner, recorded := taken[names[i]]
			used = given[names[i]] || recorded && owner != want.Name
		}
		if err := spec.CheckIfName(names[i]); err != nil {
			return nil, invalidField(ErrInvalidPod, fmt.Sprintf("Networks[%d].Ifname", i), names[i], err)
		}
	}
	return names, nil
}

func checkInterfaceConfig(pod *PodNetwork, names []string) error {
	for _, ifName := range sortedKeys(pod.InterfaceConfig) {
		if !slices.Contains(names, ifName) {
			return invalidField(ErrInvalidPod, "InterfaceConfig", ifName, errNotAttachment)
		}
	}
	return nil
}

// keyed names an entry of a map in a field's path.
func keyed(field, key string) string {
	return field + "[" + strconv.Quote(short(key)) + "]"
}

// within puts the path of what holds the field before the field in err.
func within(path string, err error) error {
	if bad := (*FieldError)(nil); errors.As(err, &bad) {
		bad.Field = path + "." + bad.Field
	}
	return err
}
