package confdir

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/spec"
)

func TestNetworkIsComplete(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b")
	b.write("1.conf", `{
		"name": "net", "cniVersion": "0.4.0", "cniVersions": ["1.0.0"], "disableCheck": "True", "mine": [ 1.0, {"a" : null} ],
		"plugins": [{
			"type": "a", "name": "other", "cniVersion": "9", "CNIVersion": "9", "Name": "n", "text": "<\u00e9\n>", "args": {"cni": [1]},
			"twice": 1, "twice": 2, "runtimeConfig": {"mac": "x"}, "RuntimeConfig": {}, "prevResult": {}, "PREVRESULT": {}, "cni.dev/x": 1,
			"CNI.dev/y": 1, "capabilities": {"portMappings": true, "mac": true, "ips": false}, "ipam": {"type": "b", "x": {}}
		}]
	}`).write("net/1.conf", `{"type":"b","capabilities":{"mac":true,"dns":true},"Prevresult":{"x":1}}`)
	n := b.load().Network("net")
	require.NotNil(t, n)
	require.Equal(t, b.path("1.conf"), n.Path)
	require.Equal(t, []string{"dns", "mac", "portMappings"}, n.Capabilities)
	require.True(t, n.List.DisableCheck)
	require.False(t, n.List.DisableGC)
	require.True(t, n.List.LoadOnlyInlinedPlugins)
	require.Equal(t, "1.0.0", n.List.CNIVersion)
	const first = `{"type":"a","text":"<é\n>","args":{"cni":[1]},"twice":2,` +
		`"capabilities":{"portMappings":true,"mac":true,"ips":false},"ipam":{"type":"b","x":{}}}`
	const second = `{"type":"b","capabilities":{"mac":true,"dns":true}}`
	require.JSONEq(t, first, string(n.List.Plugins[0].Bytes))
	require.JSONEq(t, second, string(n.List.Plugins[1].Bytes))
	require.JSONEq(t, `{"cniVersion":"1.0.0","name":"net","disableCheck":"True","mine":[1.0,{"a":null}],`+
		`"loadOnlyInlinedPlugins":true,"plugins":[`+first+","+second+`]}`, string(n.List.Bytes))
}

func TestParseRecorded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		config, version, types string
		inlined                bool
	}{
		{`{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"a"},{"type":"b"}]}`, "1.0.0", "a b", false},
		{`{"name":"x","cniVersion":"1.0.0","loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"}]}`, "1.0.0", "a", true},
		{`{"name":"x","cniVersion":"0.4.0","type":"a"}`, "0.4.0", "a", true},
		{`{"name":"x","type":"a"}`, "0.1.0", "a", true},
		{`{"type":"a"}`, "0.1.0", "a", true},
		{`{"name":"x","cniVersion":"9.9.9","plugins":[{"type":"a"}]}`, "1.1.0", "a", false},
		{`{"name":"x","cniVersion":"0.3.5","plugins":[{"type":"a"}]}`, "0.3.1", "a", false},
		{`{"name":"x","cniVersion":"0.0.1","plugins":[{"type":"a"}]}`, "0.1.0", "a", false},
		{`{"name":"x","cniVersion":"odd","plugins":[{"type":"a"}]}`, "0.1.0", "a", false},
		{`{"name":"x","cniVersion":"0.4.0","cniVersions":["0.3.1","1.1.0","1.0.0","2.0.0"],"plugins":[{"type":"a"}]}`, "1.1.0", "a", false},
		{`{"name":"x","cniVersion":"0.4.0","cniVersions":["2.0.0"],"plugins":[{"type":"a"}]}`, "0.4.0", "a", false},
		{`{"name":"x","plugins":[{"type":"a","ipam":{"type":"../b"}}]}`, "0.1.0", "a", false},
	} {
		list, err := ParseRecorded("net", []byte(test.config))
		require.NoError(t, err, test.config)
		var types []string
		for _, p := range list.Plugins {
			types = append(types, p.Network.Type)
		}
		require.Equal(t, test.version, list.CNIVersion, test.config)
		require.Equal(t, test.types, strings.Join(types, " "))
		require.Equal(t, test.inlined, list.LoadOnlyInlinedPlugins)
	}
	for _, bad := range []string{
		"", "{", "[]", "null", `{"name":"x","plugins":[]}`, `{"name":"../x","plugins":[{"type":"a"}]}`, `{"name":"x","cniVersion":"1.0.0"}`,
		`{"name":"x","plugins":[{"type":"../a"}]}`, `{"name":"x","plugins":[{}]}`, `{"plugins":[{"type":"a"}]}`,
	} {
		_, err := ParseRecorded("net", []byte(bad))
		require.ErrorIs(t, err, ErrInvalid, bad)
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	recorded, err := ParseRecorded("net", []byte(`{"name":"net","cniVersion":"1.0.0","keep":1,"plugins":[{"type":"a"}]}`))
	require.NoError(t, err)
	more, err := libcni.NetworkPluginConfFromBytes([]byte(`{"type":"b"}`))
	require.NoError(t, err)
	list, err := Append(recorded, []*libcni.PluginConfig{more})
	require.NoError(t, err)
	require.Len(t, list.Plugins, 2)
	require.Len(t, recorded.Plugins, 1)
	require.True(t, list.LoadOnlyInlinedPlugins)
	require.JSONEq(t, `{"name":"net","cniVersion":"1.0.0","keep":1,"loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"},{"type":"b"}]}`, string(list.Bytes))
}

