//go:build unix

package podcni

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// safeDir is a directory that nobody else can change, or the test is skipped.
func safeDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, d := range []string{filepath.Dir(dir), dir} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	if err := newTrust().dir(dir); err != nil {
		t.Skip("temporary directories can be changed by others here: ", err)
	}
	return dir
}

func TestTrust(t *testing.T) {
	t.Parallel()
	base := safeDir(t)
	at := func(name string) string { return filepath.Join(base, name) }
	mode := func(name string, m os.FileMode) {
		t.Helper()
		require.NoError(t, os.Chmod(at(name), m))
	}
	for _, dir := range []string{"bin", "open", "open/in", "sticky", "sticky/in", "group"} {
		require.NoError(t, os.Mkdir(at(dir), 0o755))
	}
	for _, file := range []string{"bin/ok", "bin/others", "bin/group", "open/in/x", "sticky/in/x", "sticky/x", "group/x"} {
		require.NoError(t, os.WriteFile(at(file), nil, 0o755))
	}
	mode("bin/others", 0o757)
	mode("bin/group", 0o775)
	mode("group", 0o775)
	mode("open", 0o777)
	mode("sticky", 0o777|os.ModeSticky)
	for link, to := range map[string]string{
		"bin/link": "ok", "bin/absolute": at("bin/ok"), "bin/up": "../bin/./ok", "bin/bad": "others", "bin/out": at("open/in/x"),
		"bin/loop": "loop", "dir": "bin", "stickylink": "sticky/../bin",
	} {
		require.NoError(t, os.Symlink(to, at(link)))
	}
	for _, good := range []string{"bin/ok", "bin/link", "bin/absolute", "bin/up", "dir/link", "dir/../dir/ok", "stickylink/ok", "sticky/x", "sticky/in/x"} {
		require.NoError(t, checkBinary(at(good)), good)
	}
	for _, bad := range []string{"bin/others", "bin/group", "bin/bad", "bin/out", "bin/loop", "open/in/x", "group/x", "bin/absent", "sticky/absent"} {
		require.Error(t, checkBinary(at(bad)), bad)
	}
	for _, good := range []string{"bin", "dir", "absent", "absent/deep", "sticky/in", "sticky/in/absent"} {
		require.NoError(t, newTrust().dir(at(good)), good)
	}
	for _, bad := range []string{"open", "open/in", "open/absent", "sticky", "sticky/absent", "sticky/absent/deep", "group", "group/absent"} {
		require.Error(t, newTrust().dir(at(bad)), bad)
	}
	stranger := newTrust()
	st := stranger.lstat(at("bin/ok"))
	st.uid = stranger.euid + 1
	stranger.seen[at("bin/ok")] = st
	require.Error(t, stranger.file(at("bin/ok")), "it belongs to someone else")
	st.uid = 0
	stranger.seen[at("bin/ok")] = st
	require.NoError(t, stranger.file(at("bin/ok")))
}

