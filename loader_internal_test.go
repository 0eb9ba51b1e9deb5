package podcni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	require.ErrorIs(t, b.load(nil).reason, os.ErrNotExist)

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

func TestLastGood(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b")
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", `{"name":"y"}`).write("y/1.conf", `{"type":"a"}`)
	s := b.load(nil)
	x, y := s.byName["x"], s.byName["y"]
	require.NotNil(t, x)
	require.NotNil(t, y)

	for _, broken := range []string{"", `{"name":"x","plugins":[{"ty`, `{"name":"../x"}`, strings.Repeat(" ", maxConfSize+1)} {
		b.write("1.conf", broken).write("y/1.conf", broken)
		s = b.load(s)
		require.Same(t, x, s.byName["x"])
		require.Same(t, y, s.byName["y"])
		require.Equal(t, []string{b.path("1.conf"), b.path("y/1.conf")}, []string{s.rejected[0].Path, s.rejected[1].Path})
	}

	// Another file may take the name if it comes first, and not otherwise.
	b.write("3.conf", list("x", "1.0.0", "b"))
	s = b.load(s)
	require.Same(t, x, s.byName["x"])
	b.write("0.conf", list("x", "1.0.0", "b"))
	s = b.load(s)
	require.Equal(t, b.path("0.conf"), s.byName["x"].path)
	b.remove("0.conf")
	b.remove("3.conf")

	b.write("1.conf", list("x", "1.0.0", "a")) // what it was
	s = b.load(s)
	require.True(t, x.same(s.byName["x"]))
	require.Equal(t, []string{b.path("y/1.conf")}, []string{s.rejected[0].Path})
	b.write("1.conf", "{")
	s = b.load(s)
	b.remove("1.conf")
	b.remove("y/1.conf")
	s = b.load(s)
	require.Empty(t, s.networks)
	b.write("1.conf", "{") // nothing is left of what was removed
	require.Empty(t, b.load(s).networks)
}

func TestUnchangedIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b")
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", list("y", "1.0.0", "b"))
	s := b.load(nil)
	require.True(t, s.same(s))
	b.write("2.conf", list("y", "1.0.0", "b")) // the same again
	u := b.load(s)
	require.Same(t, s.byName["y"], u.byName["y"])
	require.True(t, s.same(u))
	require.True(t, s.same(b.load(nil)))

	b.write("2.conf", list("y", "0.4.0", "b"))
	u = b.load(s)
	require.Same(t, s.byName["x"], u.byName["x"])
	require.NotSame(t, s.byName["y"], u.byName["y"])
	require.False(t, s.same(u))
	require.ElementsMatch(t, []string{"a", "b"}, b.run.ran(), "each binary is asked once")

	b.write("3.conf", "{")
	v := b.load(u)
	require.False(t, u.same(v), "a file was rejected")
	b.write("3.conf", "[]")
	require.False(t, v.same(b.load(v)), "for another reason")

	old := filepath.Join(t.TempDir(), "bin")
	require.NoError(t, os.Rename(b.binDir, old))
	require.NoError(t, os.Symlink(old, b.binDir))
	require.True(t, v.same(v))
}

func TestSettledFileIsNotRead(t *testing.T) {
	t.Parallel()
	parsed := 0
	cache := newFileCache(func(doc []byte) (string, error) { parsed++; return string(doc), nil })
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("one"), 0o644))
	st, err := statFile(path)
	require.NoError(t, err)
	_, _, err = cache.read(path, st)
	require.NoError(t, err)
	require.False(t, cache.entries[path].settled, "it has just been written")
	cache.entries[path].settled = true
	require.NoError(t, os.Remove(path))
	good, ok, err := cache.read(path, st)
	require.NoError(t, err, "it was read although nothing had changed")
	require.True(t, ok)
	require.Equal(t, "one", good)
	require.Equal(t, 1, parsed)
	require.NoError(t, os.WriteFile(path, []byte("two"), 0o644))
	st.id.ctime++
	good, _, err = cache.read(path, st)
	require.NoError(t, err)
	require.Equal(t, "two", good)

	now := time.Now()
	require.False(t, fileID{mtime: now.UnixNano()}.settled(now.Add(2*time.Second)))
	require.True(t, fileID{mtime: now.UnixNano()}.settled(now.Add(3*time.Second)))
	require.False(t, fileID{mtime: 0, ctime: now.UnixNano()}.settled(now))
	require.False(t, fileID{mtime: now.Add(time.Hour).UnixNano()}.settled(now), "a clock that was set back")
}

