package confdir

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/stretchr/testify/require"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		files    map[string]string
		networks []string // name version plugin,plugin file
		rejected []string
	}{
		"nothing": {networks: []string{}},
		"by file name, all three extensions": {
			files: map[string]string{
				"20.conf": `{"name":"two","type":"a","cniVersion":"0.4.0"}`, "10.conflist": list("one", "1.0.0", "a", "b"),
				"30.json": list("three", "1.1.0", "b"), "05.txt": list("no", "1.0.0", "a"), "README": "text",
			},
			networks: []string{"one 1.0.0 a,b 10.conflist", "two 0.4.0 a 20.conf", "three 1.1.0 b 30.json"},
		},
		"a list in .conf, a plugin in .conflist, plugins without a name": {
			files: map[string]string{
				"1.conf": list("x", "1.0.0", "a", "b"), "2.conflist": `{"name":"y","Type":"a"}`,
				"3-z.conf": `{"type":"a"}`, "4-w.json": `{"name":"","type":"a","cniVersion":"0.2.0","cniVersions":["0.3.1"]}`, ".conf": `{"type":"a"}`,
			},
			networks: []string{"x 1.0.0 a,b 1.conf", "y 0.1.0 a 2.conflist", "3-z 0.1.0 a 3-z.conf", "4-w 0.3.1 a 4-w.json"},
			rejected: []string{".conf"},
		},
		"the first of a name": {
			files:    map[string]string{"1.conf": list("x", "1.0.0", "a"), "2.conf": list("x", "1.0.0", "b")},
			networks: []string{"x 1.0.0 a 1.conf"}, rejected: []string{"2.conf"},
		},
		"one bad file hides no other": {
			files:    map[string]string{"1.conf": `{"name":"x",`, "2.conf": list("y", "1.0.0", "b"), "3.conf": ""},
			networks: []string{"y 1.0.0 b 2.conf"}, rejected: []string{"1.conf", "3.conf"},
		},
		"invalid": {
			files: map[string]string{
				"01.conf": list("../x", "1.0.0", "a"), "02.conf": list("x", "1.0.0", "../a"), "03.conf": list("x", "1.0.0"),
				"04.conf": `[]`, "05.conf": `{"name":"x","plugins":{}}`, "06.conf": `{"name":"x","plugins":[null]}`,
				"07.conf": `{"name":"x","plugins":[{"type":"a","ipam":{"type":"../b"}}]}`,
				"08.conf": `{"name":"x","loadOnlyInlinedPlugins":true}`, "09.conf": `{"name":"x"}`,
				"10.conf": `{"plugins":[{"type":"a"}]}`, "11.conf": `{"name":7,"plugins":[{"type":"a"}]}`,
				"12.conf": `{"name":"x","cniVersions":"1.0.0","plugins":[{"type":"a"}]}`,
				"13.conf": `{"name":"x","disableCheck":"maybe","plugins":[{"type":"a"}]}`,
				"14.conf": `{"name":"x","plugins":[{"type":"a","capabilities":{"mac":1}}]}`,
				"15.conf": `{"name":"x","plugins":[{"type":"a"}]} {}`, "16.conf": `null`,
				"17.conf": strings.Repeat(" ", maxFile) + list("x", "1.0.0", "a"),
				"18.conf": `{"name":"x","plugins":[{"type":""}]}`, "19.conf": `{"name":"x","type":"a","cniVersions":7}`,
				"20.conf": `{"name":"x","type":"a","cniVersion":"` + strings.Repeat("1", 99) + `"}`,
				"21.conf": `{"name":"x","type":"a","cniVersions":["1"` + strings.Repeat(`,"1"`, 99) + `]}`,
			},
			networks: []string{},
			rejected: []string{
				"01.conf", "02.conf", "03.conf", "04.conf", "05.conf", "06.conf", "07.conf", "08.conf", "09.conf", "10.conf",
				"11.conf", "12.conf", "13.conf", "14.conf", "15.conf", "16.conf", "17.conf", "18.conf", "19.conf", "20.conf", "21.conf",
			},
		},
		"versions": {
			files: map[string]string{
				"1.conf": `{"name":"highest","cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","9.9.9"],"plugins":[{"type":"a"}]}`,
				"2.conf": `{"name":"spoken","cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","0.3.1"],"plugins":[{"type":"a"},{"type":"old"}]}`,
				"3.conf": list("unspoken", "1.0.0", "a", "old"), "4.conf": list("unknown", "9.9.9", "a"), "5.conf": list("garbage", "one", "a"),
				"6.conf": `{"name":"none","plugins":[{"type":"old"}]}`,
			},
			networks: []string{"highest 1.1.0 a 1.conf", "spoken 0.4.0 a,old 2.conf", "none 0.1.0 old 6.conf"},
			rejected: []string{"3.conf", "4.conf", "5.conf"},
		},
		"missing plugins": {
			files:    map[string]string{"1.conf": list("x", "1.0.0", "a", "absent"), "2.conf": list("y", "1.0.0", "b")},
			networks: []string{"y 1.0.0 b 2.conf"}, rejected: []string{"1.conf"},
		},
		"folders": {
			files: map[string]string{
				"1.conf": list("x", "1.0.0", "a"), "x/2.conf": `{"type":"old"}`, "x/1.conf": `{"type":"b"}`, "x/3.json": `{"type":"no"}`,
				"2.conf": `{"name":"y","cniVersion":"1.0.0"}`, "y/1.conf": `{"type":"b"}`,
				"3.conf": `{"name":"z","cniVersion":"1.0.0","loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"}]}`, "z/1.conf": `{"type":"b"}`,
				"4.conf": `{"name":"w","cniVersion":"0.4.0","type":"a"}`, "w/1.conf": `{"type":"b"}`,
				"5.conf": list("v", "1.0.0", "a"), "v/1.conf": `{`, "6.conf": list("u", "0.4.0", "a"), "u/1.conf": `{"type":"old"}`,
			},
			networks: []string{"y 1.0.0 b 2.conf", "z 1.0.0 a 3.conf", "w 0.4.0 a 4.conf", "u 0.4.0 a,old 6.conf"},
			rejected: []string{"1.conf", "1.conf"},
		},
		"a directory where a file should be": {
			files:    map[string]string{"x.conflist/readme": "", "y.conf": list("y", "1.0.0", "a")},
			networks: []string{"y 1.0.0 a y.conf"}, rejected: []string{"x.conflist"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t).plugin("a", "b", "no")
			b.install("old", "0.1.0 0.3.1 0.4.0")
			for file, content := range test.files {
				b.write(file, content)
			}
			s := b.load()
			got := []string{}
			for _, n := range s.Networks {
				var types []string
				for _, p := range n.List.Plugins {
					types = append(types, p.Network.Type)
				}
				got = append(got, fmt.Sprintf("%s %s %s %s", n.List.Name, n.List.CNIVersion, strings.Join(types, ","), filepath.Base(n.Path)))
				require.Same(t, n, s.Network(n.List.Name))
				again, err := libcni.NetworkConfFromBytes(n.List.Bytes)
				require.NoError(t, err)
				require.Equal(t, n.List, again)
				recorded, err := ParseRecorded(n.List.Name, n.List.Bytes)
				require.NoError(t, err)
				require.Equal(t, n.List, recorded)
				require.True(t, recorded.LoadOnlyInlinedPlugins)
			}
			require.Equal(t, test.networks, got, "rejected: %v", s.Rejected)
			require.ElementsMatch(t, test.rejected, rejected(s))
			require.Equal(t, s.Default == nil, s.Reason != nil)
			require.True(t, s.same(b.load()))
		})
	}
}

