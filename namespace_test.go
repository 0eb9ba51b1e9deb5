package podcni_test

import (
	"encoding/json"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
)

func TestNetNSIDSame(t *testing.T) {
	t.Parallel()
	full := podcni.NetNSID{Dev: 4, Ino: 100, BootID: "a", Cookie: 7}
	with := func(change func(id *podcni.NetNSID)) podcni.NetNSID {
		id := full
		change(&id)
		return id
	}
	for name, tt := range map[string]struct {
		other podcni.NetNSID
		same  bool
	}{
		"the same":                         {full, true},
		"the inode used again":             {with(func(id *podcni.NetNSID) { id.Cookie = 8 }), false},
		"seen through another mount":       {with(func(id *podcni.NetNSID) { id.Dev, id.Ino = 5, 101 }), true},
		"another boot":                     {with(func(id *podcni.NetNSID) { id.BootID = "b" }), false},
		"a boot that is not known":         {with(func(id *podcni.NetNSID) { id.BootID = "" }), false},
		"no cookie":                        {with(func(id *podcni.NetNSID) { id.Cookie = 0 }), true},
		"no cookie and another inode":      {with(func(id *podcni.NetNSID) { id.Cookie, id.Ino = 0, 101 }), false},
		"no cookie and another device":     {with(func(id *podcni.NetNSID) { id.Cookie, id.Dev = 0, 5 }), false},
		"no cookie and of another boot":    {with(func(id *podcni.NetNSID) { id.Cookie, id.BootID = 0, "b" }), false},
		"nothing known of the other":       {podcni.NetNSID{}, false},
		"nothing but the boot is the same": {podcni.NetNSID{BootID: "a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.same, full.Same(tt.other))
			require.Equal(t, tt.same, tt.other.Same(full))
		})
	}
	require.True(t, podcni.NetNSID{}.Same(podcni.NetNSID{}))
	require.True(t, podcni.NetNSID{}.IsZero())
	require.False(t, full.IsZero())
}

func TestNetNSIDKeepsItsJSON(t *testing.T) {
	t.Parallel()
	id := podcni.NetNSID{Dev: 4, Ino: 100, BootID: "a", Cookie: 1<<64 - 1}
	text, err := json.Marshal(id)
	require.NoError(t, err)
	require.Equal(t, `{"dev":4,"ino":100,"bootID":"a","cookie":18446744073709551615}`, string(text))
	var again podcni.NetNSID
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, id, again)
}

func TestNewNetNSRefusesNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{
		"", ".", "..", "a/b", "../a", "/a", `a\b`, "a b", "a\x00", "a\n", "-a", ".a", "_a", "\u00e4", strings.Repeat("a", 256), strings.Repeat("a", 10<<10),
	} {
		_, err := podcni.NewNetNS(dir, name)
		require.ErrorIs(t, err, fs.ErrInvalid, "%.20q", name)
		require.Less(t, len(err.Error()), 512)
	}
	for _, dir := range []string{"netns", "./a", "/a\x00b"} {
		_, err := podcni.NewNetNS(dir, "a")
		require.ErrorIs(t, err, fs.ErrInvalid, dir)
	}
}

func TestNetNSElsewhere(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "linux" {
		t.Skip("Linux has network namespaces")
	}
	_, err := podcni.NewNetNS(t.TempDir(), "a")
	require.ErrorIs(t, err, podcni.ErrUnsupported)
	_, err = podcni.OpenNetNS("a")
	require.ErrorIs(t, err, podcni.ErrUnsupported)
}
