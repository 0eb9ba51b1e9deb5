package podcni

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// textRunner finds plugins as ever, and runs them by reading their files: what
// is in one is what the plugin answers to VERSION.
type textRunner struct {
	binDirs []string

	mu   sync.Mutex
	runs []string      // the types that were run, in order
	hold chan struct{} // when not nil, runs wait until it is closed
	fail func(typ string) error
}

func (r *textRunner) find(typ string) (string, error) { return findPlugin(r.binDirs, typ) }

func (r *textRunner) environ(verb, _, _, _, _ string) []string {
	return []string{"CNI_COMMAND=" + verb}
}

func (r *textRunner) run(ctx context.Context, inv *invocation) (output, error) {
	r.mu.Lock()
	r.runs = append(r.runs, inv.plugin)
	hold, fail := r.hold, r.fail
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return output{exit: -1}, inv.fail(output{exit: -1}, ctx.Err())
		}
	}
	if fail != nil {
		if err := fail(inv.plugin); err != nil {
			return output{exit: 1}, inv.fail(output{exit: 1}, err)
		}
	}
	stdout, err := os.ReadFile(inv.path)
	if err != nil {
		return output{exit: -1}, inv.fail(output{exit: -1}, err)
	}
	return output{stdout: stdout}, nil
}

func (r *textRunner) ran() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.runs)
}

// bench is a loader with directories of its own.
type bench struct {
	t       *testing.T
	run     *textRunner
	probes  *prober
	l       *loader
	done    chan struct{}
	confDir string
	binDir  string
}

func newBench(t *testing.T, opts ...Option) *bench {
	t.Helper()
	base := t.TempDir()
	b := &bench{t: t, confDir: filepath.Join(base, "net.d"), binDir: filepath.Join(base, "bin"), done: make(chan struct{}, 1)}
	require.NoError(t, os.Mkdir(b.confDir, 0o755))
	require.NoError(t, os.Mkdir(b.binDir, 0o755))
	o, err := newOptions(append([]Option{WithConfDir(b.confDir), WithBinDirs(b.binDir)}, opts...))
	require.NoError(t, err)
	b.run = &textRunner{binDirs: o.binDirs}
	b.probes = newProber(context.Background(), b.run, o.log, func() {
		select {
		case b.done <- struct{}{}:
		default:
		}
	})
	t.Cleanup(b.probes.close)
	b.l, err = newLoader(o, b.probes)
	require.NoError(t, err)
	return b
}

const allVersions = `{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`

func (b *bench) plugin(types ...string) *bench {
	for _, typ := range types {
		b.install(typ, allVersions)
	}
	return b
}

// install exchanges a plugin as an installer does.
func (b *bench) install(typ, answer string) {
	b.t.Helper()
	temp := filepath.Join(filepath.Dir(b.binDir), "new")
	require.NoError(b.t, os.WriteFile(temp, []byte(answer), 0o755))
	require.NoError(b.t, os.Rename(temp, filepath.Join(b.binDir, typ)))
}

func (b *bench) path(name string) string { return filepath.Join(b.confDir, name) }

func (b *bench) write(name, content string) *bench {
	b.t.Helper()
	require.NoError(b.t, os.MkdirAll(filepath.Dir(b.path(name)), 0o755))
	require.NoError(b.t, os.WriteFile(b.path(name), []byte(content), 0o644))
	return b
}

func (b *bench) remove(name string) {
	b.t.Helper()
	require.NoError(b.t, os.RemoveAll(b.path(name)))
}

// load loads until no probe is due any more.
func (b *bench) load(prev *snapshot) *snapshot {
	b.t.Helper()
	for s := b.l.load(prev); ; s = b.l.load(s) {
		if s.pending == 0 {
			return s
		}
		select {
		case <-b.done:
		case <-time.After(time.Minute):
			require.FailNow(b.t, "probes do not end", "%v", s.rejected)
		}
	}
}

