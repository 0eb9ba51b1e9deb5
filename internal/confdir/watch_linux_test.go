package confdir

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/testutils"
)

// watched opens a Dir that watches b.dir.
func (b *bench) watched() *Dir {
	b.t.Helper()
	b.o.Watch = true
	return b.open()
}

func becomes(t *testing.T, d *Dir, want string) {
	t.Helper()
	settlesOn(t, d, func() string { return want })
}

func settlesOn(t *testing.T, d *Dir, want func() string) {
	t.Helper()
	updates := d.Subscribe(t.Context())
	limit := time.After(patience)
	for state(d.Current()) != want() {
		select {
		case <-updates:
		case <-limit:
			require.Equal(t, want(), state(d.Current()), "rejected: %v", d.Current().Rejected)
			return
		}
	}
}

// point makes link lead to target in one step, as it is done for ConfigMaps.
func point(t *testing.T, link, target string) {
	t.Helper()
	require.NoError(t, os.Symlink(target, link+".new"))
	rename(t, link+".new", link)
}

func TestWatchDirectoryThatIsMissingAtStart(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	top := filepath.Dir(b.dir)
	b.dir = filepath.Join(top, "etc", "cni", "net.d")
	b.o.Dir = b.dir
	d := b.watched()
	require.NoDirExists(t, filepath.Join(top, "etc"), "made by us")
	mkdir(t, b.dir)
	b.network("a.conf", "1")
	becomes(t, d, "a=1")
}

func TestWatchDirectoryThatIsRemovedAndMadeAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	d := b.watched()
	for i := range 5 {
		b.network("a.conf", fmt.Sprint(i))
		becomes(t, d, fmt.Sprintf("a=%d", i))
		require.NoError(t, os.RemoveAll(b.dir))
		if i%2 == 0 { // else it is back before anyone has seen it go
			becomes(t, d, "")
		}
		mkdir(t, b.dir)
	}
}

func TestWatchDirectoryThatIsRenamedAwayAndBack(t *testing.T) {
	t.Parallel()
	for _, level := range []string{".", ".."} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			b := newBench(t).plugin("a")
			top := filepath.Dir(b.dir)
			b.dir = filepath.Join(top, "cni", "net.d")
			b.o.Dir = b.dir
			mkdir(t, b.dir)
			moved, elsewhere := filepath.Join(b.dir, level), filepath.Join(top, "elsewhere")
			d := b.watched()
			b.network("a.conf", "1")
			becomes(t, d, "a=1")
			rename(t, moved, elsewhere)
			becomes(t, d, "")
			rename(t, elsewhere, moved)
			becomes(t, d, "a=1")
			b.network("a.conf", "2")
			becomes(t, d, "a=2")

			// Another takes its place at once.
			rename(t, moved, elsewhere)
			mkdir(t, b.dir)
			b.network("b.conf", "3")
			becomes(t, d, "b=3")
			b.network("b.conf", "4")
			becomes(t, d, "b=4")
		})
	}
}

func TestWatchSymlinkSwapAtAnyLevel(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	for _, v := range []string{"v1", "v2", "v3"} {
		mkdir(t, filepath.Join(top, "store", v, "cni", "net.d"))
		writeNetwork(t, filepath.Join(top, "store", v, "cni", "net.d", "a.conf"), v)
	}
	for name, links := range map[string]struct{ link, below, target string }{
		"the directory":       {"net.d", "", "store/%s/cni/net.d"},
		"its parent":          {"cni", "net.d", "store/%s/cni"},
		"further up":          {"etc", "cni/net.d", "store/%s"},
		"an absolute one":     {"net.d", "", top + "/store/%s/cni/net.d"},
		"through ..":          {"net.d", "", "store/../store/%s/../%[1]s/cni/net.d"},
		"with slashes and ./": {"net.d", "", ".//./store/%s//cni/./net.d/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// All links lead into the same store, from a directory of their own.
			own := t.TempDir()
			require.NoError(t, os.Symlink(filepath.Join(top, "store"), filepath.Join(own, "store")))
			b := newBench(t).plugin("a")
			b.o.Dir = filepath.Join(own, links.link, links.below)
			d := b.watched() // to nothing at first
			for _, v := range []string{"v1", "v2", "v3", "none", "v1"} {
				point(t, filepath.Join(own, links.link), fmt.Sprintf(links.target, v))
				becomes(t, d, map[bool]string{false: "a=" + v}[v == "none"])
			}
		})
	}
}

