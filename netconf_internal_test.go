package podcni

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/stretchr/testify/require"
)

func parse(t *testing.T, doc string) *network {
	t.Helper()
	list, err := parseNetwork([]byte(doc), false)
	require.NoError(t, err)
	return newNetwork("file", list, nil, "1.0.0", nil)
}

func TestPluginConfiguration(t *testing.T) {
	t.Parallel()
	n := parse(t, `{
		"name": "net", "cniVersion": "0.4.0", "cniVersions": ["1.0.0"], "disableCheck": "True", "mine": [ 1.0, {"a" : null} ],
		"plugins": [{
			"type": "a", "name": "other", "cniVersion": "9", "CNIVersion": "9", "Name": "n",
			"big": 12345678901234567890.10e1, "text": "<\u00e9\n>", "args": {"cni": [1]}, "twice": 1, "twice": 2,
			"runtimeConfig": {"mac": "x"}, "RuntimeConfig": {}, "prevResult": {}, "PREVRESULT": 1, "cni.dev/x": 1, "CNI.dev/y": 1,
			"capabilities": {"portMappings": true, "mac": true, "ips": false}, "ipam": {"type": "b", "x": {}}
		}]
	}`)
	require.True(t, n.disableCheck)
	require.False(t, n.disableGC)
	const body = `"type":"a","big":12345678901234567890.10e1,"text":"<\u00e9\n>","args":{"cni":[1]},"twice":2,` +
		`"capabilities":{"portMappings":true,"mac":true,"ips":false},"ipam":{"type":"b","x":{}}`
	const head = `{"cniVersion":"1.0.0","name":"net",` + body
	p := &n.plugins[0]
	require.Equal(t, []string{"mac", "portMappings"}, p.capabilities)
	require.Equal(t, head+"}", string(p.head))
	require.Equal(t, `{"cniVersion":"1.0.0","name":"net","disableCheck":"True","mine":[1.0,{"a":null}],`+
		`"loadOnlyInlinedPlugins":true,"plugins":[{`+body+`}]}`, string(n.config))

	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	require.Equal(t, head+"}", string(p.stdin(nil, nil, nil)))
	require.Equal(t, head+"}", string(p.stdin(map[string]json.RawMessage{"ips": raw("[]")}, nil, nil)))
	caps := map[string]json.RawMessage{"ips": raw("[]"), "portMappings": raw("[1]"), "mac": raw(`"m"`), "dns": raw("{}")}
	require.Equal(t, head+`,"runtimeConfig":{"mac":"m","portMappings":[1]},"prevResult":{"x":1},"a":1,"cni.dev/b":[]}`,
		string(p.stdin(caps, raw(`{"x":1}`), map[string]json.RawMessage{"cni.dev/b": raw("[]"), "a": raw("1")})))
	require.Equal(t, head+"}", string(p.head), "stdin leaves the head alone")

	// One plugin alone is a list of one.
	n = parse(t, `{"name":"net","Type":"a","x":1}`)
	require.Equal(t, `{"cniVersion":"1.0.0","name":"net","Type":"a","x":1}`, string(n.plugins[0].head))
	require.Equal(t, `{"cniVersion":"1.0.0","name":"net","loadOnlyInlinedPlugins":true,"plugins":[{"Type":"a","x":1}]}`, string(n.config))
}

// TestConfigurationReadsAsLibcniReadsIt holds what we keep of a configuration
// against what libcni makes of it.
func TestConfigurationReadsAsLibcniReadsIt(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{
		`{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"a","capabilities":{"b":true,"c":true}},{"type":"b","ipam":{"type":"c"}}]}`,
		`{"name":"x","cniVersion":"1.0.0","disableCheck":true,"disableGC":"true","plugins":[{"TYPE":"a","Capabilities":{"b":true}}]}`,
		`{"name":"x","name":"y","plugins":[{"type":"a","type":"b"}],"plugins":[{"type":"a","type":"c","k":"\ud800","k\u0041":1}]}`,
	} {
		n := parse(t, doc)
		want, err := libcni.NetworkConfFromBytes([]byte(doc))
		require.NoError(t, err)
		got, err := libcni.NetworkConfFromBytes(n.config)
		require.NoError(t, err)
		require.True(t, got.LoadOnlyInlinedPlugins)
		require.Equal(t, want.Name, n.name)
		require.Equal(t, want.Name, got.Name)
		require.Equal(t, want.DisableCheck, n.disableCheck)
		require.Equal(t, want.DisableGC, n.disableGC)
		require.Equal(t, "1.0.0", got.CNIVersion)
		require.Len(t, n.plugins, len(want.Plugins))
		for i, p := range want.Plugins {
			require.Equal(t, p.Network.Type, n.plugins[i].typ)
			require.JSONEq(t, string(p.Bytes), string(got.Plugins[i].Bytes))
			require.Len(t, n.plugins[i].capabilities, len(p.Network.Capabilities))
			for _, c := range n.plugins[i].capabilities {
				require.True(t, p.Network.Capabilities[c])
			}
		}
	}
}

