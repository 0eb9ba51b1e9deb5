package podcni

import (
	"fmt"
	"log/slog"
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

// becomes waits until the published networks are these: files and their
// content in turn.
func (r *running) becomes(t *testing.T, files ...string) {
	t.Helper()
	var want strings.Builder
	for i := 0; i < len(files); i += 2 {
		fmt.Fprintf(&want, "%s: %s\n", files[i], files[i+1])
	}
	r.settlesOn(t, func() string { return want.String() })
}

func (r *running) settlesOn(t *testing.T, want func() string) {
	t.Helper()
	updates := r.subs.add(t.Context())
	limit := time.After(patience)
	for content(r.snap.Load()) != want() {
		select {
		case <-updates:
		case <-limit:
			require.Equal(t, want(), content(r.snap.Load()), "log:\n%s", strings.Join(r.logs.lines(slog.LevelDebug), ""))
			return
		}
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(path, 0o700))
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.Rename(from, to))
}

// point makes link lead to target in one step, as it is done for ConfigMaps.
func point(t *testing.T, link, target string) {
	t.Helper()
	require.NoError(t, os.Symlink(target, link+".new"))
	rename(t, link+".new", link)
}

func TestWatchDirectoryThatIsMissingAtStart(t *testing.T) {
	t.Parallel()
	top := realDir(t)
	conf := filepath.Join(top, "etc", "cni", "net.d")
	r := newRunning(t, conf).begin()
	require.NoDirExists(t, filepath.Join(top, "etc"), "made by us")
	mkdir(t, conf)
	write(t, filepath.Join(conf, "a.conf"), "1")
	r.becomes(t, "a.conf", "1")
}

func TestWatchDirectoryThatIsRemovedAndMadeAgain(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(realDir(t), "net.d")
	mkdir(t, conf)
	r := newRunning(t, conf).begin()
	for i := range 5 {
		write(t, filepath.Join(conf, "a.conf"), fmt.Sprint(i))
		r.becomes(t, "a.conf", fmt.Sprint(i))
		require.NoError(t, os.RemoveAll(conf))
		if i%2 == 0 { // else it is back before anyone has seen it go
			r.becomes(t)
		}
		mkdir(t, conf)
	}
}

func TestWatchDirectoryThatIsRenamedAwayAndBack(t *testing.T) {
	t.Parallel()
	for _, level := range []string{".", ".."} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			top := realDir(t)
			conf := filepath.Join(top, "cni", "net.d")
			mkdir(t, conf)
			moved := filepath.Join(conf, level)
			r := newRunning(t, conf).begin()
			write(t, filepath.Join(conf, "a.conf"), "1")
			r.becomes(t, "a.conf", "1")
			rename(t, moved, filepath.Join(top, "elsewhere"))
			r.becomes(t)
			rename(t, filepath.Join(top, "elsewhere"), moved)
			r.becomes(t, "a.conf", "1")
			write(t, filepath.Join(conf, "a.conf"), "2")
			r.becomes(t, "a.conf", "2")

			// Another takes its place at once.
			rename(t, moved, filepath.Join(top, "elsewhere"))
			mkdir(t, conf)
			write(t, filepath.Join(conf, "b.conf"), "3")
			r.becomes(t, "b.conf", "3")
			write(t, filepath.Join(conf, "b.conf"), "4")
			r.becomes(t, "b.conf", "4")
		})
	}
}

func TestWatchSymlinkSwapAtAnyLevel(t *testing.T) {
	t.Parallel()
	top := realDir(t)
	for _, v := range []string{"v1", "v2", "v3"} {
		mkdir(t, filepath.Join(top, "store", v, "cni", "net.d"))
		write(t, filepath.Join(top, "store", v, "cni", "net.d", "a.conf"), v)
	}
	for name, links := range map[string]struct{ link, target string }{
		"the directory":       {"net.d", "store/%s/cni/net.d"},
		"its parent":          {"cni", "store/%s/cni"},
		"further up":          {"etc", "store/%s"},
		"an absolute one":     {"net.d", top + "/store/%s/cni/net.d"},
		"through ..":          {"net.d", "store/../store/%s/../%[1]s/cni/net.d"},
		"with slashes and ./": {"net.d", ".//./store/%s//cni/./net.d/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// All links lead into the same store, from a directory of their own.
			own := realDir(t)
			require.NoError(t, os.Symlink(filepath.Join(top, "store"), filepath.Join(own, "store")))
			conf := filepath.Join(own, map[string]string{"net.d": "net.d", "cni": "cni/net.d", "etc": "etc/cni/net.d"}[links.link])
			r := newRunning(t, conf).begin() // to nothing at first
			for _, v := range []string{"v1", "v2", "v3", "none", "v1"} {
				point(t, filepath.Join(own, links.link), fmt.Sprintf(links.target, v))
				if v == "none" {
					r.becomes(t)
				} else {
					r.becomes(t, "a.conf", v)
				}
			}
		})
	}
}

