// Package journal keeps one file for each sandbox, which says what is attached or
// about to be, and reads the results that libcni keeps beside it.
//
//	<cache>/podcni/<sandbox>                         a sandbox's journal
//	<cache>/podcni/~<sandbox>                        one that is being written
//	<cache>/podcni/.unreadable/<sandbox>             one that was set aside
//	<cache>/results/<network>-<sandbox>-<interface>  libcni's results
//
// A journal is a list of JSON objects, one a line. The first says whose the
// sandbox is and what is about to be attached; each later one is a change. A
// line is only ever appended, in one write: on ext4 that costs a twentieth of
// replacing a file. The journal goes when nothing is attached any more. Names
// that begin with '~' or '.' cannot be a sandbox's.
//
// The caller holds the sandbox's lock for whatever changes its journal.
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/podcni/podcni/internal/netns"
	"github.com/podcni/podcni/internal/proc"
)

// ErrUnreadable says that a file is there which cannot be read as a journal or
// as a result.
var ErrUnreadable = errors.New("unreadable record")

// Error is about one file.
type Error struct {
	Path string
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("record %s: %v", e.Path, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Journal is what is known of a sandbox.
type Journal struct {
	ContainerID string
	Owner       string
	// Writer is the process that worked on the sandbox last.
	Writer      proc.ID
	Pod         Pod
	Attachments []Attachment // in the order of attachment
	// Torn says that a line could not be read, as after a power failure: there
	// may have been more attachments.
	Torn bool
	// Others says that another runtime may have attached more of the sandbox.
	Others bool
}

// Pod is whose sandbox it is.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Key is which attachment of a sandbox it is.
type Key struct {
	Network string `json:"network"`
	IfName  string `json:"ifName"`
}

// Attachment is all that DEL and CHECK need of an ADD.
type Attachment struct {
	Key
	NetNS   string   `json:"netns,omitempty"`
	NetNSID netns.ID `json:"netnsID,omitzero"`
	// Config is the network's configuration, complete: with every plugin and the
	// version that was chosen.
	Config         json.RawMessage            `json:"config"`
	Args           [][2]string                `json:"args,omitempty"`
	CapabilityArgs map[string]json.RawMessage `json:"capabilityArgs,omitempty"`
	// Since is when the set-up began; attachments of one set-up have the same.
	Since time.Time `json:"since"`
	// Detaching says that a DEL was begun, or is due because the set-up failed.
	Detaching bool `json:"detaching,omitempty"`
}

// line is one line of a journal.
type line struct {
	// Of the first line.
	Version     int    `json:"version,omitempty"`
	ContainerID string `json:"containerID,omitempty"`
	Owner       string `json:"owner,omitempty"`
	Pod         Pod    `json:"pod,omitzero"`
	Others      bool   `json:"others,omitempty"`

	Writer    proc.ID      `json:"writer,omitzero"`
	Attach    []Attachment `json:"attach,omitempty"`
	Detaching []Key        `json:"detaching,omitempty"`
	Detached  []Key        `json:"detached,omitempty"`
}

const version = 1

// apply changes the journal as a line says.
func (j *Journal) apply(l *line) {
	if l.Writer != (proc.ID{}) {
		j.Writer = l.Writer
	}
	j.Attachments = append(j.Attachments, l.Attach...)
	for i := range j.Attachments {
		if slices.Contains(l.Detaching, j.Attachments[i].Key) {
			j.Attachments[i].Detaching = true
		}
	}
	j.Attachments = slices.DeleteFunc(j.Attachments, func(a Attachment) bool {
		return slices.Contains(l.Detached, a.Key)
	})
}

// first is the line that holds the whole journal.
func (j *Journal) first() *line {
	return &line{
		Version: version, ContainerID: j.ContainerID, Owner: j.Owner, Pod: j.Pod,
		Writer: j.Writer, Attach: j.Attachments, Others: j.Others,
	}
}

var (
	errEmpty   = errors.New("it is empty")
	errVersion = fmt.Errorf("its version is not %d", version)
	errWhose   = errors.New("it is another sandbox's")
)

// decode reads a journal of the sandbox. What is wrong with the first line makes
// it unreadable; what is wrong with a later one makes it torn.
func decode(containerID string, data []byte) (*Journal, error) {
	head, rest, _ := bytes.Cut(data, []byte("\n"))
	if len(bytes.TrimSpace(head)) == 0 {
		return nil, errEmpty
	}
	var l line
	if err := json.Unmarshal(head, &l); err != nil {
		return nil, err
	}
	switch {
	case l.Version != version:
		return nil, errVersion
	case l.ContainerID != containerID:
		return nil, errWhose
	}
	j := &Journal{ContainerID: l.ContainerID, Owner: l.Owner, Pod: l.Pod, Others: l.Others}
	if err := l.check(containerID); err != nil {
		return nil, err
	}
	j.apply(&l)
	for text := range bytes.SplitSeq(rest, []byte("\n")) {
		if len(text) == 0 {
			continue
		}
		var l line
		if json.Unmarshal(text, &l) != nil || l.check(containerID) != nil {
			j.Torn = true
			continue
		}
		j.apply(&l)
	}
	return j, nil
}

// check refuses names that would lead out of libcni's directory.
func (l *line) check(containerID string) error {
	for i := range l.Attach {
		a := &l.Attach[i]
		if err := CheckNames(a.Network, containerID, a.IfName); err != nil {
			return err
		}
		if len(a.Config) == 0 || a.Config[0] != '{' {
			return errConfig
		}
	}
	return nil
}
