package podcni

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// recordState says how far an attachment has come.
type recordState string

const (
	stateAttaching recordState = "attaching" // ADD may have run, in part or whole
	stateAttached  recordState = "attached"  // ADD succeeded; Result is what it gave
)

// record is one attachment: what was asked for and what came of it. It is all
// that DEL, CHECK and GC go by. A record that is in the store is never changed;
// put a changed copy.
type record struct {
	// libcni's own keys.
	ContainerID    string
	IfName         string
	Network        string
	NetNS          string
	Config         []byte // network.config
	CniArgs        [][2]string
	CapabilityArgs map[string]json.RawMessage
	Result         json.RawMessage // nil until attached, or when the chain gave none

	// Ours, under one key beside libcni's. All zero in a record of libcni's or
	// ocicni's, but State, which is stateAttached there.
	State   recordState
	NetNSID NetNSID
	Owner   string
	Writer  writerID // the process that wrote it; the store fills it in
	Since   time.Time
	Order   int // among the attachments of the pod, from 0
	Pod     podName
}

// podName is who the sandbox belongs to, for messages.
type podName struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// writerID tells one process from any other, across reboots.
type writerID struct {
	PID    int    `json:"pid,omitempty"`
	Start  uint64 `json:"start,omitempty"` // since boot, in clock ticks
	BootID string `json:"bootID,omitempty"`
}

// same says whether both are records of one attachment.
func (r *record) same(o *record) bool {
	return r.ContainerID == o.ContainerID && r.IfName == o.IfName && r.Network == o.Network
}

// fileName is libcni's name for the record's file.
func (r *record) fileName() string { return r.Network + "-" + r.ContainerID + "-" + r.IfName }

// checkNames says what is wrong with the names that make up the file's name.
func (r *record) checkNames() error {
	for _, n := range []struct {
		field, value string
		err          error
	}{
		{"Networks[].Name", r.Network, checkNetworkName(r.Network)},
		{"ID", r.ContainerID, checkContainerID(r.ContainerID)},
		{"Networks[].Ifname", r.IfName, checkInterfaceName(r.IfName)},
	} {
		if n.err != nil {
			return invalidField(ErrInvalidPod, n.field, n.value, n.err)
		}
	}
	name := r.fileName()
	if len(name) > longestName {
		return nameTooLong(name)
	}
	return nil
}

func nameTooLong(name string) error {
	return invalidField(ErrInvalidPod, "ID", name, fmt.Errorf(
		"network, sandbox and interface make the name of the record's file, which would be %d bytes long: at most %d",
		len(name), longestName))
}

// inOrder sorts the records of one or several sandboxes: by sandbox, then in
// the order of attachment.
func inOrder(recs []*record) {
	slices.SortFunc(recs, func(a, b *record) int {
		return cmp.Or(
			strings.Compare(a.ContainerID, b.ContainerID),
			cmp.Compare(a.Order, b.Order),
			a.Since.Compare(b.Since),
			strings.Compare(a.IfName, b.IfName),
			strings.Compare(a.Network, b.Network),
		)
	})
}

// The form of a record on disk is libcni's, with a key of ours beside its own
// that libcni skips.
const recordKind = "cniCacheV1"

type recordFile struct {
	Kind           string                     `json:"kind"`
	ContainerID    string                     `json:"containerId"`
	Config         []byte                     `json:"config"`
	IfName         string                     `json:"ifName"`
	Network        string                     `json:"networkName"`
	NetNS          string                     `json:"netns,omitempty"`
	CniArgs        [][2]string                `json:"cniArgs,omitempty"`
	CapabilityArgs map[string]json.RawMessage `json:"capabilityArgs,omitempty"`
	Result         json.RawMessage            `json:"result,omitempty"`
	Podcni         *recordExtras              `json:"podcni,omitempty"`
}

