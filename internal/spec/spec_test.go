package spec_test

import (
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/spec"
)

func TestIsVerb(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"} {
		require.True(t, spec.IsVerb(verb), verb)
		require.False(t, spec.IsVerb(strings.ToLower(verb)), verb)
		require.False(t, spec.IsVerb(verb+" "), verb)
	}
	require.False(t, spec.IsVerb(""))
}

func TestNames(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("a", 10<<10)
	for _, tc := range []struct {
		what    string
		check   func(string) error
		valid   []string
		invalid map[string]error
	}{
		{
			"network", spec.CheckNetworkName,
			[]string{"a", "0", "A.b_c-9", "podman", "10-bridge.conf", "a..b", "a-", strings.Repeat("n", 255)},
			map[string]error{
				"": spec.ErrEmpty, ".": spec.ErrNameChars, "..": spec.ErrNameChars, "-a": spec.ErrNameChars, "_a": spec.ErrNameChars,
				".a": spec.ErrNameChars, "a b": spec.ErrNameChars, "a/b": spec.ErrNameChars, `a\b`: spec.ErrNameChars, "../a": spec.ErrNameChars,
				"a\x00": spec.ErrNameChars, "a\n": spec.ErrNameChars, "é": spec.ErrNameChars, "a\xff": spec.ErrNameChars,
				strings.Repeat("n", 256): spec.ErrTooLong, huge: spec.ErrTooLong,
			},
		},
		{
			"container", spec.CheckContainerID,
			[]string{"0123abcdef", strings.Repeat("f", 64), "a.b-c_d", strings.Repeat("f", 255)},
			map[string]error{
				"": spec.ErrEmpty, "..": spec.ErrNameChars, "x/../../victim": spec.ErrNameChars, "a:b": spec.ErrNameChars,
				"a;b": spec.ErrNameChars, "a=b": spec.ErrNameChars, "\x00": spec.ErrNameChars, huge: spec.ErrTooLong,
			},
		},
		{
			"plugin", spec.CheckPluginType,
			[]string{"bridge", "host-local", "...", "my plugin", "ö", strings.Repeat("p", 255)},
			map[string]error{
				"": spec.ErrEmpty, ".": spec.ErrTypeChars, "..": spec.ErrTypeChars, "a/b": spec.ErrTypeChars, "/bridge": spec.ErrTypeChars,
				`a\b`: spec.ErrTypeChars, "a\x00b": spec.ErrTypeChars, huge: spec.ErrTooLong,
			},
		},
		{
			"interface", spec.CheckIfName,
			[]string{"eth0", "lo", "a", "...", "eth0.100", "abcdefghijklmno", "öäü"},
			map[string]error{
				"": spec.ErrEmpty, ".": spec.ErrIfNameDots, "..": spec.ErrIfNameDots, "abcdefghijklmnop": spec.ErrIfNameTooLong,
				"a/b": spec.ErrIfNameChars, "a:1": spec.ErrIfNameChars, "a b": spec.ErrIfNameChars, "a\tb": spec.ErrIfNameChars,
				"a\n": spec.ErrIfNameChars, "a\x00": spec.ErrIfNameChars, "a\x7f": spec.ErrIfNameChars, "a\u00a0": spec.ErrIfNameChars,
				"a\u200b": spec.ErrIfNameChars, "\xff": spec.ErrIfNameChars, "eth%d": spec.ErrIfNameChars, "%": spec.ErrIfNameChars,
				"x/../../../victim": spec.ErrIfNameTooLong, huge: spec.ErrIfNameTooLong,
			},
		},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			for _, name := range tc.valid {
				require.NoError(t, tc.check(name), "%q", name)
			}
			for name, want := range tc.invalid {
				err := tc.check(name)
				require.ErrorIs(t, err, want, "%q", name)
				require.Less(t, len(err.Error()), 200, "an error must not repeat what it is given")
			}
		})
	}
}

// What podcni accepts, libcni must accept, because plugins are built on it.
// Beyond libcni's rules podcni refuses only what cannot work.
func FuzzNamesAgainstLibcni(f *testing.F) {
	for _, s := range []string{
		"", "a", "eth0", "..", "a/b", "a:b", "a b", "\xff", "a\u2003b", "%d", "a\x01", "a\n", "-a", "a.b_c-d",
		strings.Repeat("x", 15), strings.Repeat("x", 16), strings.Repeat("x", 256),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ours, theirs := spec.CheckNetworkName(s), utils.ValidateNetworkName(s)
		require.Equal(t, theirs == nil && len(s) <= spec.MaxName, ours == nil, "network name %q: %v, libcni: %v", s, ours, theirs)

		ours, theirs = spec.CheckContainerID(s), utils.ValidateContainerID(s)
		require.Equal(t, theirs == nil && len(s) <= spec.MaxName, ours == nil, "container ID %q: %v, libcni: %v", s, ours, theirs)

		ours, theirs = spec.CheckIfName(s), utils.ValidateInterfaceName(s)
		if ours == nil {
			require.Nil(t, theirs, "interface name %q", s)
			require.NotContains(t, s, "\x00")
		} else if theirs == nil {
			require.ErrorIs(t, ours, spec.ErrIfNameChars, "interface name %q", s)
		}
	})
}
