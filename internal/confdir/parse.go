package confdir

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podcni/podcni/internal/spec"
)

// source is a configuration that parses. Which version its network is used in
// depends on the plugins that are installed. It is never changed.
type source struct {
	name        string
	versions    []string // cniVersion and cniVersions
	onlyInlined bool
	plugins     []*plugin
	rest        map[string]json.RawMessage // the list's other keys
}

type plugin struct {
	typ          string
	capabilities []string
	named        []string        // every plugin that body names, itself included
	body         json.RawMessage // without the keys that are the runtime's
}

const (
	maxVersions      = 64
	longestVersion   = 32
	reservedKeySpace = "cni.dev/"
)

// parseNetwork reads a list, or a single plugin as a list of one. A list is what
// has "plugins", or neither "plugins" nor "type": its plugins may all be in its
// folder. A single plugin without a name gets the fallback. A recorded
// configuration is checked for what detaching needs and no more.
func parseNetwork(doc []byte, fallback string, recorded bool) (*source, error) {
	top, err := parseObject(doc)
	if err != nil {
		return nil, err
	}
	s := &source{}
	var plugins []*libcni.PluginConfig
	cniVersion := ""
	if isSingle(top) {
		conf, err := libcni.NetworkPluginConfFromBytes(doc)
		if err != nil {
			return nil, located(doc, err)
		}
		s.name, s.onlyInlined = cmp.Or(conf.Network.Name, fallback), true
		cniVersion, plugins = conf.Network.CNIVersion, append(plugins, conf)
	} else {
		list, err := libcni.NetworkConfFromBytes(doc)
		if err != nil {
			// libcni renders each plugin anew before it decodes it: only a
			// decoder of the whole document knows the place.
			var shape struct {
				Plugins []types.PluginConf `json:"plugins"`
			}
			if wrong := json.Unmarshal(doc, &shape); wrong != nil {
				err = wrong
			}
			return nil, located(doc, err)
		}
		s.name, s.onlyInlined, plugins = list.Name, list.LoadOnlyInlinedPlugins, list.Plugins
		if raw, ok := top["cniVersion"]; ok {
			if err := json.Unmarshal(raw, &cniVersion); err != nil {
				return nil, err
			}
		}
		s.rest = maps.Clone(top)
		for _, ours := range [...]string{"name", "cniVersion", "cniVersions", "loadOnlyInlinedPlugins", "plugins"} {
			delete(s.rest, ours)
		}
	}
	if err := spec.CheckNetworkName(s.name); err != nil {
		return nil, fmt.Errorf(`"name": %w`, err)
	}
	if err := s.readVersions(cniVersion, top["cniVersions"]); err != nil {
		return nil, err
	}
	for i, conf := range plugins {
		p, err := newPlugin(conf.Bytes, recorded)
		if err != nil {
			return nil, fmt.Errorf("plugins[%d]: %w", i, err)
		}
		s.plugins = append(s.plugins, p)
	}
	return s, nil
}

// parsePlugin reads a file of a network's folder.
func parsePlugin(doc []byte) (*source, error) {
	if _, err := parseObject(doc); err != nil {
		return nil, err
	}
	if _, err := libcni.NetworkPluginConfFromBytes(doc); err != nil {
		return nil, located(doc, err)
	}
	p, err := newPlugin(doc, false)
	if err != nil {
		return nil, err
	}
	return &source{plugins: []*plugin{p}}, nil
}

// parseInMemory reads a configuration that has no folder beside it.
func parseInMemory(doc []byte) (*source, error) {
	if len(doc) > maxFile {
		return nil, invalid(errTooLarge)
	}
	s, err := parseNetwork(doc, "", false)
	if err != nil {
		return nil, invalid(err)
	}
	if len(s.plugins) == 0 {
		return nil, invalid(errNoPlugins)
	}
	s.onlyInlined = true
	return s, nil
}

// ParseRecorded reads the configuration of an attachment to the network, whoever
// recorded it: a list, or a single plugin. It checks what detaching needs: a
// name, and at least one plugin, whose types are names of files. The version is
// the recorded one if libcni knows it, or else the highest that is known and not
// above it. LoadOnlyInlinedPlugins is as recorded: where it is false, plugins of
// the network's folder may have followed, and the record does not say which. The
// error wraps ErrInvalid.
func ParseRecorded(network string, conf []byte) (*libcni.NetworkConfigList, error) {
	s, err := parseNetwork(conf, network, true)
	if err != nil {
		return nil, invalid(err)
	}
	if len(s.plugins) == 0 {
		return nil, invalid(errNoPlugins)
	}
	list, err := s.list(s.plugins, recordedVersion(s.versions), s.onlyInlined)
	if err != nil {
		return nil, invalid(err)
	}
	return list, nil
}

// Append returns the list with further plugins after its own.
func Append(list *libcni.NetworkConfigList, plugins []*libcni.PluginConfig) (*libcni.NetworkConfigList, error) {
	s, err := parseNetwork(list.Bytes, "", true)
	if err != nil {
		return nil, invalid(err)
	}
	for _, conf := range plugins {
		p, err := newPlugin(conf.Bytes, true)
		if err != nil {
			return nil, invalid(err)
		}
		s.plugins = append(s.plugins, p)
	}
	return s.list(s.plugins, list.CNIVersion, true)
}

