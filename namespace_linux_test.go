package podcni_test

import (
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

func TestNetNSFromNewToRemoved(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		// It is made when it is missing.
		require.NoError(t, os.Remove("/run/netns"))
		fds := testutils.FDs(t)
		n, err := podcni.NewNetNS("", "pod-1")
		require.NoError(t, err)
		require.Equal(t, "/run/netns/pod-1", n.Path())
		info, err := os.Stat("/run/netns")
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o755), info.Mode().Perm())

		_, err = podcni.NewNetNS("", "pod-1")
		require.ErrorIs(t, err, fs.ErrExist)

		again, err := podcni.OpenNetNS(n.Path())
		require.NoError(t, err)
		require.Equal(t, n.ID(), again.ID())
		require.NotZero(t, n.ID().Ino)
		require.NotEmpty(t, n.ID().BootID)
		other, err := podcni.NewNetNS("", "pod-2")
		require.NoError(t, err)
		require.False(t, n.ID().Same(other.ID()))
		require.NoError(t, other.Remove())

		lo, err := n.Interface("lo")
		require.NoError(t, err)
		require.False(t, lo.Up)
		require.Empty(t, lo.Addrs)
		require.NoError(t, n.LoopbackUp())
		require.NoError(t, n.LoopbackUp())
		lo, err = again.Interface("lo")
		require.NoError(t, err)
		require.True(t, lo.Up)
		require.Equal(t, "lo", lo.Name)
		require.Equal(t, 1, lo.Index)
		require.Equal(t, 65536, lo.MTU)
		require.Empty(t, lo.MAC)
		require.Contains(t, lo.Addrs, netip.MustParsePrefix("127.0.0.1/8"))
		for _, name := range []string{"eth0", "", "a-name-of-far-too-many-bytes", "a\x00b"} {
			_, err = n.Interface(name)
			require.ErrorIs(t, err, fs.ErrNotExist, name)
		}

		require.NoError(t, n.Remove())
		require.NoFileExists(t, n.Path())
		require.NoError(t, n.Remove())
		require.NoError(t, n.Close())
		require.Equal(t, n.ID(), again.ID())
		require.ErrorIs(t, n.LoopbackUp(), os.ErrClosed)
		require.NoError(t, again.LoopbackUp(), "it lives on while it is open")
		require.NoError(t, again.Remove(), "there is nothing left to do")
		require.Equal(t, fds, testutils.FDs(t))
	})
}

// notNetNS are paths that lead to no network namespace.
func notNetNS(t *testing.T) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "netns") // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	in := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(in("left over"), nil, 0o444))
	require.NoError(t, os.WriteFile(in("text"), []byte("net:[4026531840]"), 0o600))
	require.NoError(t, unix.Mkfifo(in("fifo"), 0o600))
	l, err := net.Listen("unix", in("socket"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	require.NoError(t, os.Symlink(in("nothing"), in("dangling")))
	return map[string]string{
		"a pin without its mount": in("left over"),
		"a text":                  in("text"),
		"a directory":             dir,
		"a FIFO":                  in("fifo"),
		"a socket":                in("socket"),
		"a device":                "/dev/null",
		"another kind":            "/proc/self/ns/mnt",
		"a NUL":                   in("a\x00b"),
		"nothing":                 in("nothing"),
		"nothing behind a link":   in("dangling"),
		"below a file":            in("text/net"),
		"no path":                 "",
		"no process":              "/proc/4194305/ns/net",
	}
}

func TestOpenNetNSRefuses(t *testing.T) {
	t.Parallel()
	gone := []string{"nothing", "nothing behind a link", "below a file", "no path", "no process"}
	for name, path := range notNetNS(t) {
		_, err := podcni.OpenNetNS(path)
		require.ErrorIs(t, err, podcni.ErrNetNS, name)
		require.NotContains(t, err.Error(), "%!", name)
		if slices.Contains(gone, name) {
			require.ErrorIs(t, err, fs.ErrNotExist, name)
		} else {
			require.NotErrorIs(t, err, fs.ErrNotExist, name)
		}
	}
	// The system's trouble says nothing about the namespace.
	loop := filepath.Join(t.TempDir(), "loop")
	require.NoError(t, os.Symlink(loop, loop))
	_, err := podcni.OpenNetNS(loop)
	require.ErrorIs(t, err, unix.ELOOP)
	require.NotErrorIs(t, err, podcni.ErrNetNS)
}
