package podcni

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

const (
	// longestArg bounds each of the pod's own names, which are no file names but
	// become part of CNI_ARGS.
	longestArg = 1024
	// longestPath bounds the path of a namespace.
	longestPath = 4096
)

var (
	errArgChars      = errors.New("it must not hold ';', '=' or NUL: nothing in CNI_ARGS is escaped")
	errArgTooLong    = fmt.Errorf("it must not be longer than %d bytes", longestArg)
	errPathTooLong   = fmt.Errorf("it must not be longer than %d bytes", longestPath)
	errIfNameTwice   = errors.New("another attachment of the pod has this name")
	errNotAttachment = errors.New("the pod has no attachment with this interface")
	errNoDefault     = errors.New("the pod names none, and there is no default network")
)

// checkPod checks what identifies the pod and its attachments. needNetNS is for
// operations that cannot do without a namespace. What the pod asks of its
// networks is for planPod to check.
func checkPod(pod *PodNetwork, needNetNS bool) error {
	if err := checkContainerID(pod.ID); err != nil {
		return invalidField(ErrInvalidPod, "ID", pod.ID, err)
	}
	if err := checkArg(pod.Name); err != nil {
		return invalidField(ErrInvalidPod, "Name", pod.Name, err)
	}
	if err := checkArg(pod.Namespace); err != nil {
		return invalidField(ErrInvalidPod, "Namespace", pod.Namespace, err)
	}
	if err := checkArg(pod.UID); err != nil {
		return invalidField(ErrInvalidPod, "UID", pod.UID, err)
	}
	if err := checkNetNSPath(pod.NetNS, needNetNS); err != nil {
		return invalidField(ErrInvalidPod, "NetNS", pod.NetNS, err)
	}

	var taken map[string]struct{}
	if len(pod.Networks) > 1 {
		taken = make(map[string]struct{}, len(pod.Networks))
	}
	for i := range pod.Networks {
		att := &pod.Networks[i]
		if err := checkNetworkName(att.Name); err != nil {
			return invalidField(ErrInvalidPod, fmt.Sprintf("Networks[%d].Name", i), att.Name, err)
		}
		if att.Ifname == "" {
			continue
		}
		err := checkInterfaceName(att.Ifname)
		if _, twice := taken[att.Ifname]; twice {
			err = errIfNameTwice
		}
		if err != nil {
			return invalidField(ErrInvalidPod, fmt.Sprintf("Networks[%d].Ifname", i), att.Ifname, err)
		}
		if taken != nil {
			taken[att.Ifname] = struct{}{}
		}
	}
	return nil
}

func checkNetNSPath(path string, needed bool) error {
	switch {
	// On Windows what CNI_NETNS holds depends on the plugins, and some want
	// nothing.
	case path == "" && needed && runtime.GOOS != "windows":
		return errEmpty
	case len(path) > longestPath:
		return errPathTooLong
	case strings.IndexByte(path, 0) >= 0:
		return errHasNUL
	}
	return nil
}

func checkArg(value string) error {
	if len(value) > longestArg {
		return errArgTooLong
	}
	return checkArgChars(value)
}

func checkArgChars(s string) error {
	if strings.ContainsAny(s, ";=\x00") {
		return errArgChars
	}
	return nil
}

// planned is one attachment that is about to be made.
type planned struct {
	net *network
	rec *record
}

