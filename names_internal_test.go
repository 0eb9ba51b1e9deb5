package podcni

import (
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("a", 10<<10)
	for _, tc := range []struct {
		what    string
		check   func(string) error
		valid   []string
		invalid []string
	}{
		{
			"network", checkNetworkName,
			[]string{"a", "0", "A.b_c-9", "podman", "10-bridge.conf", "a..b", "a-", strings.Repeat("n", 255)},
			[]string{"", ".", "..", "-a", "_a", ".a", "a b", "a/b", `a\b`, "../a", "a\x00", "a\n", "é", "a\xff", strings.Repeat("n", 256), huge},
		},
		{
			"container", checkContainerID,
			[]string{"0123abcdef", strings.Repeat("f", 64), "a.b-c_d"},
			[]string{"", "..", "x/../../victim", "a:b", "a;b", "a=b", "\x00", huge},
		},
		{
			"plugin", checkPluginType,
			[]string{"bridge", "host-local", "...", "my plugin", "ö"},
			[]string{"", ".", "..", "a/b", "/bridge", `a\b`, "a\x00b", huge},
		},
		{
			"interface", checkInterfaceName,
			[]string{"eth0", "lo", "a", "...", "eth0.100", "abcdefghijklmno", "öäü"},
			[]string{
				"", ".", "..", "abcdefghijklmnop", "a/b", "a:1", "a b", "a\tb", "a\n", "a\x00", "a\x7f", "a\u00a0", "a\u200b", "\xff",
				"eth%d", "%", "x/../../../victim", huge,
			},
		},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			for _, name := range tc.valid {
				require.NoError(t, tc.check(name), "%q", name)
			}
			for _, name := range tc.invalid {
				err := tc.check(name)
				require.Error(t, err, "%q", name)
				require.Less(t, len(err.Error()), 200, "an error must not repeat what it is given")
			}
		})
	}
}

// What we accept, libcni must accept, because it is what plugins are built on.
// Beyond its rules we refuse only what cannot work.
func FuzzNamesAgainstLibcni(f *testing.F) {
	for _, s := range []string{
		"", "a", "eth0", "..", "a/b", "a:b", "a b", "\xff", "a\u2003b", "%d", "a\x01", "a\n", "-a", "a.b_c-d",
		strings.Repeat("x", 15), strings.Repeat("x", 16), strings.Repeat("x", 256),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ours, theirs := checkNetworkName(s), utils.ValidateNetworkName(s)
		require.Equal(t, theirs == nil && len(s) <= longestName, ours == nil, "network name %q: %v, libcni: %v", s, ours, theirs)

		ours, theirs = checkContainerID(s), utils.ValidateContainerID(s)
		require.Equal(t, theirs == nil && len(s) <= longestName, ours == nil, "container ID %q: %v, libcni: %v", s, ours, theirs)

		ours, theirs = checkInterfaceName(s), utils.ValidateInterfaceName(s)
		if ours == nil {
			require.Nil(t, theirs, "interface name %q", s)
			require.NotContains(t, s, "\x00")
		} else if theirs == nil {
			require.ErrorIs(t, ours, errIfNameChars, "interface name %q", s)
		}
	})
}