func TestWatchThroughAChainOfSymlinks(t *testing.T) {
	t.Parallel()
	top := realDir(t)
	conf := filepath.Join(top, "net.d")
	for i := range 5 {
		require.NoError(t, os.Symlink(fmt.Sprintf("link%d", i), filepath.Join(top, fmt.Sprintf("link%d", i+1))))
	}
	require.NoError(t, os.Symlink("link5", conf))
	r := newRunning(t, conf).begin()
	mkdir(t, filepath.Join(top, "dir1"))
	mkdir(t, filepath.Join(top, "dir2"))
	write(t, filepath.Join(top, "dir1", "a.conf"), "1")
	require.NoError(t, os.Symlink("dir1", filepath.Join(top, "link0")))
	r.becomes(t, "a.conf", "1")
	point(t, filepath.Join(top, "link3"), "dir2")
	r.becomes(t)
	write(t, filepath.Join(top, "dir2", "b.conf"), "2")
	r.becomes(t, "b.conf", "2")
	point(t, filepath.Join(top, "link2"), "link5") // round in a circle, harmlessly
	point(t, filepath.Join(top, "link3"), "link2")
	r.becomes(t)
	point(t, filepath.Join(top, "link3"), "dir1")
	r.becomes(t, "a.conf", "1")
}

func TestWatchMountedConfigMap(t *testing.T) {
	t.Parallel()
	conf := realDir(t)
	update := func(version, text string) {
		dir := "..2026_" + version
		mkdir(t, filepath.Join(conf, dir))
		write(t, filepath.Join(conf, dir, "a.conf"), text)
		point(t, filepath.Join(conf, "..data"), dir)
	}
	update("01", "1")
	require.NoError(t, os.Symlink("..data/a.conf", filepath.Join(conf, "a.conf")))
	r := newRunning(t, conf).begin()
	r.becomes(t, "a.conf", "1")
	update("02", "2")
	r.becomes(t, "a.conf", "2")
	require.NoError(t, os.RemoveAll(filepath.Join(conf, "..2026_01")))
	update("03", "3")
	r.becomes(t, "a.conf", "3")
}

func TestWatchFileThatIsASymlinkOutOfTheDirectory(t *testing.T) {
	t.Parallel()
	top := realDir(t)
	conf := filepath.Join(top, "net.d")
	mkdir(t, conf)
	r := newRunning(t, conf).begin()
	require.NoError(t, os.Symlink("../away/a.conf", filepath.Join(conf, "a.conf")))
	mkdir(t, filepath.Join(top, "away"))
	write(t, filepath.Join(top, "away", "a.conf"), "1")
	r.becomes(t, "a.conf", "1")
	write(t, filepath.Join(top, "away", "a.conf"), "2")
	r.becomes(t, "a.conf", "2")
}

func TestWatchFileWrittenInManySmallWrites(t *testing.T) {
	t.Parallel()
	conf := realDir(t)
	r := newRunning(t, conf).begin()
	f, err := os.Create(filepath.Join(conf, "a.conf"))
	require.NoError(t, err)
	defer f.Close()
	for range 2000 {
		_, err := f.WriteString("x")
		require.NoError(t, err)
	}
	r.becomes(t, "a.conf", strings.Repeat("x", 2000)) // and it is still open
}

func TestWatchFileThatIsRenamedInOrLinked(t *testing.T) {
	t.Parallel()
	top := realDir(t)
	conf := filepath.Join(top, "net.d")
	mkdir(t, conf)
	r := newRunning(t, conf).begin()
	away := filepath.Join(top, "away")
	write(t, away, "1")
	rename(t, away, filepath.Join(conf, "a.conf"))
	r.becomes(t, "a.conf", "1")
	write(t, filepath.Join(conf, "foreign"), "2")
	rename(t, filepath.Join(conf, "foreign"), filepath.Join(conf, "a.conf"))
	r.becomes(t, "a.conf", "2")
	write(t, away, "3")
	require.NoError(t, os.Link(away, filepath.Join(conf, "b.conf")))
	r.becomes(t, "a.conf", "2", "b.conf", "3")
	rename(t, filepath.Join(conf, "a.conf"), filepath.Join(conf, "off"))
	require.NoError(t, os.Remove(filepath.Join(conf, "b.conf")))
	r.becomes(t)
}

func TestWatchNetworksFolder(t *testing.T) {
	t.Parallel()
	conf := realDir(t)
	r := newRunning(t, conf).begin()
	write(t, filepath.Join(conf, "a.conf"), "1")
	r.becomes(t, "a.conf", "1")
	mkdir(t, filepath.Join(conf, "a"))
	write(t, filepath.Join(conf, "a", "x.conf"), "+2")
	r.becomes(t, "a.conf", "1+2")
	write(t, filepath.Join(conf, "a", "x.conf"), "+3")
	r.becomes(t, "a.conf", "1+3")
	require.NoError(t, os.RemoveAll(filepath.Join(conf, "a")))
	r.becomes(t, "a.conf", "1")
}

