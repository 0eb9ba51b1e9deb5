package podcni

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

// parsedList is a network configuration that has been read but not yet matched
// with the plugins that are installed.
type parsedList struct {
	name string
	// versions are what cniVersion and cniVersions say, as they are written.
	versions                             []string
	disableCheck, disableGC, onlyInlined bool
	plugins                              []*parsedPlugin
	// rest are the members that are not podcni's to set, rendered.
	rest []byte
}

// parsedPlugin is one plugin's configuration.
type parsedPlugin struct {
	typ          string
	ipam         string // the type of its IPAM plugin; may be empty
	capabilities []string
	// body are its members but those that are podcni's to set, rendered.
	body []byte
}

// parseNetwork reads a list, or a single plugin as a list of one. A list is
// what has "plugins", or neither "plugins" nor "type": its plugins may all be
// in its folder. The list's own keys are taken as they are spelt and a
// plugin's in any case, as in libcni. A recorded configuration is checked for
// what detaching needs and no more.
func parseNetwork(doc []byte, recorded bool) (*parsedList, error) {
	top, err := parseObject(doc)
	if err != nil {
		return nil, err
	}
	list := new(parsedList)
	if err := list.readName(doc, top); err != nil {
		return nil, err
	}
	if err := list.readVersions(doc, top); err != nil {
		return nil, err
	}
	plugins, isList := top.get("plugins")
	if !isList {
		if _, single := top.fold("type"); single {
			plugin, err := readPlugin(doc, top, recorded)
			list.plugins, list.onlyInlined = []*parsedPlugin{plugin}, true
			return list, err
		}
	}
	if err := list.readFlags(doc, top); err != nil && !recorded {
		return nil, err
	}
	list.rest = top.render(func(key string) bool {
		switch key {
		case "name", "cniVersion", "cniVersions", "loadOnlyInlinedPlugins", "plugins":
			return false
		}
		return true
	})
	if !isList {
		if list.onlyInlined {
			return nil, errors.New(`"loadOnlyInlinedPlugins" is true and there are no "plugins"`)
		}
		return list, nil
	}
	return list, list.readPlugins(doc, plugins, recorded)
}

func (l *parsedList) readName(doc []byte, top object) error {
	m, ok := top.get("name")
	if !ok {
		return errors.New(`"name" is missing`)
	}
	name, err := m.str(doc)
	if err != nil {
		return err
	}
	if err := checkNetworkName(name); err != nil {
		return positioned(doc, m.at, fmt.Errorf(`"name": %w`, err))
	}
	l.name = name
	return nil
}

func (l *parsedList) readFlags(doc []byte, top object) (err error) {
	for _, f := range []struct {
		key string
		to  *bool
	}{
		{"disableCheck", &l.disableCheck},
		{"disableGC", &l.disableGC},
		{"loadOnlyInlinedPlugins", &l.onlyInlined},
	} {
		if m, ok := top.get(f.key); ok {
			v, bad := m.flag(doc)
			if bad != nil && err == nil {
				err = bad
			}
			*f.to = v
		}
	}
	return err
}

// maxVersions bounds how many versions are looked at, of a configuration and of
// a plugin's answer.
const maxVersions = 64

func (l *parsedList) readVersions(doc []byte, top object) error {
	if m, ok := top.get("cniVersion"); ok {
		v, err := m.str(doc)
		if err != nil {
			return err
		}
		if v != "" {
			l.versions = append(l.versions, v)
		}
	}
	m, ok := top.get("cniVersions")
	if !ok || m.isNull() {
		return nil
	}
	if m.value[0] != '[' {
		return positioned(doc, m.at, errors.New(`"cniVersions" must be an array of strings`))
	}
	for i, at := range elements(doc, m.at) {
		if i >= maxVersions {
			return positioned(doc, at, errors.New(`"cniVersions" is too long`))
		}
		v, err := member{key: "cniVersions", value: doc[at:skipValue(doc, at)], at: at}.str(doc)
		if err != nil {
			return err
		}
		if v != "" && !slices.Contains(l.versions, v) {
			l.versions = append(l.versions, v)
		}
	}
	return nil
}

