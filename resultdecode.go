package podcni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode/utf8"

	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// decodeResult reads what a plugin of a network of cniVersion answered to ADD:
// the result, converted to that version if the plugin answered in another, and
// the same as JSON for the next plugin and the record. That is the plugin's own
// text where it has the right version, so that nothing in it is lost.
//
// The error wraps ErrNoOutput, ErrBadOutput or ErrVersion, or is of the
// *types.Error that the plugin printed although it succeeded. The JSON shares
// the memory of stdout.
func decodeResult(stdout []byte, cniVersion string) (types.Result, json.RawMessage, error) {
	raw := findObject(stdout)
	if len(raw) == 0 {
		return nil, nil, ErrNoOutput
	}
	var a answer
	if err := a.decode(raw); err != nil {
		return nil, nil, err
	}
	if err := a.pluginError(); err != nil {
		return nil, nil, err
	}
	want := versionOrFirst(cniVersion)
	version := string(a.CNIVersion)
	if version == "" {
		version = want
	}
	result, err := a.result(version)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case version != want:
		if result, err = convertResult(result, want); err != nil {
			return nil, nil, err
		}
		if raw, err = json.Marshal(result); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrBadOutput, err)
		}
	case a.CNIVersion == "":
		if raw, err = withVersion(raw, want); err != nil {
			return nil, nil, err
		}
	}
	return result, raw, nil
}

// readResult reads a result that a record holds: ours, libcni's or ocicni's,
// in any version, and converts it to cniVersion. No result, nothing or null, is
// nil and no error. The error wraps ErrBadOutput or ErrVersion.
func readResult(raw json.RawMessage, cniVersion string) (types.Result, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var a answer
	if err := a.decode(raw); err != nil {
		return nil, err
	}
	want := versionOrFirst(cniVersion)
	version := string(a.CNIVersion)
	if version == "" {
		version = want
	}
	result, err := a.result(version)
	if err != nil || version == want {
		return result, err
	}
	return convertResult(result, want)
}

// versionOrFirst is what a configuration without a version means.
func versionOrFirst(cniVersion string) string {
	if cniVersion == "" {
		return "0.1.0"
	}
	return cniVersion
}

// findObject leaves out what a plugin logged before its answer: the answer
// begins with the first line that begins as an object does.
func findObject(stdout []byte) []byte {
	out := bytes.TrimSpace(stdout)
	if len(out) == 0 || out[0] == '{' {
		return out
	}
	if i := bytes.Index(out, []byte("\n{")); i >= 0 {
		return out[i+1:]
	}
	return out
}

// answer is what a plugin may print, a result of any version or an error, so
// that one pass reads it. What only some versions have is read leniently, as
// in the others it is a key that nobody knows.
type answer struct {
	CNIVersion looseString           `json:"cniVersion"`
	Interfaces []*types100.Interface `json:"interfaces"`
	IPs        []*answerIP           `json:"ips"`
	Routes     []*answerRoute        `json:"routes"`
	DNS        types.DNS             `json:"dns"`
	IP4        json.RawMessage       `json:"ip4"`
	IP6        json.RawMessage       `json:"ip6"`

	Code    json.RawMessage `json:"code"`
	Msg     looseString     `json:"msg"`
	Details looseString     `json:"details"`
}

type answerIP struct {
	Version   looseString `json:"version"`
	Interface *int        `json:"interface"`
	Address   cidr        `json:"address"`
	Gateway   net.IP      `json:"gateway"`
}

type answerRoute struct {
	Dst      cidr   `json:"dst"`
	GW       net.IP `json:"gw"`
	MTU      int    `json:"mtu"`
	AdvMSS   int    `json:"advmss"`
	Priority int    `json:"priority"`
	Table    *int   `json:"table"`
	Scope    *int   `json:"scope"`
}

// looseString is a string if it is one, and empty otherwise. libcni reads a
// version so.
type looseString string

func (s *looseString) UnmarshalJSON(b []byte) error {
	*s = ""
	if b[0] != '"' {
		return nil
	}
	for _, c := range b {
		if c == '\\' || c >= utf8.RuneSelf {
			return json.Unmarshal(b, (*string)(s))
		}
	}
	*s = looseString(b[1 : len(b)-1])
	return nil
}

// cidr is an address with its prefix length, host bits kept, as types.IPNet
// is but without its second pass.
type cidr net.IPNet

func (c *cidr) UnmarshalText(text []byte) error {
	ipNet, err := types.ParseCIDR(string(text))
	if err != nil {
		return err
	}
	*c = cidr(*ipNet)
	return nil
}

func badOutput(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadOutput, fmt.Sprintf(format, args...))
}

var (
	errNull      = fmt.Errorf("%w: null in a list", ErrBadOutput)
	errNoAddress = fmt.Errorf("%w: address or destination missing", ErrBadOutput)
)

func (a *answer) decode(raw []byte) error {
	if raw[0] != '{' {
		return badOutput("%.64q is not a JSON object", raw)
	}
	if err := json.Unmarshal(raw, a); err != nil {
		return fmt.Errorf("%w: %w", ErrBadOutput, err)
	}
	return nil
}