func TestWatchThroughAChainOfSymlinks(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	b := newBench(t).plugin("a")
	at := func(name string) string { return filepath.Join(top, name) }
	for i := range 5 {
		require.NoError(t, os.Symlink(fmt.Sprintf("link%d", i), at(fmt.Sprintf("link%d", i+1))))
	}
	require.NoError(t, os.Symlink("link5", at("net.d")))
	b.o.Dir = at("net.d")
	d := b.watched()
	mkdir(t, at("dir1"))
	mkdir(t, at("dir2"))
	writeNetwork(t, at("dir1/a.conf"), "1")
	require.NoError(t, os.Symlink("dir1", at("link0")))
	becomes(t, d, "a=1")
	point(t, at("link3"), "dir2")
	becomes(t, d, "")
	writeNetwork(t, at("dir2/b.conf"), "2")
	becomes(t, d, "b=2")
	point(t, at("link2"), "link5") // round in a circle, harmlessly
	point(t, at("link3"), "link2")
	becomes(t, d, "")
	point(t, at("link3"), "dir1")
	becomes(t, d, "a=1")
}

func TestWatchFilesThatAreSymlinks(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	update := func(version, text string) { // as a ConfigMap's mount
		dir := "..2026_" + version
		mkdir(t, b.path(dir))
		b.network(dir+"/a.conf", text)
		point(t, b.path("..data"), dir)
	}
	update("01", "1")
	require.NoError(t, os.Symlink("..data/a.conf", b.path("a.conf")))
	d := b.watched()
	becomes(t, d, "a=1")
	update("02", "2")
	becomes(t, d, "a=2")
	b.remove("..2026_01")
	update("03", "3")
	becomes(t, d, "a=3")

	// Out of the directory.
	require.NoError(t, os.Symlink("../away/b.conf", b.path("b.conf")))
	away := filepath.Join(b.dir, "..", "away")
	mkdir(t, away)
	writeNetwork(t, filepath.Join(away, "b.conf"), "4")
	becomes(t, d, "a=3 b=4")
	writeNetwork(t, filepath.Join(away, "b.conf"), "5")
	becomes(t, d, "a=3 b=5")
	point(t, b.path("b.conf"), os.DevNull) // masked
	becomes(t, d, "a=3")
}

func TestWatchFiles(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	d := b.watched()
	away := filepath.Join(b.dir, "..", "x.conf")
	writeNetwork(t, away, "1")
	rename(t, away, b.path("x.conf"))
	becomes(t, d, "x=1")
	b.network("foreign", "2")
	rename(t, b.path("foreign"), b.path("x.conf"))
	becomes(t, d, "foreign=2")
	writeNetwork(t, away, "3")
	require.NoError(t, os.Link(away, b.path("y.conf")))
	becomes(t, d, "foreign=2 x=3")
	rename(t, b.path("x.conf"), b.path("off"))
	b.remove("y.conf")
	becomes(t, d, "")

	// In many small writes, and it is still open.
	f, err := os.Create(b.path("a.conf"))
	require.NoError(t, err)
	defer f.Close()
	text := strings.Repeat("x", 2000)
	for _, c := range `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"a","text":"` + text + `"}]}` {
		_, err := f.WriteString(string(c))
		require.NoError(t, err)
	}
	becomes(t, d, "a="+text)

	// The network's folder.
	b.network("a.conf", "1")
	becomes(t, d, "a=1")
	b.write("a/x.conf", `{"type":"a","text":"+2"}`)
	becomes(t, d, "a=1+2")
	b.write("a/x.conf", `{"type":"a","text":"+3"}`)
	becomes(t, d, "a=1+3")
	b.remove("a")
	becomes(t, d, "a=1")
}

func TestWatchBinDirectory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	top := filepath.Dir(b.dir)
	b.bin = filepath.Join(top, "opt", "cni", "bin")
	b.o.BinDirs = []string{b.bin}
	b.network("1.conf", "")
	b.write("2.conf", list("x", "1.0.0", "linked"))
	d := b.watched()
	require.Empty(t, d.Current().Networks)
	mkdir(t, b.bin)
	b.plugin("a")
	becomes(t, d, "1=")

	// A plugin that is a symlink into a directory of versions.
	at := func(name string) string { return filepath.Join(top, name) }
	mkdir(t, at("v2"))
	mkdir(t, at("v3"))
	require.NoError(t, os.Symlink("../../../current/plugin", filepath.Join(b.bin, "linked")))
	require.NoError(t, os.Symlink("v2", at("current")))
	write(t, at("v2/plugin"), "1.0.0")
	write(t, at("v3/plugin"), "0.4.0")
	becomes(t, d, "1= x=")
	point(t, at("current"), "v3")
	becomes(t, d, "1=")
	require.NoError(t, os.Remove(filepath.Join(b.bin, "a")))
	becomes(t, d, "")
	require.Equal(t, "1", d.Current().DefaultName)
}

