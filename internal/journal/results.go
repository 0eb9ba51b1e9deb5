package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podcni/podcni/internal/spec"
)

// Result is what libcni keeps of an ADD that came to its end, whoever called
// libcni.
type Result struct {
	Path                         string
	Network, ContainerID, IfName string
	NetNS                        string
	// Config is the configuration as the runtime had it: of other runtimes
	// without the plugins of the network's folder.
	Config         []byte
	Args           [][2]string
	CapabilityArgs map[string]json.RawMessage
	Raw            json.RawMessage // what the last plugin printed; nil for nothing
}

// resultFile is libcni's form on disk.
type resultFile struct {
	Kind           string                     `json:"kind"`
	ContainerID    string                     `json:"containerId"`
	Config         []byte                     `json:"config"`
	IfName         string                     `json:"ifName"`
	Network        string                     `json:"networkName"`
	NetNS          string                     `json:"netns"`
	Args           [][2]string                `json:"cniArgs"`
	CapabilityArgs map[string]json.RawMessage `json:"capabilityArgs"`
	Result         map[string]any             `json:"result"` // as libcni reads it: keys that differ in case, or come twice, too
}

const resultKind = "cniCacheV1" // libcni's

var (
	errKind   = fmt.Errorf("its kind is not %q", resultKind)
	errConfig = errors.New("it has no configuration")
	errName   = errors.New("its content does not belong to its name")
)

// CheckNames returns what is wrong with the names of an attachment, which must
// make the name of a file.
func CheckNames(network, containerID, ifName string) error {
	_, err := resultName(network, containerID, ifName)
	return err
}

// resultName is libcni's name for the file of a result.
func resultName(network, containerID, ifName string) (string, error) {
	if err := errors.Join(
		spec.CheckNetworkName(network), spec.CheckContainerID(containerID), spec.CheckIfName(ifName),
	); err != nil {
		return "", err
	}
	name := network + "-" + containerID + "-" + ifName
	if len(name) > spec.MaxName {
		return "", fmt.Errorf("network, sandbox and interface make the name of a file, which would be %d bytes long: at most %d", len(name), spec.MaxName)
	}
	return name, nil
}

// Result reads the result of an attachment; nil when there is none. The error is
// an *Error, which wraps ErrUnreadable when the file cannot be read as a result,
// and ErrNameTaken when it is the result of another attachment.
func (s *Store) Result(network, containerID, ifName string) (*Result, error) {
	name, err := resultName(network, containerID, ifName)
	if err != nil {
		return nil, err
	}
	r, err := s.ReadResult(name)
	if r == nil || err != nil {
		return nil, err
	}
	if r.Network != network || r.ContainerID != containerID || r.IfName != ifName {
		return nil, &Error{Path: r.Path, Err: ErrNameTaken}
	}
	return r, nil
}

// ErrNameTaken says that libcni's file of an attachment would be that of another
// one: the names of network, sandbox and interface, joined by '-', are the same.
var ErrNameTaken = errors.New("another attachment has a record of the same name")

func decodeResult(name string, data []byte) (*Result, error) {
	var f resultFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Kind != resultKind {
		return nil, errKind
	}
	if is, err := resultName(f.Network, f.ContainerID, f.IfName); err != nil {
		return nil, err
	} else if is != name {
		return nil, errName
	}
	if len(f.Config) == 0 {
		return nil, errConfig
	}
	r := &Result{
		Network: f.Network, ContainerID: f.ContainerID, IfName: f.IfName, NetNS: f.NetNS,
		Config: f.Config, Args: f.Args, CapabilityArgs: f.CapabilityArgs,
	}
	var err error
	if f.Result != nil {
		r.Raw, err = json.Marshal(f.Result)
	}
	return r, err
}

// RemoveResult removes the result of an attachment. That there is none is fine.
func (s *Store) RemoveResult(path string) error { return remove(path) }

// ResultNames lists the names of libcni's files, sorted.
func (s *Store) ResultNames() ([]string, error) {
	names, err := readNames(s.results)
	slices.Sort(names)
	return names, err
}

// ReadResult reads a file of that name; nil when there is none. The error is an
// *Error, which wraps ErrUnreadable when it is no result.
func (s *Store) ReadResult(name string) (*Result, error) {
	path := filepath.Join(s.results, name)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Path: path, Err: err}
	}
	r, err := decodeResult(name, data)
	if err != nil {
		return nil, &Error{Path: path, Err: fmt.Errorf("%w: %w", ErrUnreadable, err)}
	}
	r.Path = path
	return r, nil
}

// Results reads the results of a sandbox, sorted by file name, from the files
// whose names contain its ID. bad are those that cannot be read: the names may be
// another sandbox's. The error is the directory's, or ctx's.
func (s *Store) Results(ctx context.Context, containerID string) (results []*Result, bad []*Error, err error) {
	names, err := s.ResultNames()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if !strings.Contains(name, "-"+containerID+"-") {
			continue
		}
		if ctx.Err() != nil {
			return results, bad, context.Cause(ctx)
		}
		r, err := s.ReadResult(name)
		if unreadable := (*Error)(nil); errors.As(err, &unreadable) {
			bad = append(bad, unreadable)
		} else if r != nil && r.ContainerID == containerID {
			results = append(results, r)
		}
	}
	return results, bad, nil
}

// IfNameOf reads the interface from the path of a result of the network and the
// sandbox.
func IfNameOf(path, network, containerID string) (ifName string, ok bool) {
	ifName, ok = strings.CutPrefix(filepath.Base(path), network+"-"+containerID+"-")
	return ifName, ok && spec.CheckIfName(ifName) == nil
}
