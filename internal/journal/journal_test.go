package journal_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var self = proc.ID{PID: 7, Start: 8, BootID: "b"}

func attachment(network, ifName string) journal.Attachment {
	return journal.Attachment{
		Key: journal.Key{Network: network, IfName: ifName}, NetNS: "/run/netns/x",
		Config: json.RawMessage(`{"name":"` + network + `","plugins":[{"type":"p"}]}`),
		Args:   [][2]string{{"K", "V"}}, CapabilityArgs: map[string]json.RawMessage{"mac": json.RawMessage(`"c2:11:22:33:44:55"`)},
		Since: time.Unix(1700000000, 42).UTC(),
	}
}

func newJournal() *journal.Journal {
	return &journal.Journal{ContainerID: "pod", Owner: "me", Pod: journal.Pod{Namespace: "ns", Name: "n", UID: "u"}}
}

func TestLife(t *testing.T) {
	t.Parallel()
	for _, fsync := range []bool{false, true} {
		t.Run(fmt.Sprintf("fsync=%v", fsync), func(t *testing.T) {
			t.Parallel()
			cache := filepath.Join(t.TempDir(), "deep", "cache")
			s := journal.Open(cache, fsync)
			none, err := s.Read("pod")
			require.NoError(t, err)
			require.Nil(t, none)
			require.NoDirExists(t, cache, "nothing is created before the first journal")

			j := newJournal()
			a, b, c := attachment("a", "eth0"), attachment("b", "eth1"), attachment("c", "eth0")
			require.NoError(t, s.Attach(j, self, []journal.Attachment{a, b}))
			requireSame(t, s, j)
			require.Equal(t, []journal.Attachment{a, b}, j.Attachments)
			require.NoError(t, s.Attach(j, self, []journal.Attachment{c}))
			requireSame(t, s, j)

			other := proc.ID{PID: 9}
			require.NoError(t, s.Detaching(j, other, []journal.Key{b.Key, a.Key}))
			requireSame(t, s, j)
			require.Equal(t, other, j.Writer)
			require.Equal(t, []bool{true, true, false}, []bool{j.Attachments[0].Detaching, j.Attachments[1].Detaching, j.Attachments[2].Detaching})

			require.NoError(t, s.Detached(j, []journal.Key{a.Key}))
			requireSame(t, s, j)
			require.Len(t, j.Attachments, 2, "the same interface on another network stays")
			require.NoError(t, s.Detached(j, []journal.Key{b.Key, c.Key}))
			require.NoFileExists(t, s.Path("pod"))
			require.NoError(t, s.Remove("pod"), "again is fine")
			requireOnly(t, s.Dir())
		})
	}
}

// requireSame checks that the journal on disk is the one in memory.
func requireSame(t *testing.T, s *journal.Store, want *journal.Journal) {
	t.Helper()
	got, err := s.Read(want.ContainerID)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func requireOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	require.Equal(t, names, got)
}

// Whatever a loss of power leaves of a file, it is the journal, or torn, or
// unreadable: never fewer attachments without a word.
func TestTornAnywhere(t *testing.T) {
	t.Parallel()
	s := journal.Open(t.TempDir(), false)
	j := newJournal()
	a, b := attachment("a", "eth0"), attachment("b", "eth1")
	require.NoError(t, s.Attach(j, self, []journal.Attachment{a}))
	first, err := os.Stat(s.Path("pod"))
	require.NoError(t, err)
	require.NoError(t, s.Attach(j, self, []journal.Attachment{b}))
	whole, err := os.ReadFile(s.Path("pod"))
	require.NoError(t, err)

	check := func(what string, data []byte) {
		require.NoError(t, os.WriteFile(s.Path("pod"), data, 0o600))
		got, err := s.Read("pod")
		switch {
		case err != nil:
			require.ErrorIs(t, err, journal.ErrUnreadable, what)
			var e *journal.Error
			require.ErrorAs(t, err, &e, what)
			require.Equal(t, s.Path("pod"), e.Path, what)
		case len(got.Attachments) < 2:
			require.True(t, got.Torn || len(data) <= int(first.Size())+1, what)
		}
	}
	for n := range whole {
		check(fmt.Sprintf("cut at %d", n), whole[:n])
		zeros := append([]byte(nil), whole...)
		clear(zeros[n:])
		check(fmt.Sprintf("zeros from %d", n), zeros)
	}
	check("another's", []byte(strings.Replace(string(whole), `"containerID":"pod"`, `"containerID":"other"`, 1)))
	check("another version", []byte(strings.Replace(string(whole), `"version":1`, `"version":2`, 1)))
	check("a name that leads out", []byte(strings.Replace(string(whole), `"network":"a"`, `"network":"../a"`, 1)))
	for _, text := range []string{"", "\n", "null", "{}", "[]", "\x00\x00"} {
		require.NoError(t, os.WriteFile(s.Path("pod"), []byte(text), 0o600))
		_, err := s.Read("pod")
		require.ErrorIs(t, err, journal.ErrUnreadable, "%q", text)
	}
}