func TestWatchEndsWithFewDirectories(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range maxWatched {
		dir := b.path(fmt.Sprintf("d%d", i))
		mkdir(t, dir)
		require.NoError(t, os.Symlink(filepath.Join(dir, "there.conf"), b.path(fmt.Sprintf("%d.conf", i))))
	}
	set := newWatchSet([]string{b.dir})
	require.True(t, set.full)
	require.Len(t, set.dirs, maxWatched)
}

// A random sequence of changes at every level of the path must end in what a
// new look finds, whatever was missed in between.
func TestWatchSettlesOnWhatIsThere(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 4))
			b := newBench(t).plugin("a", "b")
			top := b.dir
			b.o.Dir = filepath.Join(top, "a", "b", "c")
			d := b.watched()
			pick := func(of ...string) string { return filepath.Join(top, of[random.IntN(len(of))]) }
			dirs := []string{"a", "a/b", "a/b/c", "x", "x/b", "x/b/c", "y", "y/c", "z", "a/b/c/n", "x/b/c/n"}
			files := []string{"1.conf", "2.conf", "3.conf"}
			for round := range 8 {
				for range random.IntN(12) {
					// Whatever cannot be done now is not done.
					switch at := pick(dirs...); random.IntN(9) {
					case 0:
						_ = os.RemoveAll(at)
					case 1:
						_ = os.Rename(at, pick(dirs...))
					case 2:
						_ = os.Symlink(pick(dirs...), at)
					case 3:
						_ = os.Symlink(pick("a/b/c/1.conf", "x/b/c/1.conf", "z/1.conf"), filepath.Join(at, "2.conf"))
					case 4:
						b.install(fmt.Sprint(string('a'+rune(random.IntN(2)))), []string{allVersions, "0.4.0"}[random.IntN(2)])
					default:
						_ = os.MkdirAll(at, 0o755)
						file := filepath.Join(at, files[random.IntN(3)])
						_ = os.WriteFile(file, fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"%s","plugins":[{"type":"%s","text":"%d.%d"}]}`,
							[]string{"n", "m"}[random.IntN(2)], []string{"a", "b"}[random.IntN(2)], round, random.IntN(100)), 0o644)
					}
				}
				settlesOn(t, d, func() string { return state(b.load()) })
			}
		})
	}
}

// limitInotify sets what users of this user namespace may have, until lift is
// called or the test ends. The namespace may be that of other tests too: the test
// must not be parallel.
func limitInotify(t *testing.T, what, limit string) (lift func()) {
	t.Helper()
	file := "/proc/sys/user/max_inotify_" + what
	before, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(limit), 0o600)
	}
	if err != nil {
		t.Skipf("inotify cannot be limited here: %v", err)
	}
	lift = func() { require.NoError(t, os.WriteFile(file, before, 0o600)) }
	t.Cleanup(lift)
	return lift
}

func TestWatchWithoutInotify(t *testing.T) {
	for _, limit := range []struct{ of, to string }{{"instances", "0"}, {"watches", "1"}} {
		t.Run(limit.of, func(t *testing.T) {
			testutils.Sandbox(t, func(t *testing.T) { // whose user namespace has limits of its own
				lift := limitInotify(t, limit.of, limit.to)
				b := newBench(t).plugin("a")
				d := b.watched()
				require.Len(t, b.logs.lines("polling"), 1)
				lift()
				require.NoError(t, d.Reload(t.Context())) // or the next poll
				require.Len(t, b.logs.lines("again"), 1)
				b.network("a.conf", "1")
				becomes(t, d, "a=1")
			})
		})
	}
}

// The kernel has one watch for a directory under all its paths.
func TestWatchDirectoryUnderTwoPaths(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		b := newBench(t)
		require.NoError(t, unix.Mount(b.dir, b.bin, "", unix.MS_BIND, ""))
		defer func() { require.NoError(t, unix.Unmount(b.bin, 0)) }()
		d := b.watched()
		b.network("1.conf", "x")
		write(t, filepath.Join(b.bin, "a"), allVersions)
		becomes(t, d, "1=x")
		rename(t, b.dir, b.dir+".old") // its mount point stays
		becomes(t, d, "")
		rename(t, b.dir+".old", b.dir)
		becomes(t, d, "1=x")
		require.NoError(t, os.Remove(filepath.Join(b.bin, "a")))
		becomes(t, d, "")
	})
}
