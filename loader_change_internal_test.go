package podcni

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
		require.Equal(t, 1, strings.Count(err.Error(), "WithConfList"), err)
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
