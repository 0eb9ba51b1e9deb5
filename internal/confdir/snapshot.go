package confdir

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// Snapshot is everything that was read from disk at one moment. It is never
// changed, and must not be.
type Snapshot struct {
	// Networks are in order of precedence: Lists, Template, files by name.
	Networks []*Network
	// Default is the network of pods that name none. Where it is nil, Reason
	// says why.
	Default *Network
	// DefaultName is its name, also while it is not ready; empty if no network is
	// the default.
	DefaultName string
	Reason      error
	// Rejected is what is not in force as its file says, in the order of Networks.
	Rejected []Rejection

	pending int      // networks that wait for a plugin's answer
	folders []string // of networks, whether they are there or not
}

// Network is a network that pods can be attached to. It is never changed, and
// must not be.
type Network struct {
	// List is complete: the plugins of the network's folder are inlined,
	// CNIVersion is the version to use, and Bytes is the JSON of exactly that.
	List *libcni.NetworkConfigList
	// Path is the file, or WithConfList[i], or WithConfTemplate.
	Path string
	// Inlined is how many of the plugins are in the file itself. The others are of
	// the network's folder.
	Inlined int
	// Capabilities are those that any of the plugins declares, sorted.
	Capabilities []string
}

// Rejection is a file or a network that is not in force as the file says.
type Rejection struct {
	Path    string
	Network string // empty if it is not known
	Err     error
}

// Network returns the network of that name, or nil.
func (s *Snapshot) Network(name string) *Network {
	for _, n := range s.Networks {
		if n.List.Name == name {
			return n
		}
	}
	return nil
}

// same reports whether nothing differs that matters to anyone.
func (s *Snapshot) same(t *Snapshot) bool {
	return slices.EqualFunc(s.Networks, t.Networks, (*Network).same) && s.DefaultName == t.DefaultName &&
		s.Default.same(t.Default) && sameText(s.Reason, t.Reason) && slices.EqualFunc(s.Rejected, t.Rejected, Rejection.same)
}

func (n *Network) same(m *Network) bool {
	if n == m || n == nil || m == nil {
		return n == m
	}
	return n.Path == m.Path && bytes.Equal(n.List.Bytes, m.List.Bytes)
}

func (r Rejection) same(q Rejection) bool {
	return r.Path == q.Path && r.Network == q.Network && sameText(r.Err, q.Err)
}

// sameText reports whether two errors tell a person the same.
func sameText(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Error() == b.Error()
}

func (r Rejection) asError() error {
	if r.Network == "" {
		return fmt.Errorf("%s: %w", r.Path, r.Err)
	}
	return fmt.Errorf("%s: network %q: %w", r.Path, r.Network, r.Err)
}

// noFiles begins a message as ocicni's users know it.
const noFiles = "No CNI configuration file in"

func notReady(r Rejection) error {
	return fmt.Errorf("the default network is not ready: %w", r.asError())
}

// explain sets Reason where there is no default network, and none is set yet.
// missing says why the directory cannot be found, if so.
func (s *Snapshot) explain(dir string, missing error) {
	if s.Default != nil || s.Reason != nil {
		return
	}
	for _, r := range s.Rejected {
		if r.Network == s.DefaultName && r.Network != "" {
			s.Reason = notReady(r)
			return
		}
	}
	switch {
	case len(s.Networks) > 0:
		names := make([]string, len(s.Networks))
		for i, n := range s.Networks {
			names[i] = n.List.Name
		}
		s.Reason = fmt.Errorf("%w: %q, the default, is not among %s", ErrNotFound, s.DefaultName, strings.Join(names, ", "))
		if len(s.Rejected) > 0 {
			s.Reason = fmt.Errorf("%w; rejected: %w", s.Reason, reasons(s.Rejected))
		}
		return
	case len(s.Rejected) > 0 && s.pending == len(s.Rejected):
		s.Reason = fmt.Errorf("no network is ready yet: %w", reasons(s.Rejected))
	case len(s.Rejected) > 0:
		s.Reason = fmt.Errorf("no network could be loaded: %w", reasons(s.Rejected))
	case missing != nil:
		s.Reason = fmt.Errorf("%s %s: %w", noFiles, dir, missing)
	default:
		s.Reason = fmt.Errorf("%s %s: there is no *.conflist, *.conf or *.json in it", noFiles, dir)
	}
	if s.DefaultName != "" { // last, for the text begins with what to do
		s.Reason = fmt.Errorf("%w (%w: %q, the default)", s.Reason, ErrNotFound, s.DefaultName)
	}
}

// reasonsTold is how many rejected files one error tells of.
const reasonsTold = 3

// reasons makes one error of the first few on one line.
func reasons(rejected []Rejection) error {
	var errs []any
	for _, r := range rejected[:min(len(rejected), reasonsTold)] {
		errs = append(errs, r.asError())
	}
	format := strings.Repeat("; %w", len(errs))[len("; "):]
	if more := len(rejected) - len(errs); more > 0 {
		format += fmt.Sprintf("; and %d more", more)
	}
	return fmt.Errorf(format, errs...)
}
