package testutils_test

import (
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

func TestASandboxIsApart(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		require.Zero(t, os.Getuid())
		interfaces, err := net.Interfaces()
		require.NoError(t, err)
		require.Len(t, interfaces, 1)
		require.NotZero(t, interfaces[0].Flags&net.FlagUp)
		l, err := net.Listen("tcp", "127.0.0.1:80")
		require.NoError(t, err)
		require.NoError(t, l.Close())

		entries, err := os.ReadDir("/run/netns")
		require.NoError(t, err)
		require.Empty(t, entries)
		require.NoError(t, os.WriteFile("/run/mine", nil, 0o600))

		t.Run("with subtests/and #characters (odd)", func(t *testing.T) {
			t.Parallel()
			testutils.Sandbox(t, func(t *testing.T) { require.FileExists(t, "/run/mine") })
		})
	})
}