func TestRecordedNetwork(t *testing.T) {
	t.Parallel()
	tests := []struct {
		config, version, types string
		omitted                bool
	}{
		{`{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"a"},{"type":"b"}]}`, "1.0.0", "a b", true},
		{`{"name":"x","cniVersion":"1.0.0","loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"}]}`, "1.0.0", "a", false},
		{`{"name":"x","cniVersion":"0.4.0","type":"a"}`, "0.4.0", "a", false},
		{`{"name":"x","type":"a"}`, "0.1.0", "a", false},
		{`{"name":"x","cniVersion":"9.9.9","plugins":[{"type":"a"}]}`, "9.9.9", "a", true},
		{`{"name":"x","cniVersion":"odd","plugins":[{"type":"a"}]}`, "odd", "a", true},
		{`{"name":"x","cniVersion":"0.4.0","cniVersions":["0.3.1","1.1.0","1.0.0","2.0.0"],"plugins":[{"type":"a"}]}`, "1.1.0", "a", true},
		{`{"name":"x","cniVersion":"1.0.0"}`, "1.0.0", "", true},
		{`{"name":"x","disableGC":7,"plugins":[{"type":"a","capabilities":[],"ipam":4}]}`, "0.1.0", "a", true},
	}
	for _, test := range tests {
		n, err := recordedNetwork([]byte(test.config))
		require.NoError(t, err, test.config)
		var types []string
		for _, p := range n.plugins {
			types = append(types, p.typ)
			require.Empty(t, p.path)
		}
		require.Equal(t, test.version, n.cniVersion, test.config)
		require.Equal(t, test.types, strings.Join(types, " "))
		require.Equal(t, test.omitted, n.foldersOmitted)
		require.Equal(t, test.config, string(n.config))
	}
	for _, bad := range []string{
		"", "{", "[]", "null", `{"name":"x","plugins":[]}`, `{"name":"../x","plugins":[{"type":"a"}]}`,
		`{"name":"x","plugins":[{"type":"../a"}]}`, `{"name":"x","plugins":[{}]}`, `{"plugins":[{"type":"a"}]}`,
	} {
		_, err := recordedNetwork([]byte(bad))
		require.ErrorIs(t, err, ErrBadRecord, bad)
	}
}

// FuzzNetwork reads anything as a configuration, and what it takes as what it
// would pass on.
func FuzzNetwork(f *testing.F) {
	for _, doc := range []string{
		"", "{}", `{"name":"x","type":"a"}`, list("x", "1.0.0", "a", "b"),
		`{"name":"x","plugins":[{"type":"a","k\"":[{"]":"}\\"},-1e+7,true]}], "z" : null }`, "{\"name\":\"x\",\"type\":\"a\",\"\xff\":\"\xff\"}",
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		before := bytes.Clone(doc)
		for _, recorded := range []bool{false, true} {
			l, err := parseNetwork(doc, recorded)
			if err != nil {
				continue
			}
			n := newNetwork("", l, nil, l.recordedVersion(), nil)
			require.NoError(t, checkNetworkName(n.name))
			require.True(t, json.Valid(n.config), "%q", n.config)
			for i := range n.plugins {
				p := &n.plugins[i]
				require.NoError(t, checkPluginType(p.typ))
				var whole struct{ Name, CNIVersion string }
				require.NoError(t, json.Unmarshal(p.stdin(nil, json.RawMessage("{}"), nil), &whole))
				require.Equal(t, n.name, whole.Name)
				require.JSONEq(t, string(quoteJSON(n.cniVersion)), string(quoteJSON(whole.CNIVersion)))
			}
			if len(n.plugins) > 0 {
				again, err := recordedNetwork(n.config)
				require.NoError(t, err)
				require.Equal(t, n.name, again.name)
				require.Equal(t, n.cniVersion, again.cniVersion)
				require.Equal(t, len(n.plugins), len(again.plugins))
			}
		}
		_, _ = parsePlugin(doc)
		require.Equal(t, before, doc)
	})
}