func list(name, version string, types ...string) string {
	var plugins []string
	for _, typ := range types {
		plugins = append(plugins, fmt.Sprintf(`{"type":%q}`, typ))
	}
	return fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[%s]}`, version, name, strings.Join(plugins, ","))
}

func names(s *snapshot) []string {
	all := []string{}
	for _, n := range s.networks {
		all = append(all, n.name)
	}
	return all
}

func rejectedPaths(s *snapshot) []string {
	all := []string{}
	for _, r := range s.rejected {
		all = append(all, filepath.Base(r.Path))
	}
	return all
}

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
		"a list in .conf, a plugin in .conflist": {
			files:    map[string]string{"1.conf": list("x", "1.0.0", "a", "b"), "2.conflist": `{"name":"y","type":"a"}`},
			networks: []string{"x 1.0.0 a,b 1.conf", "y 0.1.0 a 2.conflist"},
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
				"15.conf": `{"name":"x","plugins":[{"type":"a"}]} {}`,
				"16.conf": strings.Repeat(" ", maxConfSize) + list("x", "1.0.0", "a"),
				"17.conf": `{"name":"x","plugins":[{"type":""}]}`,
			},
			networks: []string{},
			rejected: []string{
				"01.conf", "02.conf", "03.conf", "04.conf", "05.conf", "06.conf", "07.conf", "08.conf", "09.conf", "10.conf",
				"11.conf", "12.conf", "13.conf", "14.conf", "15.conf", "16.conf", "17.conf",
			},
		},
		"versions": {
			files: map[string]string{
				"1.conf": `{"name":"highest","cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","9.9.9","x"],"plugins":[{"type":"a"}]}`,
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
				"5.conf": list("v.conf", "1.0.0", "a"), "v.conf/1.conf": `{`, "6.conf": list("u", "0.4.0", "a"), "u/1.conf": `{"type":"old"}`,
			},
			networks: []string{"y 1.0.0 b 2.conf", "z 1.0.0 a 3.conf", "w 0.4.0 a 4.conf", "u 0.4.0 a,old 6.conf"},
			rejected: []string{"1.conf", "1.conf"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t).plugin("a", "b", "no")
			b.install("old", `{"cniVersion":"0.4.0","supportedVersions":["0.1.0","0.3.1","0.4.0"]}`)
			for file, content := range test.files {
				b.write(file, content)
			}
			s := b.load(nil)
			got := []string{}
			for _, n := range s.list() {
				got = append(got, fmt.Sprintf("%s %s %s %s", n.Name, n.CNIVersion, strings.Join(n.Plugins, ","), filepath.Base(n.Path)))
			}
			require.Equal(t, test.networks, got, "rejected: %v", s.rejected)
			require.ElementsMatch(t, test.rejected, rejectedPaths(s))
			require.Equal(t, s.def == nil, s.reason != nil)
			for _, n := range s.networks {
				again, err := recordedNetwork(n.config)
				require.NoError(t, err)
				require.False(t, again.foldersOmitted)
				require.Equal(t, n.cniVersion, again.cniVersion)
				require.Len(t, again.plugins, len(n.plugins))
				for i := range n.plugins {
					require.Equal(t, string(n.plugins[i].head), string(again.plugins[i].head))
				}
			}
		})
	}
}

func TestLoadErrorsTellWhere(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.write("1.conf", "{\n  \"name\": \"é\", x\n}").write("2.conf", "{\n \"name\": 5}").write("3.conf", list("x", "1.0.0", "absent"))
	b.write("4.conf", list("y", "1.1.0", "a", "old"))
	b.install("old", `{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}`)
	s := b.load(nil)
	require.Len(t, s.rejected, 4)
	require.ErrorIs(t, s.rejected[0].Err, ErrInvalidConfig)
	require.ErrorContains(t, s.rejected[0].Err, "line 2, column 16:")
	require.ErrorContains(t, s.rejected[1].Err, "line 2, column 10:")
	require.ErrorIs(t, s.rejected[2].Err, ErrPluginNotFound)
	require.ErrorContains(t, s.rejected[2].Err, b.binDir)
	require.Equal(t, "x", s.rejected[2].Network)
	require.ErrorIs(t, s.rejected[3].Err, ErrVersion)
	require.ErrorContains(t, s.rejected[3].Err, "0.3.1, 0.4.0")
	var first *ConfigError
	require.ErrorAs(t, s.reason, &first)
	require.Equal(t, b.path("1.conf"), first.Path)
	require.ErrorContains(t, s.reason, "and 1 more")
}

func TestReasons(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	require.ErrorContains(t, b.load(nil).reason, b.confDir)
	require.NoError(t, os.Remove(b.confDir))
	require.ErrorIs(t, b.load(nil).reason, os.ErrNotExist)
	require.NoError(t, os.WriteFile(b.confDir, nil, 0o644))
	require.ErrorIs(t, b.load(nil).reason, syscall.ENOTDIR)

	b = newBench(t, WithDefaultNetwork("want")).plugin("a")
	require.ErrorIs(t, b.load(nil).reason, ErrNetworkNotFound)
	b.write("1.conf", list("one", "1.0.0", "a")).write("2.conf", list("two", "1.0.0", "a"))
	s := b.load(nil)
	require.Nil(t, s.def)
	require.ErrorIs(t, s.reason, ErrNetworkNotFound)
	require.ErrorContains(t, s.reason, "one, two")
	b.write("3.conf", list("want", "1.0.0", "absent"))
	require.ErrorIs(t, b.load(nil).reason, ErrPluginNotFound)
	b.plugin("absent")
	s = b.load(s)
	require.NoError(t, s.reason)
	require.Equal(t, "want", s.def.name)
	require.Equal(t, []bool{false, false, true}, []bool{s.list()[0].Default, s.list()[1].Default, s.list()[2].Default})
}