func TestErrorsTellWhere(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.write("1.conf", "{\n  \"name\": \"é\", x\n}").write("2.conf", "{\n \"name\":\"x\",\"plugins\":[{\"type\":5}]}").write("3.conf", "[]")
	b.write("4.conf", list("x", "1.0.0", "absent")).write("5.conf", list("y", "1.1.0", "a", "old"))
	b.write("6.conf", "{\"type\":\"a\",\n\"ipam\":[]}").write("7.conf", `{"cniVersion":"9.9.9","type":"a"}`)
	b.write("8.conf", `{"cniVersion":"0.4.0","cniVersions":["1.1.0"],"name":"z","plugins":[{"type":"old"},{"type":"new"}]}`)
	b.install("old", "0.3.1 0.4.0")
	b.install("new", "1.1.0")
	s := b.load()
	require.Len(t, s.Rejected, 8)
	for i, want := range []string{
		"invalid network configuration: line 2, column 16: invalid character 'x'",
		`line 2, column 32: "plugins.type" cannot be a JSON number`,
		"line 1, column 1: it is a JSON array, not an object",
		`plugin not found: "absent" in ` + b.bin,
		`unsupported CNI version: plugin "old" speaks 0.3.1, 0.4.0; the network wants 1.1.0`,
		`line 2, column 8: "ipam" cannot be a JSON array`,
		"unsupported CNI version: the network wants 9.9.9, podcni speaks 0.1.0",
		`plugin "old" speaks 0.3.1, 0.4.0, plugin "new" speaks 1.1.0; the network wants 0.4.0 or 1.1.0`,
	} {
		require.ErrorContains(t, s.Rejected[i].Err, want)
	}
	require.ErrorIs(t, s.Rejected[0].Err, ErrInvalid)
	require.ErrorIs(t, s.Rejected[3].Err, errPluginNotFound)
	require.Equal(t, "x", s.Rejected[3].Network)
	require.ErrorIs(t, s.Rejected[4].Err, ErrVersion)
	require.ErrorIs(t, s.Reason, ErrInvalid)
	require.ErrorContains(t, s.Reason, b.path("1.conf"))
	require.ErrorContains(t, s.Reason, "; and 5 more")
}

