package netns_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/netns"
)

func TestIDSame(t *testing.T) {
	t.Parallel()
	full := netns.ID{Dev: 4, Ino: 100, BootID: "a", Cookie: 7}
	with := func(change func(id *netns.ID)) netns.ID {
		id := full
		change(&id)
		return id
	}
	for name, tt := range map[string]struct {
		other netns.ID
		same  bool
	}{
		"the same":                         {full, true},
		"the inode used again":             {with(func(id *netns.ID) { id.Cookie = 8 }), false},
		"seen through another mount":       {with(func(id *netns.ID) { id.Dev, id.Ino = 5, 101 }), true},
		"another boot":                     {with(func(id *netns.ID) { id.BootID = "b" }), false},
		"a boot that is not known":         {with(func(id *netns.ID) { id.BootID = "" }), false},
		"no cookie":                        {with(func(id *netns.ID) { id.Cookie = 0 }), true},
		"no cookie and another inode":      {with(func(id *netns.ID) { id.Cookie, id.Ino = 0, 101 }), false},
		"no cookie and another device":     {with(func(id *netns.ID) { id.Cookie, id.Dev = 0, 5 }), false},
		"no cookie and of another boot":    {with(func(id *netns.ID) { id.Cookie, id.BootID = 0, "b" }), false},
		"nothing known of the other":       {netns.ID{}, false},
		"nothing but the boot is the same": {netns.ID{BootID: "a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.same, full.Same(tt.other))
			require.Equal(t, tt.same, tt.other.Same(full))
		})
	}
	require.True(t, netns.ID{}.Same(netns.ID{}))
	require.True(t, netns.ID{}.IsZero())
	require.False(t, full.IsZero())
	noBoot := with(func(id *netns.ID) { id.BootID = "" })
	require.False(t, noBoot.Same(noBoot), "two boots may be meant")
	require.True(t, with(func(id *netns.ID) { id.BootID = "@100" }).Same(with(func(id *netns.ID) { id.BootID = "@101" })), "boots by the clock")
}

func TestIDKeepsItsJSON(t *testing.T) {
	t.Parallel()
	id := netns.ID{Dev: 4, Ino: 100, BootID: "a", Cookie: 1<<64 - 1}
	text, err := json.Marshal(id)
	require.NoError(t, err)
	require.Equal(t, `{"dev":4,"ino":100,"bootID":"a","cookie":18446744073709551615}`, string(text))
	var again netns.ID
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, id, again)
	text, err = json.Marshal(netns.ID{})
	require.NoError(t, err)
	require.Equal(t, `{}`, string(text))
}

func TestCreateRefusesNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{
		"", ".", "..", "a/b", "../a", "/a", `a\b`, "a b", "a\x00", "a\n", "-a", ".a", "_a", "\u00e4", strings.Repeat("a", 256), strings.Repeat("a", 10<<10),
	} {
		_, err := netns.Create(dir, name)
		require.ErrorIs(t, err, fs.ErrInvalid, "%.20q", name)
		require.Less(t, len(err.Error()), 512)
	}
	for _, dir := range []string{"netns", "./a", "/a\x00b"} {
		_, err := netns.Create(dir, "a")
		require.ErrorIs(t, err, fs.ErrInvalid, dir)
	}
}

func TestPrefixOf(t *testing.T) {
	t.Parallel()
	v4, v6 := net.IPv4(10, 0, 0, 5), net.ParseIP("2001:db8::5")
	for name, tt := range map[string]struct {
		ipNet net.IPNet
		want  string
	}{
		"IPv4":                         {net.IPNet{IP: v4.To4(), Mask: net.CIDRMask(24, 32)}, "10.0.0.5/24"},
		"IPv4 in 16 bytes":             {net.IPNet{IP: v4, Mask: net.CIDRMask(24, 32)}, "10.0.0.5/24"},
		"IPv4 with a mask in 16 bytes": {net.IPNet{IP: v4, Mask: net.CIDRMask(120, 128)}, "10.0.0.5/24"},
		"IPv6":                         {net.IPNet{IP: v6, Mask: net.CIDRMask(64, 128)}, "2001:db8::5/64"},
		"IPv6 with an IPv4 mask":       {net.IPNet{IP: v6, Mask: net.CIDRMask(24, 32)}, ""},
		"a mask that is too short":     {net.IPNet{IP: v4, Mask: net.CIDRMask(24, 128)}, ""},
		"a mask with holes":            {net.IPNet{IP: v4.To4(), Mask: net.IPMask{255, 0, 255, 0}}, ""},
		"no mask":                      {net.IPNet{IP: v4.To4()}, ""},
		"nothing":                      {net.IPNet{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := netns.PrefixOf(&tt.ipNet)
			if tt.want == "" {
				require.False(t, got.IsValid(), got)
				return
			}
			require.Equal(t, netip.MustParsePrefix(tt.want), got)
		})
	}
}

func TestElsewhereNamespacesAreNames(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "linux" {
		t.Skip("Linux has network namespaces")
	}
	_, err := netns.Create(t.TempDir(), "a")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = netns.Open("a")
	require.ErrorIs(t, err, errors.ErrUnsupported)

	n, err := netns.OpenPod(t.Context(), "a", true)
	require.NoError(t, err)
	require.Equal(t, "a", n.Path())
	require.True(t, n.ID().IsZero())
	still, err := n.StillAt("b")
	require.NoError(t, err)
	require.True(t, still)
	require.ErrorIs(t, n.LoopbackUp(), errors.ErrUnsupported)
	require.NoError(t, n.Close())
}
