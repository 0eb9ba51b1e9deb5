package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podcni/podcni/internal/spec"
)

const (
	// maxEntries bounds the interfaces, addresses and routes of a result, each.
	maxEntries = 4096
	// maxVersions and longestVersion bound what a plugin says that it speaks.
	maxVersions    = 64
	longestVersion = 32
)

// CheckResult returns what a plugin of a network of cniVersion printed on ADD, in
// that version and so that libcni's decoder does not panic over it: that decoder
// takes the nulls, and says what else is wrong. A result without a version gets the
// network's; one in another version is converted; any other comes back byte for
// byte, sharing the memory of stdout.
//
// The error wraps ErrNoOutput, ErrBadOutput or ErrUnsupportedVersion, or the
// *types.Error that the plugin printed although it succeeded.
func CheckResult(stdout []byte, cniVersion string) ([]byte, error) {
	raw := bytes.TrimSpace(stdout)
	if len(raw) == 0 {
		return nil, ErrNoOutput
	}
	var s shape
	if err := json.Unmarshal(raw, &s); raw[0] != '{' || err != nil {
		return nil, quote("no JSON object, or more than that, or of another form", raw)
	}
	if len(s.Code) > 0 && string(s.Code) != "null" {
		switch e := decodeError(raw); {
		case e == nil:
			return nil, quote("the code is no number", raw)
		case e.Code != 0:
			return nil, withCode(e)
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	want := cniVersion
	if want == "" {
		want = spec.Unversioned
	}
	if text(s.CNIVersion) == want && onlyOneVersion(raw) {
		return raw, nil
	}
	return convert(raw, want)
}

// shape is what of a result libcni's types cannot be without. As encoding/json does
// there, it takes keys in any letter case.
type shape struct {
	CNIVersion loose           `json:"cniVersion"`
	Code       json.RawMessage `json:"code"`
	Interfaces []*struct{}     `json:"interfaces"`
	IPs        []*struct {
		Address loose `json:"address"`
	} `json:"ips"`
	Routes []*shapeRoute   `json:"routes"`
	IP4    json.RawMessage `json:"ip4"` // before version 0.3.0
	IP6    json.RawMessage `json:"ip6"`
}

type shapeRoute struct {
	Dst loose `json:"dst"`
}

type shapeIP struct {
	IP     loose         `json:"ip"`
	Routes []*shapeRoute `json:"routes"`
}

// loose is any value, where libcni expects a string.
type loose = json.RawMessage

// text is the value if it is a string, and empty otherwise.
func text(value loose) string {
	if len(value) <= len(`""`) || value[0] != '"' {
		return ""
	}
	if plain := value[1 : len(value)-1]; bytes.IndexByte(plain, '\\') < 0 {
		return string(plain)
	}
	var s string
	_ = json.Unmarshal(value, &s) // which has been read as JSON before
	return s
}

// check refuses what libcni's types panic on, or write as what nobody can read.
func (s *shape) check() error {
	if max(len(s.Interfaces), len(s.IPs), len(s.Routes)) > maxEntries {
		return errTooMany
	}
	if slices.Contains(s.Interfaces, nil) {
		return errNull
	}
	for _, ip := range s.IPs {
		if ip == nil {
			return errNull
		}
		if text(ip.Address) == "" {
			return errNoAddress
		}
	}
	for _, raw := range []json.RawMessage{s.IP4, s.IP6} {
		var ip *shapeIP
		if json.Unmarshal(raw, &ip) != nil || ip == nil {
			continue // libcni's decoder says so, if it is of this version
		}
		if text(ip.IP) == "" {
			return errNoAddress
		}
		if err := checkRoutes(ip.Routes); err != nil {
			return err
		}
	}
	return checkRoutes(s.Routes)
}

func checkRoutes(routes []*shapeRoute) error {
	if len(routes) > maxEntries {
		return errTooMany
	}
	for _, r := range routes {
		if r == nil {
			return errNull
		}
		if text(r.Dst) == "" {
			return errNoAddress
		}
	}
	return nil
}

// onlyOneVersion reports whether the version is written as it should be, and once.
func onlyOneVersion(raw []byte) bool {
	const key = "cniVersion"
	return bytes.Contains(raw, []byte(`"`+key+`"`)) && bytes.Count(bytes.ToLower(raw), []byte(strings.ToLower(key))) == 1
}

// convert gives a result the network's version.
func convert(raw []byte, want string) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	has := text(object["cniVersion"])
	for _, v := range []string{has, want} {
		if v != "" && !slices.Contains(version.All.SupportedVersions(), v) {
			return nil, fmt.Errorf("%w: %.64q", ErrUnsupportedVersion, v)
		}
	}
	switch has {
	case "":
		return withVersion(object, want)
	case want:
		return raw, nil
	}
	result, err := create.Create(has, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadOutput, err)
	}
	if old, ok := result.(*types040.Result); ok {
		for _, ip := range old.IPs {
			if ip.Version == "" { // the conversion would lose the address
				ip.Version = "6"
				if ip.Address.IP.To4() != nil {
					ip.Version = "4"
				}
			}
		}
	}
	if result, err = result.GetAsVersion(want); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupportedVersion, err)
	}
	if raw, err = json.Marshal(result); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadOutput, err)
	}
	return raw, nil
}

