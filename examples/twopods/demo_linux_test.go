package main

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/podcni/podcni/testutils"
)

func TestMain(m *testing.M) {
	testutils.Main(m, func() error { return goleak.Find() })
}

// The demonstration as make demo runs it, in a sandbox of the tests' own. Not in parallel: it sets PATH.
func TestDemo(t *testing.T) {
	plugins := os.Getenv("PODCNI_PLUGINS")
	if plugins == "" {
		t.Skip("PODCNI_PLUGINS names no directory of the CNI reference plugins; see make integration")
	}
	for _, test := range []struct{ name, path, end string }{
		{"with nft", os.Getenv("PATH") + ":/usr/sbin:/sbin", "All of it held"},
		{"without nft", "/nonexistent", "All of it held, but for what was left out.\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			testutils.Sandbox(t, func(t *testing.T) {
				t.Setenv("PATH", test.path)
				var out bytes.Buffer
				d := &demo{plugins: plugins, dir: t.TempDir(), out: &out}
				require.NoError(t, d.run(t.Context()), out.String())
				require.Contains(t, out.String(), test.end)
				require.NotContains(t, out.String(), "FAILED")
			})
		})
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := &demo{out: &out, nft: true}
	require.True(t, d.check("one", nil))
	require.NoError(t, d.verdict())
	require.Contains(t, out.String(), "All of it held.")

	out.Reset()
	require.False(t, d.check("two", errors.New("it did not")))
	d.check("three", errLeftOut)
	require.Error(t, d.verdict())
	require.Equal(t, "ok        one\nFAILED    two: it did not\nleft out  three\n", out.String())
}