func TestConfListOption(t *testing.T) {
	t.Parallel()
	b := newBench(t, WithConfList([]byte(list("mem", "1.0.0", "a"))), WithConfList([]byte(`{"name":"x","type":"a"}`))).plugin("a")
	b.write("0.conf", list("x", "1.0.0", "a")).write("mem/1.conf", `{"type":"a"}`)
	s := b.load(nil)
	require.Equal(t, []string{"mem", "x"}, names(s))
	require.Equal(t, "WithConfList[0]", s.networks[0].path)
	require.Len(t, s.networks[0].plugins, 1, "it has no folder")
	require.Equal(t, []string{"0.conf"}, rejectedPaths(s))
	require.NoError(t, os.RemoveAll(b.confDir))
	require.Equal(t, []string{"mem", "x"}, names(b.load(s)))

	for _, bad := range []string{"", "{", `{"name":"x"}`, `{"name":"x","plugins":[]}`} {
		o, err := newOptions([]Option{WithConfList([]byte(list("ok", "1.0.0", "a"))), WithConfList([]byte(bad))})
		require.NoError(t, err)
		_, err = newLoader(o, b.probes)
		require.ErrorIs(t, err, ErrInvalidOption)
		require.ErrorIs(t, err, ErrInvalidConfig)
		var field *FieldError
		require.ErrorAs(t, err, &field)
		require.Equal(t, "WithConfList[1]", field.Field)
		var conf *ConfigError
		require.ErrorAs(t, err, &conf)
	}
}

func TestExchangedBinary(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", list("y", "1.1.0", "a"))
	s := b.load(nil)
	require.Len(t, s.networks, 2)
	x := s.byName["x"]

	hold := make(chan struct{})
	b.run.mu.Lock()
	b.run.hold = hold
	b.run.mu.Unlock()
	b.install("a", `{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}`)
	s = b.l.load(s)
	require.Equal(t, 2, s.pending)
	require.Same(t, x, s.byName["x"], "it is kept while its plugin is asked")
	require.NotNil(t, s.byName["y"])
	b.write("3.conf", list("z", "1.0.0", "a"))
	s = b.l.load(s)
	require.Equal(t, []string{"x", "y"}, names(s))
	require.ErrorIs(t, s.rejected[0].Err, errProbing)
	fresh := b.l.load(nil)
	require.Empty(t, fresh.networks)
	require.ErrorIs(t, fresh.reason, errProbing)

	close(hold)
	s = b.load(s)
	require.Equal(t, []string{"x", "z"}, names(s))
	require.Same(t, x, s.byName["x"])
	require.ErrorIs(t, s.rejected[0].Err, ErrVersion)
	require.Equal(t, []string{"a", "a"}, b.run.ran())

	require.NoError(t, os.Remove(filepath.Join(b.binDir, "a")))
	s = b.load(s)
	require.Empty(t, s.networks)
	require.ErrorIs(t, s.reason, ErrPluginNotFound)
	b.plugin("a")
	require.Len(t, b.load(s).networks, 3)
}

func TestFailedProbeRejectsItsNetworkAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b")
	b.run.fail = func(typ string) error {
		if typ == "a" {
			return errors.New("crashed")
		}
		return nil
	}
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", list("y", "1.0.0", "b"))
	s := b.load(nil)
	require.Equal(t, []string{"y"}, names(s))
	var failed *PluginError
	require.ErrorAs(t, s.rejected[0].Err, &failed)
	require.Equal(t, verbVersion, failed.Verb)
	for range 5 {
		b.write("2.conf", list("y", "0.4.0", "b"))
		s = b.load(s)
		b.write("2.conf", list("y", "1.0.0", "b"))
		s = b.load(s)
	}
	require.ElementsMatch(t, []string{"a", "b"}, b.run.ran(), "not again for every change of a file")
}

func TestWatchDirs(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	elsewhere := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(elsewhere, "x"), []byte(list("linked", "1.0.0", "a")), 0o644))
	if err := os.Symlink(filepath.Join(elsewhere, "x"), b.path("3.conf")); err != nil {
		t.Skip("no symlinks here: ", err)
	}
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", `{"name":"y"}`)
	b.write("4.conf", `{"name":"z","loadOnlyInlinedPlugins":"TRUE","plugins":[{"type":"a"}]}`)
	s := b.load(nil)
	require.Equal(t, []string{"x", "linked", "z"}, names(s))
	elsewhere, err := filepath.EvalSymlinks(elsewhere)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{b.confDir, b.path("x"), b.path("y"), b.path("linked"), b.binDir, elsewhere}, b.l.watchDirs(s))
}