func TestWatchBinDirectoryThatAppearsLater(t *testing.T) {
	t.Parallel()
	top := realDir(t)
	bin := filepath.Join(top, "opt", "cni", "bin")
	r := newRunning(t, filepath.Join(top, "net.d"), bin).begin()
	mkdir(t, bin)
	r.becomes(t, "bin", "")
	write(t, filepath.Join(bin, "bridge"), "1")
	r.becomes(t, "bin", "bridge=1;")

	// A plugin that is a symlink into a directory of versions.
	mkdir(t, filepath.Join(top, "v2"))
	require.NoError(t, os.Symlink("../../../current/tuning", filepath.Join(bin, "tuning")))
	require.NoError(t, os.Symlink("v2", filepath.Join(top, "current")))
	write(t, filepath.Join(top, "v2", "tuning"), "2")
	r.becomes(t, "bin", "bridge=1;tuning=2;")
	mkdir(t, filepath.Join(top, "v3"))
	write(t, filepath.Join(top, "v3", "tuning"), "3")
	point(t, filepath.Join(top, "current"), "v3")
	r.becomes(t, "bin", "bridge=1;tuning=3;")
}

func TestWatchEndsWithFewDirectories(t *testing.T) {
	t.Parallel()
	conf := realDir(t)
	for i := range maxWatched {
		dir := filepath.Join(conf, fmt.Sprintf("d%d", i))
		mkdir(t, dir)
		require.NoError(t, os.Symlink(filepath.Join(dir, "there.conf"), filepath.Join(conf, fmt.Sprintf("%d.conf", i))))
	}
	set := newWatchSet([]watchTarget{{dir: conf}})
	require.True(t, set.full)
	require.Len(t, set.dirs, maxWatched)
}

// A random sequence of changes at every level of the path must end in what a
// look at the directory says, whatever was missed in between.
func TestWatchSettlesOnWhatIsThere(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 4))
			top := realDir(t)
			conf := filepath.Join(top, "a", "b", "c")
			r := newRunning(t, conf).begin()
			pick := func(of ...string) string { return filepath.Join(top, of[random.IntN(len(of))]) }
			dirs := []string{"a", "a/b", "a/b/c", "x", "x/b", "x/b/c", "y", "y/c", "z"}
			for round := range 10 {
				for range random.IntN(12) {
					// Whatever cannot be done now is not done.
					switch at := pick(dirs...); random.IntN(8) {
					case 0:
						_ = os.RemoveAll(at)
					case 1:
						_ = os.Rename(at, pick(dirs...))
					case 2:
						_ = os.Symlink(pick(dirs...), at)
					case 3:
						_ = os.Symlink(pick("a/b/c/1.conf", "x/b/c/1.conf", "z/1.conf"), filepath.Join(at, "2.conf"))
					default:
						_ = os.MkdirAll(at, 0o700)
						_ = os.WriteFile(filepath.Join(at, "1.conf"), fmt.Append(nil, round, random.IntN(100)), 0o600)
					}
				}
				r.settlesOn(t, func() string { return content(r.loader.load(nil)) })
			}
		})
	}
}

// limitInotify sets what users of this user namespace may have, until lift is
// called or the test ends. The namespace may be that of other tests too, so that
// the test must not be parallel.
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
				conf := realDir(t)
				r := newRunning(t, conf).begin()
				require.Len(t, grep(r.logs.lines(slog.LevelWarn), "polling"), 1)
				lift()
				require.NoError(t, r.reload(t.Context(), false)) // or the next poll
				require.Len(t, grep(r.logs.lines(slog.LevelInfo), "again"), 1)
				write(t, filepath.Join(conf, "a.conf"), "1")
				r.becomes(t, "a.conf", "1")
			})
		})
	}
}

// The kernel has one watch for a directory under all its paths.
func TestWatchDirectoryUnderTwoPaths(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		top := realDir(t)
		conf, bin := filepath.Join(top, "net.d"), filepath.Join(top, "bin")
		mkdir(t, conf)
		mkdir(t, bin)
		require.NoError(t, unix.Mount(conf, bin, "", unix.MS_BIND, ""))
		r := newRunning(t, conf, bin).begin()
		write(t, filepath.Join(conf, "a.conf"), "1")
		r.becomes(t, "a.conf", "1", "bin", "a.conf=1;")
		write(t, filepath.Join(bin, "plugin"), "2")
		r.becomes(t, "a.conf", "1", "bin", "a.conf=1;plugin=2;")
		rename(t, conf, conf+".old") // its mount point stays
		r.becomes(t, "bin", "a.conf=1;plugin=2;")
		write(t, filepath.Join(bin, "plugin"), "3")
		r.becomes(t, "bin", "a.conf=1;plugin=3;")
		require.NoError(t, unix.Unmount(bin, 0))
	})
}