// planPod says what attaching the pod means: its networks in order, the default
// one if it names none, each with the record of the attachment to be. All that
// the caller gave is checked before it returns, and nothing of it is changed or
// kept. environArgs are further CNI_ARGS, those of the environment for callers
// of InitCNI.
//
// Attachments without an interface's name get the prefix and the lowest number
// that is free, in order, around all names that the caller gave, whatever their
// place: as ocicni does it.
//
// Entries of RuntimeConfig and Aliases for networks that the pod is not attached
// to are ignored, because callers keep one map for many pods. One of
// InterfaceConfig is meant for this pod alone, so that a name without an
// attachment is an error.
func planPod(o *options, snap *snapshot, pod *PodNetwork, environArgs string) ([]planned, error) {
	if err := checkPod(pod, false); err != nil {
		return nil, err
	}
	wanted := pod.Networks
	if len(wanted) == 0 {
		if snap.def == nil {
			return nil, noDefault(snap)
		}
		wanted = []NetAttachment{{Name: snap.def.name}}
	}
	ifNames, err := interfaceNames(o.ifPrefix, wanted)
	if err != nil {
		return nil, err
	}
	if err := checkInterfaceConfig(pod, ifNames); err != nil {
		return nil, err
	}

	plan := make([]planned, len(wanted))
	for i := range wanted {
		net := snap.def
		if len(pod.Networks) > 0 {
			if net = snap.byName[wanted[i].Name]; net == nil {
				return nil, networkNotFound(snap, wanted[i].Name)
			}
		}
		rec := &record{
			ContainerID: pod.ID,
			IfName:      ifNames[i],
			Network:     net.name,
			NetNS:       pod.NetNS,
			Config:      net.config,
			State:       stateAttaching,
			Owner:       o.owner,
			Order:       i,
			Pod:         podName{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}
		field, key := "InterfaceConfig", rec.IfName
		rc, ok := pod.InterfaceConfig[key]
		if !ok {
			field, key = "RuntimeConfig", net.name
			rc = pod.RuntimeConfig[key]
		}
		addresses, err := rc.addresses()
		if err == nil {
			rec.CniArgs, err = rc.cniArgs(pod, addresses, environArgs)
		}
		if err == nil {
			rec.CapabilityArgs, err = rc.capabilities(addresses, pod.Aliases[net.name])
		}
		if err != nil {
			return nil, within(keyed(field, key), err)
		}
		plan[i] = planned{net: net, rec: rec}
	}
	return plan, nil
}

func noDefault(snap *snapshot) error {
	if snap.reason == nil {
		return fmt.Errorf("%w: %w", ErrNetworkNotFound, errNoDefault)
	}
	return fmt.Errorf("%w: %w: %w", ErrNetworkNotFound, errNoDefault, snap.reason)
}

func networkNotFound(snap *snapshot, name string) error {
	for i := range snap.rejected {
		if snap.rejected[i].Network == name {
			return fmt.Errorf("%w: %q: %w", ErrNetworkNotFound, name, &snap.rejected[i])
		}
	}
	return fmt.Errorf("%w: %q", ErrNetworkNotFound, name)
}

// interfaceNames gives each attachment its interface's name.
func interfaceNames(prefix string, wanted []NetAttachment) ([]string, error) {
	names := make([]string, len(wanted))
	var taken map[string]struct{}
	if len(wanted) > 1 {
		taken = make(map[string]struct{}, len(wanted))
		for i := range wanted {
			taken[wanted[i].Ifname] = struct{}{}
		}
	}
	number := 0
	for i := range wanted {
		if names[i] = wanted[i].Ifname; names[i] != "" {
			continue
		}
		for used := true; used; number++ {
			names[i] = prefix + strconv.Itoa(number)
			_, used = taken[names[i]]
		}
		if err := checkInterfaceName(names[i]); err != nil {
			return nil, invalidField(ErrInvalidPod, fmt.Sprintf("Networks[%d].Ifname", i), names[i], err)
		}
	}
	return names, nil
}

func checkInterfaceConfig(pod *PodNetwork, ifNames []string) error {
	unknown, found := "", false
	for name := range pod.InterfaceConfig {
		if !slices.Contains(ifNames, name) && (!found || name < unknown) {
			unknown, found = name, true
		}
	}
	if !found {
		return nil
	}
	return invalidField(ErrInvalidPod, "InterfaceConfig", unknown, errNotAttachment)
}

// keyed names an entry of a map in a field's path.
func keyed(field, key string) string {
	if len(key) > longestValue {
		key = key[:longestValue] + "..."
	}
	return field + "[" + strconv.Quote(key) + "]"
}

// within puts the path of what holds the field before the field in err.
func within(path string, err error) error {
	if bad := (*FieldError)(nil); errors.As(err, &bad) {
		bad.Field = path + "." + bad.Field
	}
	return err
}
