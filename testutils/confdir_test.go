package testutils_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

func TestAConfDirIsChangedInEveryWay(t *testing.T) {
	t.Parallel()
	c := testutils.NewConfDir(t)
	content := func(name string) string {
		t.Helper()
		got, err := os.ReadFile(c.File(name))
		require.NoError(t, err)
		return string(got)
	}
	stat := func(name string) os.FileInfo {
		t.Helper()
		info, err := os.Stat(c.File(name))
		require.NoError(t, err)
		return info
	}
	require.Equal(t, c.Path(), c.Write("10-a.conflist", "one").Write("net/20-b.conf", "two").Path())
	require.Equal(t, "one", content("10-a.conflist"))
	require.Equal(t, "two", content("net/20-b.conf"))

	before := stat("10-a.conflist")
	var seen []string
	c.WriteInPlace("10-a.conflist", "abcde", 3, func() { seen = append(seen, content("10-a.conflist")) })
	require.Equal(t, []string{"a", "abc"}, seen)
	require.Equal(t, "abcde", content("10-a.conflist"))
	require.True(t, os.SameFile(before, stat("10-a.conflist")))

	c.Rename("10-a.conflist", "three")
	require.Equal(t, "three", content("10-a.conflist"))
	require.False(t, os.SameFile(before, stat("10-a.conflist")))

	c.Link("30-c.conflist", "four")
	require.Equal(t, "four", content("30-c.conflist"))

	entries, err := os.ReadDir(c.Path())
	require.NoError(t, err)
	require.Len(t, entries, 3, "nothing else is in the way")
	c.Remove("30-c.conflist")
	require.NoFileExists(t, c.File("30-c.conflist"))
	c.Remove("")
	require.NoDirExists(t, c.Path())
}

func TestALinkedConfDirIsSwapped(t *testing.T) {
	t.Parallel()
	c := testutils.NewLinkedConfDir(t, map[string]string{"a": "1", "b": "2"})
	old, err := filepath.EvalSymlinks(c.Path())
	require.NoError(t, err)
	require.NotEqual(t, filepath.Base(c.Path()), filepath.Base(old))
	c.Swap(map[string]string{"a": "3"})
	got, err := os.ReadFile(c.File("a"))
	require.NoError(t, err)
	require.Equal(t, "3", string(got))
	require.NoFileExists(t, c.File("b"))
	require.NoDirExists(t, old)
}

func TestListsAreWhatLibcniReads(t *testing.T) {
	t.Parallel()
	list, err := libcni.ConfListFromBytes([]byte(testutils.List("net", "1.0.0", "bridge", "tuning")))
	require.NoError(t, err)
	require.Equal(t, "net", list.Name)
	require.Equal(t, "1.0.0", list.CNIVersion)
	require.Len(t, list.Plugins, 2)
	require.Equal(t, "tuning", list.Plugins[1].Network.Type)

	list, err = libcni.ConfListFromBytes([]byte(testutils.ListJSON("net", "1.0.0", map[string]any{
		"type": "portmap", "capabilities": map[string]bool{"portMappings": true},
	})))
	require.NoError(t, err)
	require.True(t, list.Plugins[0].Network.Capabilities["portMappings"])

	require.JSONEq(t, `{"name":"net","plugins":[]}`, testutils.List("net", ""))
}
