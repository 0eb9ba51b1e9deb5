//go:build unix

package confdir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// safe makes a directory one that nobody else can change, or skips the test.
func safe(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{filepath.Dir(dir), dir} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	if err := newTrust().dir(dir); err != nil {
		t.Skip("temporary directories can be changed by others here: ", err)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	base, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	safe(t, base)
	at := func(name string) string { return filepath.Join(base, name) }
	for _, dir := range []string{"bin", "open/in", "sticky/in", "group"} {
		mkdir(t, at(dir))
	}
	for _, file := range []string{"bin/ok", "bin/others", "bin/group", "open/in/x", "sticky/in/x", "sticky/x", "group/x"} {
		write(t, at(file), "")
	}
	for name, mode := range map[string]os.FileMode{
		"bin/others": 0o757, "bin/group": 0o775, "group": 0o775, "open": 0o777, "sticky": 0o777 | os.ModeSticky,
	} {
		require.NoError(t, os.Chmod(at(name), mode))
	}
	for link, to := range map[string]string{
		"bin/link": "ok", "bin/absolute": at("bin/ok"), "bin/up": "../bin/./ok", "bin/bad": "others", "bin/out": at("open/in/x"),
		"bin/loop": "loop", "dir": "bin", "stickylink": "sticky/../bin",
	} {
		require.NoError(t, os.Symlink(to, at(link)))
	}
	for _, good := range []string{"bin/ok", "bin/link", "bin/absolute", "bin/up", "dir/link", "dir/../dir/ok", "stickylink/ok", "sticky/x", "sticky/in/x"} {
		require.NoError(t, newTrust().file(at(good)), good)
	}
	for _, bad := range []string{"bin/others", "bin/group", "bin/bad", "bin/out", "bin/loop", "open/in/x", "group/x", "bin/absent", "sticky/absent"} {
		require.Error(t, newTrust().file(at(bad)), bad)
	}
	for _, good := range []string{"bin", "dir", "absent", "absent/deep", "sticky/in", "sticky/in/absent"} {
		require.NoError(t, newTrust().dir(at(good)), good)
	}
	for _, bad := range []string{"open", "open/in", "open/absent", "sticky", "sticky/absent", "sticky/absent/deep", "group", "group/absent"} {
		require.Error(t, newTrust().dir(at(bad)), bad)
	}

	// What an operator reads: which file, whose it is, its mode, and what to do.
	says := func(err error, words ...string) {
		t.Helper()
		require.ErrorIs(t, err, errUntrusted)
		for _, word := range words {
			require.ErrorContains(t, err, word)
		}
	}
	says(newTrust().file(at("bin/bad")), "strict permissions: "+at("bin/others"), "mode 0757", "run: chmod go-w "+at("bin/others"))
	says(newTrust().dir(at("sticky/absent")), at("sticky/absent"), "mode 1777", "run: chmod go-w "+at("sticky"))
	stranger := newTrust()
	st := stranger.lstat(at("bin/ok"))
	st.uid = stranger.euid + 1
	stranger.seen[at("bin/ok")] = st
	says(stranger.file(at("bin/ok")), at("bin/ok")+" belongs to user", "mode 0644", "run: chown -h root "+at("bin/ok"))
	st.uid = 0
	stranger.seen[at("bin/ok")] = st
	require.NoError(t, stranger.file(at("bin/ok")))
}

func TestStrict(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a", "b", "ipam", "delegate", "far", "other")
	base := filepath.Dir(b.dir)
	safe(t, base)
	b.o.Strict = true
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", list("y", "1.0.0", "b")).write("y/1.conf", `{"type":"a"}`)
	b.write("3.conf", `{"name":"z","plugins":[{"type":"b","ipam":{"type":"ipam"}}]}`)
	b.write("4.conf", `{"name":"w","plugins":[{"type":"b","delegate":{"Type":"delegate","ipam":{"type":"absent"},"delegates":[{"type":"far"}]}}]}`)
	d, load := b.loads()
	var s *Snapshot
	expect := func(networks ...string) {
		t.Helper()
		s = load(s)
		require.Equal(t, append([]string{}, networks...), names(s), "rejected: %v", s.Rejected)
		require.Len(t, s.Rejected, 4-len(networks))
		for _, r := range s.Rejected {
			require.ErrorIs(t, r.Err, errUntrusted)
		}
	}
	expect("x", "y", "z", "w")
	require.NoError(t, os.Chmod(filepath.Join(b.bin, "other"), 0o777)) // which nobody names
	expect("x", "y", "z", "w")
	for _, test := range []struct {
		path  string
		still []string
	}{
		{b.path("1.conf"), []string{"y", "z", "w"}},
		{b.path("y/1.conf"), []string{"x", "z", "w"}},
		{b.path("y"), []string{"x", "z", "w"}},
		{filepath.Join(b.bin, "a"), []string{"z", "w"}},
		{filepath.Join(b.bin, "ipam"), []string{"x", "y", "w"}},
		{filepath.Join(b.bin, "delegate"), []string{"x", "y", "z"}},
		{filepath.Join(b.bin, "far"), []string{"x", "y", "z"}},
		{b.dir, nil},
		{b.bin, nil},
	} {
		was, err := os.Stat(test.path)
		require.NoError(t, err)
		require.NoError(t, os.Chmod(test.path, was.Mode()|0o020))
		expect(test.still...)
		require.NoError(t, os.Chmod(test.path, was.Mode()))
		expect("x", "y", "z", "w")
	}

	// What is kept while a new plugin is asked must be trusted still.
	hold := make(chan struct{})
	b.set(hold, nil)
	b.plugin("new").write("1.conf", list("x", "1.0.0", "new"))
	s = d.load(t.Context(), s)
	require.Equal(t, []string{"x", "y", "z", "w"}, names(s))
	require.NoError(t, os.Chmod(filepath.Join(b.bin, "a"), 0o777))
	s = d.load(t.Context(), s)
	require.Equal(t, []string{"z", "w"}, names(s))
	close(hold)
	require.NoError(t, os.Chmod(filepath.Join(b.bin, "a"), 0o755))
	expect("x", "y", "z", "w")

	// One binary directory that anyone can make is one too many.
	open := filepath.Join(base, "tmp")
	mkdir(t, open)
	require.NoError(t, os.Chmod(open, 0o777|os.ModeSticky))
	d.loader.o.BinDirs = append(d.loader.o.BinDirs, filepath.Join(open, "bin"))
	expect()
}

func TestLoadWaitsForNoFIFO(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.write("2.conf", list("x", "1.0.0", "a")).write("3.conf", list("y", "1.0.0", "a"))
	_, load := b.loads()
	s := load(nil)
	b.remove("3.conf")
	for _, name := range []string{"1.conf", "3.conf"} {
		require.NoError(t, unix.Mkfifo(b.path(name), 0o644))
	}
	s = load(s)
	require.Equal(t, []string{"x"}, names(s))
	require.Equal(t, []string{"1.conf", "3.conf"}, rejected(s))
	require.ErrorIs(t, s.Rejected[0].Err, errIrregular)
	_, err := readConf(b.path("1.conf"))
	require.ErrorIs(t, err, errIrregular, "not even where the check came too early")
}