func TestStrictPermissions(t *testing.T) {
	t.Parallel()
	safeDir(t)
	b := newBench(t, WithStrictPermissions()).plugin("a", "b", "ipam")
	base := filepath.Dir(b.confDir)
	for _, dir := range []string{filepath.Dir(base), base} {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	b.write("1.conf", list("x", "1.0.0", "a")).write("2.conf", list("y", "1.0.0", "b")).write("y/1.conf", `{"type":"a"}`)
	b.write("3.conf", `{"name":"z","plugins":[{"type":"b","ipam":{"type":"ipam"}}]}`)
	var s *snapshot
	expect := func(networks ...string) {
		t.Helper()
		s = b.load(s)
		require.Equal(t, append([]string{}, networks...), names(s), "rejected: %v", s.rejected)
		require.Len(t, s.rejected, 3-len(networks))
		for _, r := range s.rejected {
			require.ErrorIs(t, r.Err, errUntrusted)
		}
	}
	expect("x", "y", "z")
	for _, test := range []struct {
		path  string
		still []string
	}{
		{b.path("1.conf"), []string{"y", "z"}},
		{b.path("y/1.conf"), []string{"x", "z"}},
		{b.path("y"), []string{"x", "z"}},
		{filepath.Join(b.binDir, "a"), []string{"z"}},
		{filepath.Join(b.binDir, "ipam"), []string{"x", "y"}},
		{b.confDir, nil},
		{b.binDir, nil},
	} {
		was, err := os.Stat(test.path)
		require.NoError(t, err)
		require.NoError(t, os.Chmod(test.path, was.Mode()|0o020))
		expect(test.still...)
		require.NoError(t, os.Chmod(test.path, was.Mode()))
		expect("x", "y", "z")
	}

	// What is kept while a new plugin is asked must be trusted still.
	hold := make(chan struct{})
	b.run.mu.Lock()
	b.run.hold = hold
	b.run.mu.Unlock()
	b.plugin("new").write("1.conf", list("x", "1.0.0", "new"))
	s = b.l.load(s)
	require.Equal(t, []string{"x", "y", "z"}, names(s))
	require.NoError(t, os.Chmod(filepath.Join(b.binDir, "a"), 0o777))
	s = b.l.load(s)
	require.Equal(t, []string{"z"}, names(s))
	close(hold)
	require.NoError(t, os.Chmod(filepath.Join(b.binDir, "a"), 0o755))
	expect("x", "y", "z")

	// One binary directory that anyone can make is one too many.
	open := filepath.Join(base, "tmp")
	require.NoError(t, os.Mkdir(open, 0o755))
	require.NoError(t, os.Chmod(open, 0o777|os.ModeSticky))
	b.l.o.binDirs = append(b.l.o.binDirs, filepath.Join(open, "bin"))
	expect()
}

func TestLoadWaitsForNoFIFO(t *testing.T) {
	t.Parallel()
	b := newBench(t).plugin("a")
	b.write("2.conf", list("x", "1.0.0", "a")).write("3.conf", list("y", "1.0.0", "a"))
	s := b.load(nil)
	makeFIFO(t, b.path("1.conf"))
	b.remove("3.conf")
	makeFIFO(t, b.path("3.conf"))
	require.NoError(t, os.Symlink("nowhere", b.path("4.conf")))
	require.NoError(t, os.Mkdir(b.path("5.conf"), 0o755))
	s = b.load(s)
	require.Equal(t, []string{"x", "y"}, names(s), "what is no file any more is not gone")
	require.Equal(t, []string{"1.conf", "3.conf", "4.conf"}, rejectedPaths(s))
	require.ErrorIs(t, s.rejected[0].Err, errIrregular)
	_, _, err := readConf(b.path("1.conf"))
	require.ErrorIs(t, err, errIrregular, "not even where the check came too early")
}

func TestUnreadableDirectoryKeepsItsNetworks(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root can read everything")
	}
	b := newBench(t).plugin("a")
	b.write("1.conf", list("x", "1.0.0", "a")).write("x/1.conf", `{"type":"a"}`)
	s := b.load(nil)
	for _, dir := range []string{b.confDir, b.path("x")} {
		require.NoError(t, os.Chmod(dir, 0))
		s = b.load(s)
		require.Equal(t, []string{"x"}, names(s))
		require.NotEmpty(t, s.rejected)
		require.NoError(t, os.Chmod(dir, 0o755))
		s = b.load(s)
		require.Empty(t, s.rejected)
	}
	require.NoError(t, os.Chmod(b.confDir, 0))
	t.Cleanup(func() { require.NoError(t, os.Chmod(b.confDir, 0o755)) })
	fresh := newBench(t)
	fresh.l.o.confDir = b.confDir
	require.ErrorIs(t, fresh.load(nil).reason, os.ErrPermission)
}

func makeFIFO(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, unix.Mkfifo(path, 0o644))
}