// pluginError is the error that the answer is, nil when it is none.
func (a *answer) pluginError() error {
	if len(a.Code) == 0 || string(a.Code) == "null" {
		return nil
	}
	var code uint
	if err := json.Unmarshal(a.Code, &code); err != nil {
		return fmt.Errorf("%w: error code: %w", ErrBadOutput, err)
	}
	if code == 0 {
		return nil
	}
	return withCode(types.NewError(code, cut(string(a.Msg), maxErrorText), cut(string(a.Details), maxErrorText)))
}

// result makes the type of a version. It refuses what libcni's types would
// panic on, or write as what nobody can read.
func (a *answer) result(version string) (types.Result, error) {
	switch version {
	case "0.1.0", "0.2.0":
		return a.result020(version)
	case "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0":
	default:
		return nil, fmt.Errorf("%w: %.64q", ErrVersion, version)
	}
	for _, ifc := range a.Interfaces {
		if ifc == nil {
			return nil, errNull
		}
	}
	for _, ip := range a.IPs {
		if ip == nil {
			return nil, errNull
		}
		if ip.Address.IP == nil {
			return nil, errNoAddress
		}
	}
	routes, err := makeRoutes(a.Routes)
	if err != nil {
		return nil, err
	}
	if version[0] == '0' {
		return a.result040(version, routes), nil
	}
	result := &types100.Result{CNIVersion: version, Interfaces: a.Interfaces, Routes: routes, DNS: a.DNS}
	for _, ip := range a.IPs {
		result.IPs = append(result.IPs, &types100.IPConfig{
			Interface: ip.Interface, Address: net.IPNet(ip.Address), Gateway: ip.Gateway,
		})
	}
	return result, nil
}

func (a *answer) result040(version string, routes []*types.Route) *types040.Result {
	result := &types040.Result{CNIVersion: version, Routes: routes, DNS: a.DNS}
	for _, ifc := range a.Interfaces {
		result.Interfaces = append(result.Interfaces, &types040.Interface{
			Name: ifc.Name, Mac: ifc.Mac, Sandbox: ifc.Sandbox,
		})
	}
	for _, ip := range a.IPs {
		family := string(ip.Version)
		if family == "" {
			family = "6"
			if ip.Address.IP.To4() != nil {
				family = "4"
			}
		}
		result.IPs = append(result.IPs, &types040.IPConfig{
			Version: family, Interface: ip.Interface, Address: net.IPNet(ip.Address), Gateway: ip.Gateway,
		})
	}
	return result
}

func (a *answer) result020(version string) (types.Result, error) {
	result := &types020.Result{CNIVersion: version, DNS: a.DNS}
	var err4, err6 error
	result.IP4, err4 = makeIP020(a.IP4)
	result.IP6, err6 = makeIP020(a.IP6)
	if err := errors.Join(err4, err6); err != nil {
		return nil, err
	}
	return result, nil
}

func makeIP020(raw json.RawMessage) (*types020.IPConfig, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var ip struct {
		IP      cidr           `json:"ip"`
		Gateway net.IP         `json:"gateway"`
		Routes  []*answerRoute `json:"routes"`
	}
	if err := json.Unmarshal(raw, &ip); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadOutput, err)
	}
	if ip.IP.IP == nil {
		return nil, errNoAddress
	}
	routes, err := makeRoutes(ip.Routes)
	if err != nil {
		return nil, err
	}
	config := &types020.IPConfig{IP: net.IPNet(ip.IP), Gateway: ip.Gateway}
	for _, route := range routes {
		config.Routes = append(config.Routes, *route)
	}
	return config, nil
}

func makeRoutes(from []*answerRoute) ([]*types.Route, error) {
	var routes []*types.Route
	for _, route := range from {
		if route == nil {
			return nil, errNull
		}
		if route.Dst.IP == nil {
			return nil, errNoAddress
		}
		routes = append(routes, &types.Route{
			Dst: net.IPNet(route.Dst), GW: route.GW, MTU: route.MTU, AdvMSS: route.AdvMSS,
			Priority: route.Priority, Table: route.Table, Scope: route.Scope,
		})
	}
	return routes, nil
}

// convertResult converts to another version. The converters are libcni's, or
// whoever's type it is, and known to panic.
func convertResult(from types.Result, version string) (result types.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, badOutput("converting it to version %s: %v", version, p)
		}
	}()
	result, err = from.GetAsVersion(version)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVersion, err)
	}
	return result, nil
}

// withVersion gives a result that lacks its version the network's, and leaves
// the rest as it is.
func withVersion(raw []byte, version string) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadOutput, err)
	}
	for key := range object {
		if strings.EqualFold(key, "cniVersion") {
			delete(object, key)
		}
	}
	quoted, err := json.Marshal(version)
	if err != nil {
		return nil, err
	}
	object["cniVersion"] = quoted
	out, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadOutput, err)
	}
	return out, nil
}
