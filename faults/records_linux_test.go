package faults_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
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

// A journal that cannot be read for an I/O error is not absent: a set-up is
// refused, and a tear-down and GC say so. Nothing is sent, since nobody knows what
// the sandbox is attached to.
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
			mend := ioError(t, n.journal())

			_, err = p.SetUpPod(pod)
			require.ErrorIs(t, err, unix.EIO)
			tearDown := func() error {
				if verb == "gc" {
					return p.GC(t.Context(), nil)
				}
				return p.TearDownPod(podcni.PodNetwork{ID: "sandbox"})
			}
			err = tearDown()
			if verb == "gc" {
				require.NoError(t, err, "GC leaves it alone")
			} else {
				require.ErrorIs(t, err, unix.EIO)
				var re *podcni.RecordError
				require.ErrorAs(t, err, &re)
			}
			require.Equal(t, []string{"ADD a", "ADD b"}, without(n.verbs(), "GC a", "GC b"))

			mend()
			require.NoError(t, tearDown())
			require.Equal(t, []string{"ADD a", "ADD b", "DEL b", "DEL a"}, without(n.verbs(), "GC a", "GC b"))
			require.Empty(t, n.records())
		})
	}
}

// smallCache gives the node's records a file system of their own.
func (n *node) smallCache() {
	n.t.Helper()
	require.NoError(n.t, os.MkdirAll(n.cache, 0o700))
	if err := unix.Mount("none", n.cache, "tmpfs", 0, "size=128k"); err != nil {
		n.t.Skipf("no tmpfs: %v", err)
	}
	n.t.Cleanup(func() { require.NoError(n.t, unix.Unmount(n.cache, unix.MNT_DETACH)) })
}

// fill leaves no space there until the function that it returns is called.
func (n *node) fill() (empty func()) {
	n.t.Helper()
	path := filepath.Join(n.cache, "ballast")
	require.ErrorIs(n.t, os.WriteFile(path, make([]byte, 1<<20), 0o600), unix.ENOSPC)
	return func() { require.NoError(n.t, os.Remove(path)) }
}

// readOnly binds the directory over itself, read-only, until the function that
// it returns is called.
func readOnly(t *testing.T, dir string) (mend func()) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mount: %v", err)
	}
	mend = sync.OnceFunc(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	t.Cleanup(mend)
	require.NoError(t, unix.Mount("none", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	return mend
}

// unwritable are the ways in which records cannot be written.
func unwritable() map[error]func(n *node) func() {
	return map[error]func(n *node) func(){
		unix.ENOSPC: func(n *node) func() { return n.fill() },
		unix.EROFS:  func(n *node) func() { return readOnly(n.t, n.cache) },
	}
}

// No record can be written: no plugin runs. What is attached already can be torn
// down, on a full file system to the end, and on one that is read-only again and
// again.
func TestNoRecordBeforeADD(t *testing.T) {
	t.Parallel()
	for want, spoil := range unwritable() {
		t.Run(want.Error(), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a")
			n.smallCache()
			p := n.open()
			pod := n.pod("sandbox", "a")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			mend := spoil(n)
			_, err = n.open().SetUpPod(n.pod("other", "a"))
			require.ErrorIs(t, err, want)
			var re *podcni.RecordError
			require.ErrorAs(t, err, &re)
			require.Equal(t, []string{"ADD a"}, n.verbs())
			_, err = p.GetPodNetworkStatus(pod)
			require.NoError(t, err)

			err = n.open().TearDownPod(pod)
			if errors.Is(want, unix.EROFS) {
				require.ErrorIs(t, err, want)
				require.ErrorIs(t, p.TearDownPod(pod), want)
				require.Equal(t, []string{"DEL a", "DEL a"}, n.verbs()[1:])
				mend()
				err = p.TearDownPod(pod)
			}
			require.NoError(t, err)
			require.Empty(t, n.records())
		})
	}
}

// libcni cannot write its result after the plugins ran: they are undone.
func TestNoRecordAfterADD(t *testing.T) {
	t.Parallel()
	for want, spoil := range unwritable() {
		t.Run(want.Error(), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "b")
			n.bin.Plugin("b").Pool()
			n.smallCache()
			gate := n.bin.Plugin("b").Gate("ADD")
			p := n.open()
			pod := n.pod("sandbox", "b", "a")
			added := make(chan error, 1)
			go func() {
				_, err := p.SetUpPod(pod)
				added <- err
			}()
			gate.Wait(t)
			mend := spoil(n)
			gate.Open()
			err := <-added
			require.ErrorIs(t, err, want)
			var re *podcni.RecordError
			require.ErrorAs(t, err, &re)
			require.Equal(t, []string{"ADD b", "DEL b"}, n.verbs())
			require.Empty(t, n.bin.Plugin("b").Held(t))
			mend()
			if errors.Is(want, unix.EROFS) {
				require.Len(t, n.records(), 2, "that could not be removed either")
				require.NoError(t, p.TearDownPod(pod))
			}
			require.Empty(t, n.records())
		})
	}
}

// A binary that is being written is waited for; one that stays so is an error
// that says so, and what ran before it is undone.
func TestBinaryBeingWritten(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "busy")
	n.bin.Plugin("a").Pool()
	p := n.open(podcni.WithPluginTimeout("ADD", soon), podcni.WithoutWatch())
	path := n.bin.Plugin("busy").Path()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, content, 0o755))
	writer, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = writer.Close() })

	_, err = p.SetUpPod(n.pod("sandbox", "a", "busy"))
	require.ErrorIs(t, err, unix.ETXTBSY)
	require.True(t, requirePluginError(t, err).TimedOut)
	require.Equal(t, []string{"ADD a", "DEL a"}, n.verbs())
	require.Empty(t, n.records(), "it never ran")
	require.Empty(t, n.bin.Plugin("a").Held(t))

	added := make(chan error, 1)
	pod := n.pod("other", "a", "busy")
	go func() {
		_, err := p.SetUpPod(pod)
		added <- err
	}()
	n.waitForVerbs("ADD a", 2)
	require.NoError(t, writer.Close())
	if err := <-added; errors.Is(err, unix.ETXTBSY) {
		// A plugin that another test started at the wrong moment holds the
		// descriptor, or this machine is slow: it is free by now.
		_, err = p.SetUpPod(pod)
		require.NoError(t, err)
	} else {
		require.NoError(t, err)
	}
	require.NoError(t, p.TearDownPod(pod))
	require.Empty(t, n.records())
}

// There is nothing to tear down, and nothing can be recorded either.
func TestTearDownOfNothingOnAReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, p.TearDownPod(pod))
	readOnly(t, n.cache)
	require.NoError(t, p.TearDownPod(pod))
	require.NoError(t, n.open().TearDownPod(pod))
	require.Equal(t, []string{"ADD a", "DEL a", "DEL a", "DEL a"}, n.verbs())
	require.NoError(t, p.Forget(t.Context(), "sandbox"))
	require.NoError(t, p.GC(t.Context(), nil))
}
