package testutils_test

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
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

func TestASandboxHidesTheHost(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		for _, dir := range []string{"/run/netns", "/var/lib/cni", "/etc/cni", "/opt/cni"} {
			entries, err := os.ReadDir(dir)
			if dir != "/run/netns" && os.IsNotExist(err) {
				continue // nor is it there outside
			}
			require.NoError(t, err)
			require.Empty(t, entries)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600))
		}
		require.NoError(t, os.WriteFile(filepath.Join(t.TempDir(), "file"), nil, 0o600))
		d := testutils.NewBinDir(t).Add("bridge")
		require.Zero(t, runPlugin(t, d.Plugin("bridge").Path(), "ADD", conf).exit)
	})
}

func TestNetworkNamespaces(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		inode := func(path string) uint64 {
			var stat syscall.Stat_t
			require.NoError(t, syscall.Stat(path, &stat))
			return stat.Ino
		}
		own := inode("/proc/self/ns/net")
		var path string
		t.Run("of a test", func(t *testing.T) {
			path = testutils.NewNetNS(t)
			other := testutils.NewNetNS(t)
			require.NotEqual(t, own, inode(path))
			require.NotEqual(t, inode(other), inode(path))
			require.Equal(t, own, inode("/proc/self/ns/net"))
			require.Equal(t, own, inode("/proc/thread-self/ns/net"))
		})
		require.NoFileExists(t, path)
	})
}

func TestDescriptorsAreCounted(t *testing.T) {
	// Not parallel: others open files.
	before := testutils.FDs(t)
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	require.Equal(t, before+1, testutils.FDs(t))
	require.NoError(t, f.Close())
	require.Equal(t, before, testutils.FDs(t))
}