// A line after one that was cut off is not lost with it.
func TestAppendAfterTornLine(t *testing.T) {
	t.Parallel()
	s := journal.Open(t.TempDir(), false)
	j := newJournal()
	require.NoError(t, s.Attach(j, self, []journal.Attachment{attachment("a", "eth0")}))
	f, err := os.OpenFile(s.Path("pod"), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = f.WriteString("\n" + `{"attach":[{"netw`)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, s.Detaching(j, self, []journal.Key{{Network: "a", IfName: "eth0"}}))
	got, err := s.Read("pod")
	require.NoError(t, err)
	require.True(t, got.Torn)
	require.True(t, got.Attachments[0].Detaching)
}

// A sandbox whose networks come and go for years keeps a small journal.
func TestJournalStaysSmall(t *testing.T) {
	t.Parallel()
	s := journal.Open(t.TempDir(), false)
	j := newJournal()
	stays, comes := attachment("stays", "eth0"), attachment("comes", "eth1")
	require.NoError(t, s.Attach(j, self, []journal.Attachment{stays}))
	for range 1000 {
		require.NoError(t, s.Attach(j, self, []journal.Attachment{comes}))
		require.NoError(t, s.Detaching(j, self, []journal.Key{comes.Key}))
		require.NoError(t, s.Detached(j, []journal.Key{comes.Key}))
	}
	requireSame(t, s, j)
	require.Equal(t, []journal.Attachment{stays}, j.Attachments)
	info, err := os.Stat(s.Path("pod"))
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(300<<10))
	requireOnly(t, s.Dir(), "pod")
}

// Somebody removes the directory while a runtime runs.
func TestDirectoryRemoved(t *testing.T) {
	t.Parallel()
	s := journal.Open(t.TempDir(), false)
	j := newJournal()
	require.NoError(t, s.Attach(j, self, []journal.Attachment{attachment("a", "eth0")}))
	require.NoError(t, os.RemoveAll(s.Dir()))
	require.NoError(t, s.Attach(j, self, []journal.Attachment{attachment("b", "eth1")}))
	requireSame(t, s, j)
	require.Len(t, j.Attachments, 2)
}

// What is no regular file is not written through, followed or waited for.
func TestNotARegularFile(t *testing.T) {
	t.Parallel()
	s := journal.Open(t.TempDir(), false)
	require.NoError(t, os.MkdirAll(s.Dir(), 0o700))
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))

	require.NoError(t, os.Symlink(victim, s.Path("pod")))
	_, err := s.Read("pod")
	require.ErrorIs(t, err, journal.ErrUnreadable)
	require.NoError(t, os.Symlink(victim, filepath.Join(s.Dir(), "~pod")))
	j := newJournal()
	require.NoError(t, s.Attach(j, self, []journal.Attachment{attachment("a", "eth0")}))
	requireSame(t, s, j)

	require.NoError(t, os.Mkdir(s.Path("dir"), 0o700))
	_, err = s.Read("dir")
	require.ErrorIs(t, err, journal.ErrUnreadable)
	kept, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "precious", string(kept))
}