func addSeeds(f *testing.F) {
	for _, doc := range []string{
		"", "{}", `{"name":"x","type":"a"}`, list("x", "1.0.0", "a", "b"), "{\"name\":\"x\",\"type\":\"a\",\"\xff\":\"\xff\"}",
		`{"name":"x","plugins":[{"type":"a","k\"":[{"]":"}\\"},-1e+7,true]}], "z" : null }`, `{"name":"x","type":"a","Type":"b","TYPE":"../c"}`,
		`{"name":"x","type":"a","cniVersions":["1.0.0",null],"ipam":{"type":"b"},"delegate":{"type":"c"}}`, `{"name":"x","type":"a","n":1e400}`,
	} {
		f.Add([]byte(doc))
	}
}

func FuzzParseRecorded(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, doc []byte) {
		before := bytes.Clone(doc)
		list, err := ParseRecorded("net", doc)
		require.Equal(t, before, doc)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		requireComplete(t, list)
		again, err := ParseRecorded(list.Name, list.Bytes)
		require.NoError(t, err)
		require.Equal(t, list, again)
	})
}

func requireComplete(t *testing.T, list *libcni.NetworkConfigList) {
	t.Helper()
	require.NoError(t, spec.CheckNetworkName(list.Name))
	require.Contains(t, version.All.SupportedVersions(), list.CNIVersion)
	require.NotEmpty(t, list.Plugins)
	for _, p := range list.Plugins {
		require.NoError(t, spec.CheckPluginType(p.Network.Type))
		require.Nil(t, p.Network.RawPrevResult)
	}
	again, err := libcni.NetworkConfFromBytes(list.Bytes)
	require.NoError(t, err)
	require.Equal(t, list, again)
}

// FuzzLoad puts anything into a file, and into a file of a network's folder.
func FuzzLoad(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, doc []byte) {
		b := newBench(t).plugin("a", "b")
		b.write("9.conf", list("good", "1.0.0", "a")).write("good/1.conf", `{"type":"b"}`)
		b.write("../outside/1.conf", `{"type":"outside"}`).plugin("outside")
		_, load := b.loads()
		require.Equal(t, []string{"good"}, names(load(nil)))
		require.NoError(t, os.WriteFile(b.path("1.conf"), doc, 0o644))
		s := load(nil)
		require.True(t, s.Network("1") != nil || len(s.Networks)+len(s.Rejected) >= 2)
		for _, n := range s.Networks {
			requireComplete(t, n.List)
			for _, p := range n.List.Plugins {
				require.FileExists(t, filepath.Join(b.bin, p.Network.Type))
				require.True(t, p.Network.Type != "outside" || bytes.Contains(doc, []byte("outside")))
			}
		}
		require.True(t, s.same(load(s)))
		b.remove("1.conf")
		require.NoError(t, os.WriteFile(b.path("good/1.conf"), doc, 0o644))
		s = b.load()
		require.Equal(t, len(s.Rejected), 1-len(s.Networks))
		for _, n := range s.Networks {
			requireComplete(t, n.List)
		}
	})
}
