package podcni_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni"
)

// ioError makes reading the file fail with an I/O error until the function that
// it returns is called.
func ioError(t *testing.T, path string) (mend func()) {
	t.Helper()
	// At its beginning this process has no memory.
	if err := unix.Mount("/proc/self/mem", path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no mount over a file: %v", err)
	}
	mend = func() { _ = unix.Unmount(path, unix.MNT_DETACH) } // again is fine
	t.Cleanup(mend)
	_, err := os.ReadFile(path)
	require.ErrorIs(t, err, unix.EIO)
	return mend
}

// A record that cannot be read for an I/O error is not absent: a set-up is
// refused, and a teardown and GC detach what they can read and say so.
func TestRecordThatGivesAnIOError(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"teardown", "gc"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "b")
			p := n.open()
			pod := n.pod("sandbox", "a", "b")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			mend := ioError(t, filepath.Join(n.cache, "results", "a-sandbox-eth0"))

			_, err = p.SetUpPod(pod)
			require.ErrorIs(t, err, unix.EIO)
			tearDown := func() error {
				if verb == "gc" {
					return p.GC(t.Context(), nil)
				}
				return p.TearDownPod(podcni.PodNetwork{ID: "sandbox"})
			}
			err = tearDown()
			require.ErrorIs(t, err, unix.EIO)
			var re *podcni.RecordError
			require.ErrorAs(t, err, &re)
			require.Equal(t, []string{"ADD a", "ADD b", "DEL b"}, n.verbs())
			require.Equal(t, []string{"a-sandbox-eth0"}, n.records())

			mend()
			require.NoError(t, tearDown())
			require.Equal(t, "DEL a", n.verbs()[3])
			require.Empty(t, n.records())
		})
	}
}