// list makes libcni's list of these plugins. Its Bytes are exactly what it says.
func (s *source) list(plugins []*plugin, cniVersion string, onlyInlined bool) (*libcni.NetworkConfigList, error) {
	doc := make(map[string]any, len(s.rest)+4)
	for key, value := range s.rest {
		doc[key] = value
	}
	bodies := make([]json.RawMessage, len(plugins))
	for i, p := range plugins {
		bodies[i] = p.body
	}
	doc["name"], doc["cniVersion"], doc["loadOnlyInlinedPlugins"], doc["plugins"] = s.name, cniVersion, onlyInlined, bodies
	config, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(config)
}

func newPlugin(doc []byte, recorded bool) (*plugin, error) {
	var conf map[string]any
	if err := json.Unmarshal(doc, &conf); err != nil {
		return nil, err
	}
	maps.DeleteFunc(conf, func(key string, _ any) bool { return isRuntimes(key) })
	p := &plugin{named: appendTypes(nil, conf)}
	var err error
	if p.body, err = json.Marshal(conf); err != nil {
		return nil, err
	}
	// What counts is what the plugin will get: where a key is there in several
	// spellings, their order may be another now.
	parsed, err := libcni.NetworkPluginConfFromBytes(p.body)
	if err != nil {
		return nil, err
	}
	p.typ = parsed.Network.Type
	if err := spec.CheckPluginType(p.typ); err != nil {
		return nil, fmt.Errorf(`"type": %w`, err)
	}
	if ipam := parsed.Network.IPAM.Type; ipam != "" && !recorded {
		if err := spec.CheckPluginType(ipam); err != nil {
			return nil, fmt.Errorf(`"ipam": "type": %w`, err)
		}
	}
	for name, declared := range parsed.Network.Capabilities {
		if declared {
			p.capabilities = append(p.capabilities, name)
		}
	}
	return p, nil
}

// isRuntimes reports whether a plugin's key is the runtime's to set. Plugins in
// Go ignore the case of a key: one in another case would take the place of ours.
func isRuntimes(key string) bool {
	for _, ours := range [...]string{"name", "cniVersion", "runtimeConfig", "prevResult"} {
		if strings.EqualFold(key, ours) {
			return true
		}
	}
	return len(key) >= len(reservedKeySpace) && strings.EqualFold(key[:len(reservedKeySpace)], reservedKeySpace)
}

// appendTypes appends every "type" in a configuration that can be a plugin's:
// its own, its IPAM plugin's, those of its delegates.
func appendTypes(to []string, value any) []string {
	switch value := value.(type) {
	case []any:
		for _, v := range value {
			to = appendTypes(to, v)
		}
	case map[string]any:
		for key, v := range value {
			if typ, ok := v.(string); ok && strings.EqualFold(key, "type") && spec.CheckPluginType(typ) == nil {
				to = append(to, typ)
			}
			to = appendTypes(to, v)
		}
	}
	return to
}

func isSingle(top map[string]json.RawMessage) bool {
	if _, isList := top["plugins"]; isList {
		return false
	}
	for key := range top {
		if strings.EqualFold(key, "type") {
			return true
		}
	}
	return false
}

func (s *source) readVersions(cniVersion string, cniVersions json.RawMessage) error {
	var all []string
	if cniVersions != nil {
		if err := json.Unmarshal(cniVersions, &all); err != nil {
			return fmt.Errorf(`"cniVersions": %w`, err)
		}
	}
	if len(all) > maxVersions {
		return errors.New(`"cniVersions" is too long`)
	}
	for _, v := range append([]string{cniVersion}, all...) {
		if len(v) > longestVersion {
			return errors.New(`"cniVersion" is too long`)
		}
		if v != "" && !slices.Contains(s.versions, v) {
			s.versions = append(s.versions, v)
		}
	}
	return nil
}

// recordedVersion is the version that libcni, or we, attached with: of several
// libcni takes the highest that is not newer than itself.
func recordedVersion(versions []string) string {
	best, without := "", spec.Unversioned
	for _, v := range versions {
		newer, err := version.GreaterThan(v, version.Current())
		switch {
		case err != nil: // no version at all
		case newer:
			without = version.Current()
		case best == "":
			best = v
		default:
			if higher, err := version.GreaterThan(v, best); err == nil && higher {
				best = v
			}
		}
	}
	if best == "" {
		return without
	}
	for _, known := range slices.Backward(version.All.SupportedVersions()) {
		if above, err := version.GreaterThan(known, best); err == nil && !above {
			return known
		}
	}
	return without
}

func parseObject(doc []byte) (map[string]json.RawMessage, error) {
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil, errors.New("it is empty")
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(doc, &top); err != nil {
		return nil, located(doc, err)
	}
	if top == nil {
		return nil, errors.New("it is null, not a JSON object")
	}
	return top, nil
}

func invalid(err error) error { return fmt.Errorf("%w: %w", ErrInvalid, err) }

// located says where in the document a decoder's error is. Line and column
// count from 1, the column in characters.
func located(doc []byte, err error) error {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	var offset int64
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typ):
		offset = typ.Offset
		// Its own text is about types of Go.
		if err = fmt.Errorf("%q cannot be a JSON %s", typ.Field, typ.Value); typ.Field == "" {
			err = fmt.Errorf("it is a JSON %s, not an object", typ.Value)
		}
	default:
		return err
	}
	before := doc[:min(max(int(offset)-1, 0), len(doc))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("line %d, column %d: %w", line, column, err)
}