func (l *parsedList) readPlugins(doc []byte, m member, recorded bool) error {
	if m.value[0] != '[' {
		return positioned(doc, m.at, errors.New(`"plugins" must be an array of objects`))
	}
	starts := elements(doc, m.at)
	if len(starts) == 0 {
		return positioned(doc, m.at, errors.New(`"plugins" is empty`))
	}
	for i, at := range starts {
		if doc[at] != '{' {
			return positioned(doc, at, fmt.Errorf("plugins[%d]: %w", i, errNotObject))
		}
		plugin, err := readPlugin(doc, members(doc, at), recorded)
		if err != nil {
			return fmt.Errorf("plugins[%d]: %w", i, err)
		}
		l.plugins = append(l.plugins, plugin)
	}
	return nil
}

// parsePlugin reads a file of a network's folder.
func parsePlugin(doc []byte) (*parsedPlugin, error) {
	top, err := parseObject(doc)
	if err != nil {
		return nil, err
	}
	return readPlugin(doc, top, false)
}

func readPlugin(doc []byte, o object, recorded bool) (*parsedPlugin, error) {
	p := new(parsedPlugin)
	m, ok := o.fold("type")
	if !ok {
		return nil, errors.New(`"type" is missing`)
	}
	var err error
	if p.typ, err = m.str(doc); err != nil {
		return nil, err
	}
	if err := checkPluginType(p.typ); err != nil {
		return nil, positioned(doc, m.at, fmt.Errorf(`"type": %w`, err))
	}
	if err := p.readIPAM(doc, o); err != nil && !recorded {
		return nil, err
	}
	if err := p.readCapabilities(doc, o); err != nil && !recorded {
		return nil, err
	}
	p.body = o.render(passedOn)
	return p, nil
}

// passedOn says whether a plugin's key is the configuration's to set. Plugins
// in Go do not mind the case of a key, so that one in another case would take
// the place of ours.
func passedOn(key string) bool {
	for _, ours := range [...]string{"name", "cniVersion", "runtimeConfig", "prevResult"} {
		if strings.EqualFold(key, ours) {
			return false
		}
	}
	const reserved = "cni.dev/"
	return len(key) < len(reserved) || !strings.EqualFold(key[:len(reserved)], reserved)
}

func (p *parsedPlugin) readIPAM(doc []byte, o object) error {
	m, ok := o.fold("ipam")
	if !ok || m.isNull() {
		return nil
	}
	if m.value[0] != '{' {
		return positioned(doc, m.at, errors.New(`"ipam" must be an object`))
	}
	m, ok = members(doc, m.at).fold("type")
	if !ok {
		return nil
	}
	typ, err := m.str(doc)
	if err != nil || typ == "" {
		return err
	}
	if err := checkPluginType(typ); err != nil {
		return positioned(doc, m.at, fmt.Errorf(`"ipam": "type": %w`, err))
	}
	p.ipam = typ
	return nil
}

func (p *parsedPlugin) readCapabilities(doc []byte, o object) error {
	m, ok := o.fold("capabilities")
	if !ok || m.isNull() {
		return nil
	}
	if m.value[0] != '{' {
		return positioned(doc, m.at, errors.New(`"capabilities" must be an object`))
	}
	declared := make(map[string]bool)
	var bad error
	for _, c := range members(doc, m.at) {
		switch string(c.value) {
		case "true":
			declared[c.key] = true
		case "false", "null":
			delete(declared, c.key)
		default:
			bad = positioned(doc, c.at, fmt.Errorf(`"capabilities": %q must be true or false`, c.key))
		}
	}
	for name := range declared {
		p.capabilities = append(p.capabilities, name)
	}
	slices.Sort(p.capabilities)
	return bad
}

// unversioned is what a configuration without a version is read as.
const unversioned = "0.1.0"

// recordedVersion is the version that libcni, or we, attached with.
func (l *parsedList) recordedVersion() string {
	best := ""
	for _, v := range l.versions {
		newer, err := version.GreaterThan(v, version.Current())
		if err != nil || newer {
			continue
		}
		if better, err := version.GreaterThan(v, best); best == "" || err == nil && better {
			best = v
		}
	}
	switch {
	case best != "":
		return best
	case len(l.versions) > 0:
		return l.versions[0]
	}
	return unversioned
}
