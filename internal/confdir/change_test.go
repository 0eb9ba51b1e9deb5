package confdir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDefaultStaysWhileItsPluginIsAway(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b", "c")
	b.write("2.conf", list("x", "1.0.0", "a")).write("3.conf", list("y", "1.0.0", "b"))
	_, load := b.loads()
	s := load(nil)
	held := func() {
		t.Helper()
		require.Nil(t, s.Default)
		require.Equal(t, "x", s.DefaultName)
		require.Equal(t, []string{"y"}, names(s))
		require.ErrorContains(t, s.Reason, "the default network is not ready")
	}
	is := func(name string) {
		t.Helper()
		require.NoError(t, s.Reason)
		require.Equal(t, name, s.DefaultName)
		require.Equal(t, name, s.Default.List.Name)
	}
	is("x")
	for range 2 {
		require.NoError(t, os.Remove(filepath.Join(b.bin, "a")))
		s = load(s)
		held()
		require.ErrorIs(t, s.Reason, errPluginNotFound)
		b.write("2.conf", "{") // half written, and what it was is known
		s = load(s)
		held()
		b.write("2.conf", list("x", "1.0.0", "a"))
		b.set(nil, errors.New("crashed"))
		b.install("a", allVersions)
		s = load(s)
		held()
		require.ErrorContains(t, s.Reason, "crashed")

		// While the next one is asked it is held as well.
		hold := make(chan struct{})
		b.set(hold, nil)
		b.install("a", allVersions)
		d, fresh := b.loads()
		s = d.load(t.Context(), s)
		require.Nil(t, s.Default)
		require.Equal(t, "x", s.DefaultName)
		require.ErrorIs(t, s.Reason, errProbing)
		close(hold)
		b.set(nil, nil)
		s = fresh(s)
		is("x")
		load = fresh
	}
	// What is wrong with its plugin comes before what is wrong with its files.
	b.write("x/1.conf", `{"type":"a"}`)
	s = load(s)
	b.write("x/1.conf", "{").write("3.conf", list("x", "1.0.0", "b"))
	require.NoError(t, os.Remove(filepath.Join(b.bin, "a")))
	s = load(s)
	require.ErrorIs(t, s.Reason, errPluginNotFound)
	b.remove("x")
	b.plugin("a").write("3.conf", list("y", "1.0.0", "b"))
	s = load(s)
	is("x")

	// A configuration changes it, and nothing else does.
	require.NoError(t, os.Remove(filepath.Join(b.bin, "a")))
	s = load(s)
	b.write("1.conf", list("z", "1.0.0", "c"))
	s = load(s)
	is("z")
	b.remove("1.conf")
	s = load(s)
	is("y")
	b.plugin("a")
	s = load(s)
	is("x")
	require.NoError(t, os.Remove(filepath.Join(b.bin, "a")))
	s = load(s)
	held()
	b.remove("2.conf")
	s = load(s)
	is("y")
}

func TestLastGood(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b")
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", `{"name":"y"}`).write("y/1.conf", `{"type":"a"}`)
	_, load := b.loads()
	s := load(nil)
	x, y := s.Network("x"), s.Network("y")
	require.NotNil(t, x)
	require.NotNil(t, y)
	for _, broken := range []string{"", `{"name":"x","plugins":[{"ty`, `{"name":"../x"}`, strings.Repeat(" ", maxFile+1)} {
		b.write("1.conf", broken).write("y/1.conf", broken)
		s = load(s)
		require.Same(t, x, s.Network("x"))
		require.Same(t, y, s.Network("y"))
		require.Equal(t, []string{b.path("1.conf"), b.path("y/1.conf")}, []string{s.Rejected[0].Path, s.Rejected[1].Path})
	}
	// Another file may take the name if it comes first, and not otherwise.
	b.write("3.conf", list("x", "1.0.0", "b"))
	s = load(s)
	require.Same(t, x, s.Network("x"))
	b.write("0.conf", list("x", "1.0.0", "b"))
	s = load(s)
	require.Equal(t, b.path("0.conf"), s.Network("x").Path)
	b.remove("0.conf", "3.conf")
	b.write("1.conf", list("x", "1.0.0", "a")) // what it was
	s = load(s)
	require.True(t, x.same(s.Network("x")))
	require.Equal(t, []string{b.path("y/1.conf")}, []string{s.Rejected[0].Path})
	b.write("1.conf", "{")
	s = load(s)
	b.remove("1.conf", "y/1.conf")
	s = load(s)
	require.Empty(t, s.Networks)
	b.write("1.conf", "{") // nothing is left of what was removed
	require.Empty(t, load(s).Networks)
}

func TestWhatIsNoFileAnyMoreIsGone(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	_, load := b.loads()
	for what, replace := range map[string]func(path string) error{
		errIrregular.Error(): func(path string) error { return os.Symlink(os.DevNull, path) },
		errDirectory.Error(): func(path string) error { return os.Mkdir(path, 0o755) },
		errDangling.Error():  func(path string) error { return os.Symlink("nowhere", path) },
	} {
		b.remove("1.conf")
		b.write("1.conf", list("x", "1.0.0", "a"))
		s := load(nil)
		require.Equal(t, []string{"x"}, names(s))
		b.remove("1.conf")
		require.NoError(t, replace(b.path("1.conf")))
		s = load(s)
		require.Empty(t, s.Networks, what)
		require.Equal(t, []string{"1.conf"}, rejected(s))
		require.ErrorContains(t, s.Rejected[0].Err, what)
		require.ErrorContains(t, s.Reason, what)
	}
}

func TestUnchangedIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b")
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", list("y", "1.0.0", "b"))
	d, load := b.loads()
	s := load(nil)
	b.write("2.conf", list("y", "1.0.0", "b")) // the same again
	u := load(s)
	require.Same(t, s.Network("y"), u.Network("y"))
	require.True(t, s.same(u))
	b.write("2.conf", list("y", "0.4.0", "b"))
	u = load(s)
	require.Same(t, s.Network("x"), u.Network("x"))
	require.NotSame(t, s.Network("y"), u.Network("y"))
	require.False(t, s.same(u))
	require.Equal(t, []string{"a", "b"}, b.ran(), "each binary is asked once")
	b.write("3.conf", "{")
	v := load(u)
	require.False(t, u.same(v), "a file was rejected")
	b.write("3.conf", "[]")
	require.False(t, v.same(load(v)), "for another reason")

	// A file whose times are old enough is not read.
	f := d.loader.files[b.path("1.conf")]
	require.False(t, f.settled, "it has just been written")
	f.settled, f.good, f.hash = true, &source{name: "kept", plugins: f.good.plugins, onlyInlined: true}, [32]byte{}
	require.Equal(t, "kept", names(load(v))[0])
	b.write("1.conf", list("xx", "1.0.0", "a"))
	require.Equal(t, "xx", names(load(v))[0])

	now := time.Now()
	require.False(t, fileID{mtime: now.UnixNano()}.settled(now.Add(2*time.Second)))
	require.True(t, fileID{mtime: now.UnixNano()}.settled(now.Add(3*time.Second)))
	require.False(t, fileID{ctime: now.UnixNano()}.settled(now))
	require.False(t, fileID{mtime: now.Add(time.Hour).UnixNano()}.settled(now), "a clock that was set back")
}

func TestExchangedBinary(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", list("y", "1.1.0", "a"))
	d, load := b.loads()
	s := load(nil)
	require.Len(t, s.Networks, 2)
	x := s.Network("x")
	hold := make(chan struct{})
	b.set(hold, nil)
	b.install("a", "0.4.0 1.0.0")
	s = d.load(t.Context(), s)
	require.Equal(t, 2, s.pending)
	require.Same(t, x, s.Network("x"), "it is kept while its plugin is asked")
	require.NotNil(t, s.Network("y"))
	b.write("3.conf", list("z", "1.0.0", "a"))
	s = d.load(t.Context(), s)
	require.Equal(t, []string{"x", "y"}, names(s))
	require.ErrorIs(t, s.Rejected[0].Err, errProbing)
	fresh := d.load(t.Context(), nil)
	require.Empty(t, fresh.Networks)
	require.ErrorIs(t, fresh.Reason, errProbing)
	close(hold)
	s = load(s)
	require.Equal(t, []string{"x", "z"}, names(s))
	require.Same(t, x, s.Network("x"))
	require.ErrorIs(t, s.Rejected[0].Err, ErrVersion)
	require.Equal(t, []string{"a", "a"}, b.ran())

	// The version goes with the binary.
	b.write("3.conf", `{"name":"z","cniVersion":"0.4.0","cniVersions":["1.0.0"],"type":"a"}`)
	s = load(s)
	require.Equal(t, "1.0.0", s.Network("z").List.CNIVersion)
	b.install("a", "0.4.0")
	s = load(s)
	require.Equal(t, "0.4.0", s.Network("z").List.CNIVersion)
}

// TestLoadCosts says what a load does when one of fifty networks changes: no
// plugin is run, and nothing else is read or built.
func TestLoadCosts(t *testing.T) {
	t.Parallel()
	b, d, load := fifty(t)
	s := load(nil)
	require.Len(t, s.Networks, 50)
	for _, f := range d.loader.files { // as they are once they are two seconds old
		f.settled = true
	}
	ran := len(b.ran())
	require.Equal(t, 150, ran)
	b.write("net25.conflist", list("net25", "0.4.0", "p25a", "p25b", "p25c"))
	u := d.load(t.Context(), s)
	require.Len(t, b.ran(), ran)
	for i, n := range u.Networks {
		require.Equal(t, i != 25, n == s.Networks[i])
	}
	read := 0
	for _, f := range d.loader.files {
		if !f.settled {
			read++
		}
	}
	require.Equal(t, 1, read)
}

func fifty(t testing.TB) (*bench, *Dir, func(*Snapshot) *Snapshot) {
	b := newBench(t)
	for i := range 50 {
		types := []string{fmt.Sprintf("p%da", i), fmt.Sprintf("p%db", i), fmt.Sprintf("p%dc", i)}
		b.plugin(types...).write(fmt.Sprintf("net%02d.conflist", i), list(fmt.Sprintf("net%02d", i), "1.0.0", types...))
	}
	d, load := b.loads()
	return b, d, load
}

// BenchmarkChange changes one file of fifty networks of three plugins each.
func BenchmarkChange(b *testing.B) {
	bench, d, load := fifty(b)
	s := load(nil)
	for _, f := range d.loader.files {
		f.settled = true
	}
	d.watcher.open = openFsnotify
	d.loaded = s
	d.scan(b.Context())
	defer d.watcher.close()
	for i := 0; b.Loop(); i++ {
		bench.write("net25.conflist", list("net25", []string{"1.0.0", "0.4.0"}[i%2], "p25a", "p25b", "p25c"))
		d.scan(b.Context())
	}
	require.Len(b, d.Current().Networks, 50)
}