func TestReasons(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	begins := func(s *Snapshot) {
		t.Helper()
		require.Nil(t, s.Default)
		require.Equal(t, b.o.Default, s.DefaultName)
		require.True(t, strings.HasPrefix(s.Reason.Error(), "No CNI configuration file in "+b.dir), s.Reason)
	}
	begins(b.load())
	b.o.Default = "want"
	begins(b.load())
	require.ErrorIs(t, b.load().Reason, ErrNotFound)
	b.o.Default = ""
	require.NoError(t, os.Remove(b.dir))
	begins(b.load())
	require.ErrorIs(t, b.load().Reason, os.ErrNotExist)
	write(t, b.dir, "")
	begins(b.load())
	require.ErrorIs(t, b.load().Reason, syscall.ENOTDIR)

	b = newBench(t).plugin("a")
	b.o.Default = "want"
	_, load := b.loads()
	b.write("1.conf", list("one", "1.0.0", "a")).write("2.conf", list("two", "1.0.0", "a"))
	s := load(nil)
	require.Nil(t, s.Default)
	require.Equal(t, "want", s.DefaultName)
	require.ErrorIs(t, s.Reason, ErrNotFound)
	require.ErrorContains(t, s.Reason, "one, two")
	b.write("3.conf", list("want", "1.0.0", "absent"))
	require.ErrorIs(t, load(s).Reason, errPluginNotFound)
	b.plugin("absent")
	s = load(s)
	require.NoError(t, s.Reason)
	require.Equal(t, "want", s.Default.List.Name)
	require.Nil(t, s.Network("absent"))
}