func TestListSetAsideAndSweep(t *testing.T) {
	t.Parallel()
	s := journal.Open(t.TempDir(), false)
	ids, err := s.List()
	require.NoError(t, err)
	require.Empty(t, ids)
	for _, id := range []string{"lock", "b", "a"} {
		j := &journal.Journal{ContainerID: id}
		require.NoError(t, s.Attach(j, self, []journal.Attachment{attachment("n", "eth0")}))
	}
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir(), ".lock"), nil, 0o600))
	dead, young := filepath.Join(s.Dir(), "~dead"), filepath.Join(s.Dir(), "~young")
	require.NoError(t, os.WriteFile(dead, []byte("{"), 0o600))
	require.NoError(t, os.Chtimes(dead, time.Time{}, time.Now().Add(-time.Hour)))
	require.NoError(t, os.WriteFile(young, []byte("{"), 0o600))

	ids, err = s.List()
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "lock"}, ids)
	require.NoError(t, s.Sweep(t.Context()))
	require.NoFileExists(t, dead)
	require.FileExists(t, young)

	require.NoError(t, s.SetAside("b"))
	aside, err := s.Aside()
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(s.Dir(), ".unreadable", "b")}, aside)
	ids, err = s.List()
	require.NoError(t, err)
	require.Equal(t, []string{"a", "lock"}, ids)
}

func TestResults(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	s := journal.Open(cache, false)
	none, bad, err := s.Results(t.Context(), "pod")
	require.NoError(t, err)
	require.Empty(t, none)
	require.Empty(t, bad)
	write := func(name, text string) {
		require.NoError(t, os.MkdirAll(s.ResultsDir(), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(s.ResultsDir(), name), []byte(text), 0o600))
	}
	result := func(network, id, ifName string) string {
		return fmt.Sprintf(`{"kind":"cniCacheV1","containerId":%q,"config":"e30=","ifName":%q,"networkName":%q,"result":{"ips":[null]}}`, id, ifName, network)
	}
	write("net-pod-eth0", result("net", "pod", "eth0"))
	write("a-b-pod-eth1", result("a-b", "pod", "eth1"))
	write("net-pod-b-eth0", result("net", "pod-b", "eth0")) // another sandbox, whose name contains ours
	write("net-pod-eth2", "{")                              // cut off
	write("unrelated", "{")

	results, bad, err := s.Results(t.Context(), "pod")
	require.NoError(t, err)
	require.Len(t, results, 2)
	require.Equal(t, "a-b", results[0].Network)
	require.Equal(t, "eth0", results[1].IfName)
	require.JSONEq(t, `{"ips":[null]}`, string(results[1].Raw))
	require.Len(t, bad, 1)
	require.ErrorIs(t, bad[0], journal.ErrUnreadable)
	ifName, ok := journal.IfNameOf(bad[0].Path, "net", "pod")
	require.True(t, ok)
	require.Equal(t, "eth2", ifName)

	_, err = s.Result("net-pod", "b", "eth0") // the file of ("net", "pod-b", "eth0")
	require.ErrorIs(t, err, journal.ErrNameTaken)
	got, err := s.Result("net", "pod", "eth9")
	require.NoError(t, err)
	require.Nil(t, got)
	_, err = s.Result("../net", "pod", "eth0")
	require.Error(t, err)
	require.NoError(t, s.RemoveResult(results[0].Path))
	require.NoError(t, s.RemoveResult(results[0].Path))
	require.Error(t, journal.CheckNames(strings.Repeat("n", 250), "pod", "eth0"))
}

// FuzzJournal: a journal that is read has only names that are safe as files, and
// is read back the same after it was written.
func FuzzJournal(f *testing.F) {
	s := journal.Open(f.TempDir(), false)
	j := newJournal()
	require.NoError(f, s.Attach(j, self, []journal.Attachment{attachment("a", "eth0")}))
	require.NoError(f, s.Detaching(j, self, []journal.Key{{Network: "a", IfName: "eth0"}}))
	data, err := os.ReadFile(s.Path("pod"))
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte(`{"version":1,"containerID":"pod"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := journal.Open(t.TempDir(), false)
		require.NoError(t, os.MkdirAll(s.Dir(), 0o700))
		require.NoError(t, os.WriteFile(s.Path("pod"), data, 0o600))
		j, err := s.Read("pod")
		if err != nil {
			require.ErrorIs(t, err, journal.ErrUnreadable)
			return
		}
		for _, a := range j.Attachments {
			require.NoError(t, journal.CheckNames(a.Network, "pod", a.IfName))
		}
	})
}
