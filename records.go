package podcni

import (
	"encoding/json"
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
	Writer  writerID // the process that wrote it
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