func TestListsAndTemplate(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.o.Lists = [][]byte{[]byte(list("mem", "1.0.0", "a")), []byte(`{"name":"x","type":"a"}`)}
	b.o.HasTemplate, b.o.Template = true, `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"a","first":"{{.PodCIDR}}",
		"all":[{{range $i, $c := .PodCIDRs}}{{if $i}},{{end}}"{{$c}}"{{end}}],
		"routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}]}`
	b.write("0.conf", list("x", "1.0.0", "a")).write("1.conf", list("file", "1.0.0", "a")).write("mem/1.conf", `{"type":"a"}`)
	d := b.open()
	s := d.Current()
	require.Equal(t, []string{"mem", "x", "file"}, names(s))
	require.Equal(t, "WithConfList[0]", s.Networks[0].Path)
	require.Len(t, s.Networks[0].List.Plugins, 1, "it has no folder")
	require.Equal(t, []string{"WithConfTemplate", "0.conf"}, rejected(s))
	require.ErrorIs(t, s.Rejected[0].Err, errNoPodCIDRs)
	require.Empty(t, b.logs.lines("pod CIDRs"))
	require.Len(t, b.logs.lines("not in force"), 1)

	v6, v4 := netip.MustParsePrefix("fd00:1::5/64"), netip.MustParsePrefix("10.1.2.3/24")
	require.NoError(t, d.UpdatePodCIDRs(t.Context(), []netip.Prefix{v6, v4, v4}))
	s = d.Current()
	require.Equal(t, []string{"mem", "x", "pods", "file"}, names(s))
	require.JSONEq(t, `{"type":"a","first":"fd00:1::/64","all":["fd00:1::/64","10.1.2.0/24","10.1.2.0/24"],
		"routes":[{"dst":"::/0"},{"dst":"0.0.0.0/0"}]}`, string(s.Network("pods").List.Plugins[0].Bytes))
	var input *InputError
	for _, bad := range [][]netip.Prefix{nil, {{}}, {v4, {}}} {
		err := d.UpdatePodCIDRs(t.Context(), bad)
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorAs(t, err, &input)
	}
	require.NoError(t, d.Reload(t.Context()))
	require.Same(t, s, d.Current(), "the last one stays")

	require.NoError(t, os.RemoveAll(b.dir))
	require.NoError(t, d.UpdatePodCIDRs(t.Context(), []netip.Prefix{v4}))
	require.Equal(t, []string{"mem", "x", "pods"}, names(d.Current()))
	d.Close()
	require.ErrorIs(t, d.UpdatePodCIDRs(t.Context(), []netip.Prefix{v4}), ErrClosed)
	require.NoError(t, newBench(t).open().UpdatePodCIDRs(t.Context(), nil), "there is nothing to render")

	for _, bad := range []string{"", "{", `{"name":"x"}`, `{"name":"x","plugins":[]}`, strings.Repeat(" ", maxFile+1)} {
		b.o.Lists[1] = []byte(bad)
		_, err := Open(b.o)
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorAs(t, err, &input)
		require.Equal(t, "WithConfList[1]", input.Option)
		require.Equal(t, 1, strings.Count(err.Error(), "WithConfList"), err)
	}
	b.o.Lists = nil
	for _, text := range []string{
		"", "text", `{"name":"x"}`, `{"name":"{{.PodCIDR}}","type":"a"}`, `{{.Nothing}}`, `{{index .PodCIDRs 1}}`, `{{printf "%9999999s" ""}}`,
	} {
		b.o.Template = text
		require.ErrorIs(t, b.open().UpdatePodCIDRs(t.Context(), []netip.Prefix{v4}), ErrInvalid, text)
	}
	b.o.Template = "{{"
	_, err := Open(b.o)
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorAs(t, err, &input)
	require.Equal(t, "WithConfTemplate", input.Option)
}

func TestUnreadableDirectoryKeepsItsNetworks(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.write("1.conf", list("x", "1.0.0", "a")).write("x/1.conf", `{"type":"a"}`)
	require.NoError(t, os.Chmod(b.dir, 0))
	_, err := os.ReadDir(b.dir)
	require.NoError(t, os.Chmod(b.dir, 0o755))
	if err == nil {
		t.Skip("we can read everything")
	}
	_, load := b.loads()
	s := load(nil)
	for _, dir := range []string{b.path("x"), b.dir} {
		require.NoError(t, os.Chmod(dir, 0))
		s = load(s)
		require.NoError(t, os.Chmod(dir, 0o755))
		require.Equal(t, []string{"x"}, names(s))
		require.NotEmpty(t, s.Rejected)
		s = load(s)
		require.Empty(t, s.Rejected)
	}
	require.NoError(t, os.Chmod(b.dir, 0))
	s = b.load()
	require.NoError(t, os.Chmod(b.dir, 0o755))
	require.ErrorIs(t, s.Reason, fs.ErrPermission)
}