type recordExtras struct {
	State   recordState `json:"state"`
	NetNSID NetNSID     `json:"netnsID,omitzero"`
	Owner   string      `json:"owner,omitempty"`
	Writer  writerID    `json:"writer,omitzero"`
	Since   time.Time   `json:"since,omitzero"`
	Order   int         `json:"order,omitempty"`
	Pod     podName     `json:"pod,omitzero"`
}

// encode gives the file's content for a record that writer writes.
func (r *record) encode(writer writerID) ([]byte, error) {
	f := recordFile{
		Kind: recordKind, ContainerID: r.ContainerID, Config: r.Config, IfName: r.IfName, Network: r.Network,
		NetNS: r.NetNS, CniArgs: r.CniArgs, CapabilityArgs: r.CapabilityArgs,
		Podcni: &recordExtras{
			State: r.State, NetNSID: r.NetNSID, Owner: r.Owner, Writer: writer,
			Since: r.Since, Order: r.Order, Pod: r.Pod,
		},
	}
	if err := r.checkText(); err != nil {
		return nil, err
	}
	if result := bytes.TrimSpace(r.Result); !isNull(result) {
		if result[0] != '{' {
			return nil, fmt.Errorf("result of network %q: %w", r.Network, errNoObject)
		}
		f.Result = result
	}
	data, err := json.Marshal(&f)
	if err == nil && len(data) > largestRecord {
		err = errRecordSize
	}
	return data, err
}

var (
	errNoObject    = errors.New("not a JSON object")
	errRecordSize  = fmt.Errorf("larger than %d bytes", largestRecord)
	errRecordKind  = fmt.Errorf("its kind is not %q", recordKind)
	errRecordName  = errors.New("its content does not belong to its name")
	errRecordEmpty = errors.New("it has no configuration")
	errNoRegular   = errors.New("not a regular file")
	errNoUTF8      = errors.New("it must be valid UTF-8")
)

// checkText refuses what JSON would change: DEL must see the bytes of ADD.
func (r *record) checkText() error {
	if bad := invalidUTF8(r.NetNS); bad {
		return invalidField(ErrInvalidPod, "NetNS", r.NetNS, errNoUTF8)
	}
	for _, kv := range r.CniArgs {
		if invalidUTF8(kv[0]) || invalidUTF8(kv[1]) {
			return invalidField(ErrInvalidPod, "Args", kv[0]+"="+kv[1], errNoUTF8)
		}
	}
	return nil
}

func invalidUTF8(s string) bool { return strings.ToValidUTF8(s, "") != s }

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// decodeRecord reads a file's content: ours, libcni's or ocicni's. name is the
// file's name. The error says why it is none.
func decodeRecord(name string, data []byte) (*record, error) {
	var f recordFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Kind != recordKind {
		return nil, errRecordKind
	}
	r := &record{
		ContainerID: f.ContainerID, IfName: f.IfName, Network: f.Network, NetNS: f.NetNS,
		Config: f.Config, CniArgs: f.CniArgs, CapabilityArgs: f.CapabilityArgs,
		State: stateAttached,
	}
	if err := r.checkNames(); err != nil {
		return nil, err
	}
	if r.fileName() != name {
		return nil, errRecordName
	}
	if len(r.Config) == 0 {
		return nil, errRecordEmpty
	}
	if !isNull(f.Result) {
		if f.Result[0] != '{' {
			return nil, fmt.Errorf("result: %w", errNoObject)
		}
		r.Result = f.Result
	}
	if x := f.Podcni; x != nil {
		// A state that a later version of ours may have is one in which a
		// plugin may have run: what DEL takes care of.
		if r.State = x.State; x.State != stateAttached {
			r.State = stateAttaching
		}
		r.NetNSID, r.Owner, r.Writer = x.NetNSID, x.Owner, x.Writer
		r.Since, r.Order, r.Pod = x.Since, x.Order, x.Pod
	}
	return r, nil
}