// withVersion gives a result that lacks its version the network's, and leaves
// the rest as it is.
func withVersion(object map[string]json.RawMessage, cniVersion string) ([]byte, error) {
	for key := range object {
		if strings.EqualFold(key, "cniVersion") { // libcni's decoder takes each of these
			delete(object, key)
		}
	}
	quoted, err := json.Marshal(cniVersion)
	if err != nil {
		return nil, err
	}
	object["cniVersion"] = quoted
	return json.Marshal(object)
}

var (
	errNull      = fmt.Errorf("%w: null in a list", ErrBadOutput)
	errNoAddress = fmt.Errorf("%w: an address or a destination is missing", ErrBadOutput)
	errTooMany   = fmt.Errorf("%w: more than %d interfaces, addresses or routes", ErrBadOutput, maxEntries)
)

// Versions asks a plugin which versions of the specification it speaks. path may
// be empty, as in Call. The errors are those of Run and of DecodeVersions. A
// plugin that does not know the verb speaks 0.1.0.
func (r *Runner) Versions(ctx context.Context, typ, path string) ([]string, error) {
	out, err := r.Run(ctx, Call{
		Verb: spec.Version, Plugin: typ, Path: path,
		Stdin: fmt.Appendf(nil, `{"cniVersion":%q}`, version.Current()),
	})
	switch {
	case err == nil:
		return DecodeVersions(out.Stdout)
	case predatesVersion(err):
		return []string{spec.Unversioned}, nil
	}
	return nil, err
}

// predatesVersion reports whether a plugin says that it knows no VERSION, which
// makes it one of 0.1.0 (specification, "VERSION"). There is no code of its own
// for that, and the generic ones also stand for passing troubles: the message
// decides, as in libcni.
func predatesVersion(err error) bool {
	var answer *types.Error
	if !errors.As(err, &answer) {
		return false
	}
	if answer.Code != types.ErrInvalidEnvironmentVariables && answer.Code < 100 {
		return false
	}
	return strings.Contains(answer.Msg, "CNI_COMMAND") || strings.Contains(answer.Msg, "env variables missing")
}

// DecodeVersions returns the versions in the answer to VERSION, 64 at most. The
// error wraps ErrNoOutput or ErrBadOutput.
func DecodeVersions(stdout []byte) ([]string, error) {
	raw := bytes.TrimSpace(stdout)
	if len(raw) == 0 {
		return nil, ErrNoOutput
	}
	var answer struct {
		CNIVersion        string    `json:"cniVersion"`
		SupportedVersions []*string `json:"supportedVersions"`
	}
	if json.Unmarshal(raw, &answer) != nil {
		return nil, quote("no answer to VERSION", raw)
	}
	var versions []string
	for _, v := range answer.SupportedVersions[:min(len(answer.SupportedVersions), maxVersions)] {
		if v != nil && *v != "" && len(*v) <= longestVersion && !slices.Contains(versions, *v) {
			versions = append(versions, *v)
		}
	}
	switch {
	case len(versions) > 0:
		return versions, nil
	case answer.CNIVersion == "0.2.0": // which knew no supportedVersions
		return []string{spec.Unversioned, "0.2.0"}, nil
	}
	return nil, quote("no supportedVersions", raw)
}
