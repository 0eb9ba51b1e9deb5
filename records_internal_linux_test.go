package podcni

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/testutils"
)

func TestFIFOAsRecord(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, t.TempDir())
	require.NoError(t, s.claim(testRecord("sandbox", "net2", "eth1")))
	require.NoError(t, unix.Mkfifo(s.path("net-sandbox-eth0"), 0o600))
	checkUnreadable(t, s, func(string) {})
}

func TestSocketAsRecord(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "s") // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := newTestStore(t, dir)
	require.NoError(t, s.claim(testRecord("sandbox", "net2", "eth1")))
	socket, err := net.Listen("unix", s.path("net-sandbox-eth0"))
	require.NoError(t, err)
	checkUnreadable(t, s, func(string) {})
	require.NoError(t, socket.Close())
}

func TestForbiddenRecordIsAnError(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	s := newTestStore(t, t.TempDir())
	rec := testRecord("sandbox", "net", "eth0")
	require.NoError(t, s.claim(rec))
	require.NoError(t, os.Chmod(s.path(rec.fileName()), 0))
	_, bad, err := s.ofSandbox("sandbox")
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Empty(t, bad, "it is not known to be bad")
	require.NoError(t, s.setAside(&RecordError{Path: s.path("net-else-eth0")}))
	require.ErrorIs(t, s.setAside(&RecordError{Path: s.path(rec.fileName())}), fs.ErrPermission)
	require.FileExists(t, s.path(rec.fileName()))
	require.ErrorIs(t, s.claim(rec), fs.ErrPermission)
	n, err := s.forget("sandbox")
	require.NoError(t, err)
	require.Equal(t, 1, n, "the name is plain, and the operator has asked")
}

// TestRecordsOnAFileSystemThatFails has tmpfs of its own to fill up and to make
// read-only.
func TestRecordsOnAFileSystemThatFails(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		dir := "/run/small"
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, "size=256k"))
		s := newTestStore(t, dir)
		one, two := testRecord("one", "net", "eth0"), testRecord("two", "net", "eth0")
		require.NoError(t, s.claim(one))
		old := ofOne(t, s, "one")

		// Full.
		full, err := os.Create(filepath.Join(dir, "ballast"))
		require.NoError(t, err)
		_, err = full.Write(make([]byte, 1<<20))
		require.ErrorIs(t, err, unix.ENOSPC)
		require.NoError(t, full.Close())
		var recErr *RecordError
		err = s.claim(two)
		require.ErrorAs(t, err, &recErr)
		require.ErrorIs(t, err, unix.ENOSPC)
		require.ErrorIs(t, s.put(attached(one)), unix.ENOSPC)
		require.Equal(t, old, ofOne(t, s, "one"), "the old version is whole")
		require.Empty(t, ofOne(t, s, "two"))
		require.NoError(t, s.remove(one), "what is full can be emptied")
		require.NoError(t, os.Remove(full.Name()))
		require.NoError(t, s.claim(two))
		require.NoError(t, s.put(attached(two)))

		// Read-only, which no file that is open for writing would allow.
		s.close()
		require.NoError(t, unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		for name, s := range map[string]*recordStore{"known": s, "fresh": newTestStore(t, dir)} {
			require.Len(t, ofOne(t, s, "two"), 1, name)
			unlock, err := s.lockSandbox(context.Background(), "two", false)
			require.NoError(t, err, name)
			unlock()
			require.ErrorIs(t, s.claim(one), unix.EROFS, name)
			require.ErrorIs(t, s.put(two), unix.EROFS, name)
			require.ErrorIs(t, s.remove(two), unix.EROFS, name)
			require.Len(t, ofOne(t, s, "two"), 1, name)
			_, err = s.forget("two")
			require.ErrorIs(t, err, unix.EROFS)
		}
		require.NoError(t, unix.Mount("none", dir, "", unix.MS_REMOUNT, ""))
		require.NoError(t, s.remove(two))
	})
}

func TestSandboxLockBetweenStores(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	one, two := newTestStore(t, cache), newTestStore(t, cache)
	ctx := context.Background()
	unlock, err := one.lockSandbox(ctx, "sandbox", true)
	require.NoError(t, err)

	free, err := two.lockSandbox(ctx, "another", true)
	require.NoError(t, err)
	free()
	none, err := two.tryLockSandbox("sandbox", false)
	require.NoError(t, err)
	require.Nil(t, none)
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = two.lockSandbox(short, "sandbox", true)
	require.ErrorIs(t, err, ErrBusy)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	got := make(chan error)
	go func() {
		unlock, err := two.lockSandbox(ctx, "sandbox", false)
		if err == nil {
			unlock()
		}
		got <- err
	}()
	one.close() // work that is under way keeps its lock
	none, err = newTestStore(t, cache).tryLockSandbox("sandbox", true)
	require.NoError(t, err)
	require.Nil(t, none)
	unlock()
	unlock()
	require.NoError(t, <-got)
	require.Nil(t, one.locks.file, "closed with the last lock")
}

// The environment of a process of TestRecordWriterProcess.
const (
	envWriterDir  = "PODCNI_TEST_RECORDS"
	envWriterWhat = "PODCNI_TEST_RECORDS_WHAT"
)

// TestRecordWriterProcess is what the processes do that other tests kill.
func TestRecordWriterProcess(t *testing.T) {
	dir := os.Getenv(envWriterDir)
	if dir == "" {
		t.Skip("it is a process of other tests")
	}
	go func() { // end with the test that started us
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	s := openRecords(&options{cacheDir: dir, log: slog.New(slog.DiscardHandler)})
	if os.Getenv(envWriterWhat) == "lock" {
		_, err := s.lockSandbox(context.Background(), "sandbox", true)
		require.NoError(t, err)
		_, err = os.Stdout.WriteString("\nlocked\n")
		require.NoError(t, err)
		select {} // until it is killed
	}
	// A record in its two versions, and one that comes and goes.
	stays := bigRecord("stays")
	require.NoError(t, s.put(stays))
	_, err := os.Stdout.WriteString("\nwriting\n")
	require.NoError(t, err)
	for {
		comes := bigRecord("comes")
		require.NoError(t, s.claim(comes))
		require.NoError(t, s.put(attached(comes)))
		require.NoError(t, s.put(attached(stays)))
		require.NoError(t, s.remove(comes))
		require.NoError(t, s.put(stays))
	}
}

// bigRecord is large enough to be written in more than a moment.
func bigRecord(id string) *record {
	rec := testRecord(id, "net", "eth0")
	rec.Config, _ = json.Marshal(map[string]string{"name": "net", "blank": strings.Repeat("x", 64<<10)})
	return rec
}

// startWriter runs TestRecordWriterProcess until it says that it is ready.
func startWriter(t *testing.T, dir, what string) (kill func()) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^TestRecordWriterProcess$", "-test.v")
	cmd.Env = append(os.Environ(), envWriterDir+"="+dir, envWriterWhat+"="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	_, err = cmd.StdinPipe() // Wait closes it, and so does our own end
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill()
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("the process ended by itself: %v", err)
		}
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if text := lines.Text(); text == "locked" || text == "writing" {
			return kill
		}
	}
	kill()
	require.Fail(t, "the process did not begin")
	return nil
}

func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 15 {
		kill := startWriter(t, dir, "write")
		// No moment is better than another: it is random on purpose.
		timer := time.NewTimer(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		<-timer.C
		kill()

		s := newTestStore(t, dir)
		recs, bad, err := s.all(t.Context())
		require.NoError(t, err)
		require.Empty(t, bad)
		require.NotEmpty(t, recs)
		for _, rec := range recs {
			want := bigRecord(rec.ContainerID)
			if rec.State == stateAttached {
				want = attached(want)
			}
			rec.Writer = writerID{}
			require.Equal(t, want, rec)
		}
		require.Equal(t, "stays", recs[len(recs)-1].ContainerID)
		if len(recs) > 1 {
			require.NoError(t, s.remove(recs[0]))
		}
		s.close()
	}

	// What the killed left goes when it is old enough.
	leftovers := func() (staged []string) {
		entries, err := os.ReadDir(filepath.Join(dir, "podcni"))
		require.NoError(t, err)
		for _, entry := range entries {
			if name := entry.Name(); name != "lock" {
				staged = append(staged, filepath.Join(dir, "podcni", name))
			}
		}
		return staged
	}
	old := time.Now().Add(-2 * abandonedAfter)
	require.NotEmpty(t, leftovers())
	for _, path := range leftovers() {
		require.NoError(t, os.Chtimes(path, old, old))
	}
	s := newTestStore(t, dir)
	require.NoError(t, s.claim(testRecord("last", "net", "eth0")))
	s.close()
	require.Empty(t, leftovers())
}

func TestLockOfAKilledProcessIsFree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kill := startWriter(t, dir, "lock")
	s := newTestStore(t, dir)
	unlock, err := s.tryLockSandbox("sandbox", false)
	require.NoError(t, err)
	require.Nil(t, unlock)
	kill()
	unlock, err = s.lockSandbox(context.Background(), "sandbox", false)
	require.NoError(t, err)
	unlock()
}

func TestThisWriter(t *testing.T) {
	t.Parallel()
	w := thisWriter()
	require.Equal(t, os.Getpid(), w.PID)
	require.NotZero(t, w.Start)
	require.NotEmpty(t, w.BootID)
	require.Equal(t, w, thisWriter())
}

func TestNoDescriptorsAreKept(t *testing.T) {
	s := newTestStore(t, t.TempDir())
	cycle := func() {
		rec := testRecord("sandbox", "net", "eth0")
		require.NoError(t, s.claim(rec))
		require.NoError(t, s.put(attached(rec)))
		require.Len(t, ofOne(t, s, "sandbox"), 1)
		require.NoError(t, s.remove(rec))
	}
	cycle()
	before := testutils.FDs(t)
	for range 50 {
		cycle()
	}
	require.LessOrEqual(t, testutils.FDs(t), before+5) // others may run
}
