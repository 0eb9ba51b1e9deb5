package podcni

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// badContents are files that are no record of net-sandbox-eth0.
func badContents(t *testing.T) map[string][]byte {
	t.Helper()
	whole, err := attached(testRecord("sandbox", "net", "eth0")).encode(writerID{})
	require.NoError(t, err)
	other, err := attached(testRecord("other", "net", "eth0")).encode(writerID{})
	require.NoError(t, err)
	noConfig := testRecord("sandbox", "net", "eth0")
	noConfig.Config = nil
	empty, err := noConfig.encode(writerID{})
	require.NoError(t, err)
	replace := func(from, to string) []byte { return []byte(strings.Replace(string(whole), from, to, 1)) }
	return map[string][]byte{
		"empty":         {},
		"cut":           whole[:len(whole)/2],
		"garbage":       []byte("\x00\xff garbage"),
		"null":          []byte("null"),
		"other kind":    replace(recordKind, "cniCacheV9"),
		"result only":   []byte(`{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`),
		"another's":     other,
		"no config":     empty,
		"result array":  replace(`"result":{`, `"result":[],"x":{`),
		"bad base64":    replace(base64.StdEncoding.EncodeToString(noConfigOf("net"))[:8], "********"),
		"trailing":      append(append([]byte{}, whole...), '}'),
		"traversal":     replace(`"ifName":"eth0"`, `"ifName":"x/../../../victim"`),
		"larger than a": make([]byte, largestRecord+1),
	}
}

func noConfigOf(network string) []byte { return testRecord("x", network, "eth0").Config }

func TestUnreadableRecord(t *testing.T) {
	t.Parallel()
	for name, content := range badContents(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTestStore(t, t.TempDir())
			good := testRecord("sandbox", "net2", "eth1")
			require.NoError(t, s.claim(good))
			require.NoError(t, os.WriteFile(s.path("net-sandbox-eth0"), content, 0o600))
			checkUnreadable(t, s, func(aside string) {
				got, err := os.ReadFile(aside)
				require.NoError(t, err)
				require.Equal(t, len(content), len(got), "kept as it was")
			})
		})
	}
}

// checkUnreadable goes through the life of what is at net-sandbox-eth0 and is
// no record, beside a record of the same sandbox.
func checkUnreadable(t *testing.T, s *recordStore, kept func(aside string)) {
	t.Helper()
	recs, bad, err := s.ofSandbox("sandbox")
	require.NoError(t, err)
	require.Len(t, recs, 1)
	require.Len(t, bad, 1)
	require.ErrorIs(t, bad[0], ErrBadRecord)
	require.Equal(t, s.path("net-sandbox-eth0"), bad[0].Path)
	require.Equal(t, "net", bad[0].network)
	require.Equal(t, "eth0", bad[0].ifName)
	require.True(t, bad[0].certain)

	rec := testRecord("sandbox", "net", "eth0")
	require.ErrorIs(t, s.claim(rec), ErrBadRecord)
	listed := func() Attachment {
		list, err := s.attachments(context.Background())
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.Equal(t, AttachmentAttaching, list[0].State)
		require.Equal(t, AttachmentUnreadable, list[1].State)
		require.Equal(t, "sandbox", list[1].ContainerID)
		require.ErrorIs(t, list[1].Err, ErrBadRecord)
		return list[1]
	}
	require.Equal(t, s.path("net-sandbox-eth0"), listed().Path)

	require.NoError(t, s.setAside(bad[0]))
	require.NoError(t, s.setAside(bad[0]), "again is fine")
	require.Len(t, ofOne(t, s, "sandbox"), 1)
	aside := listed().Path
	require.Equal(t, filepath.Join(s.badDir(), "net-sandbox-eth0.1"), aside)
	kept(aside)

	require.NoError(t, s.claim(rec))
	require.NoError(t, s.setAside(bad[0]), "a record is not moved")
	require.Len(t, ofOne(t, s, "sandbox"), 2)
	n, err := s.forget("sandbox")
	require.NoError(t, err)
	require.Equal(t, 3, n, "two records and what was set aside")
	_, err = os.Lstat(aside)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestDirectoryAsRecord(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, t.TempDir())
	require.NoError(t, s.claim(testRecord("sandbox", "net2", "eth1")))
	require.NoError(t, os.MkdirAll(filepath.Join(s.path("net-sandbox-eth0"), "full"), 0o700))
	checkUnreadable(t, s, func(aside string) { require.DirExists(t, filepath.Join(aside, "full")) })
}

func TestSymlinkAsRecord(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, t.TempDir())
	require.NoError(t, s.claim(testRecord("sandbox", "net2", "eth1")))
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("dear"), 0o600))
	if err := os.Symlink(victim, s.path("net-sandbox-eth0")); err != nil {
		t.Skip("no symbolic links: ", err)
	}
	checkUnreadable(t, s, func(string) {})
	got, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "dear", string(got))
}

func TestForgetLeavesWhatMayBeAnothers(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, t.TempDir())
	require.NoError(t, os.MkdirAll(s.results, 0o700))
	require.NoError(t, os.WriteFile(s.path("a-b-c-eth0"), nil, 0o600))
	_, bad, err := s.ofSandbox("c")
	require.NoError(t, err)
	require.Len(t, bad, 1)
	require.False(t, bad[0].certain)
	require.Equal(t, "a-b", bad[0].network)
	n, err := s.forget("c")
	require.NoError(t, err)
	require.Zero(t, n)
	require.FileExists(t, s.path("a-b-c-eth0"))
}

func TestFileWhereTheDirectoryShouldBe(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"results", "podcni", "."} {
		cache := filepath.Join(t.TempDir(), "cache")
		path := filepath.Join(cache, place)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
		s := newTestStore(t, cache)
		rec := testRecord("sandbox", "net", "eth0")
		var recErr *RecordError
		require.ErrorAs(t, s.claim(rec), &recErr, place)
		require.NotErrorIs(t, recErr, ErrBadRecord)
		_, _, err := s.ofSandbox("sandbox")
		if place == "results" {
			require.ErrorAs(t, err, &recErr)
		}
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "mine", string(got))
	}
}

func TestDirectoriesRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(t.TempDir(), "cache")
	s := newTestStore(t, cache)
	for i := range 3 {
		rec := testRecord("sandbox", "net", "eth0")
		require.NoError(t, s.claim(rec))
		require.NoError(t, s.put(attached(rec)))
		require.Len(t, ofOne(t, s, "sandbox"), 1)
		switch i {
		case 0:
			require.NoError(t, os.RemoveAll(cache))
		case 1:
			require.NoError(t, s.remove(rec)) // a spare is left
			require.NoError(t, os.RemoveAll(s.extras))
		case 2:
			require.NoError(t, os.RemoveAll(s.results))
		}
		require.Empty(t, ofOne(t, s, "sandbox"))
		require.NoError(t, s.remove(rec))
	}
}

func TestCostBesideTenThousand(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, t.TempDir())
	fillRecords(t, s, 10_000)
	require.Empty(t, ofOne(t, s, "sandbox-0"))
	require.EqualValues(t, 1, s.listings.Load())
	require.Zero(t, s.reads.Load(), "the names are enough")
	for i := range 20 {
		rec := testRecord("sandbox", "net", "eth0")
		require.NoError(t, s.claim(rec))
		require.Len(t, ofOne(t, s, "sandbox"), 1)
		require.NoError(t, s.put(attached(rec)))
		require.Len(t, ofOne(t, s, "sandbox"), 1)
		require.NoError(t, s.remove(rec))
		require.Empty(t, ofOne(t, s, "sandbox"))
		require.EqualValues(t, 2*(i+1), s.reads.Load(), "its own record alone, at each lookup")
	}
	// A pause of the machine may make the store distrust its index once.
	require.LessOrEqual(t, s.listings.Load(), int64(4), "our own changes need no listing")
}

func TestOthersChangesAreSeen(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	s, other := newTestStore(t, cache), newTestStore(t, cache)
	for i := range 50 {
		// A change of ours directly before and after that of another store.
		mine, theirs := testRecord("mine", "net", "eth0"), testRecord("theirs", "net", "eth0")
		require.NoError(t, s.claim(mine))
		require.NoError(t, other.claim(theirs))
		require.Len(t, ofOne(t, s, "theirs"), 1, i)
		require.Len(t, ofOne(t, other, "mine"), 1, i)
		require.NoError(t, other.remove(theirs))
		require.Empty(t, ofOne(t, s, "theirs"), i)
		// One between what we saw last and our next change.
		require.NoError(t, other.claim(theirs))
		require.NoError(t, s.put(attached(mine)))
		require.Len(t, ofOne(t, s, "theirs"), 1, i)
		require.NoError(t, other.remove(theirs))
		require.NoError(t, s.remove(mine))
		require.Empty(t, ofOne(t, s, "theirs"), i)
		require.Empty(t, ofOne(t, other, "mine"), i)

		// And of somebody who knows nothing of us.
		data, err := theirs.encode(writerID{})
		require.NoError(t, err)
		require.NoError(t, s.claim(mine))
		require.NoError(t, os.WriteFile(s.path(theirs.fileName()), data, 0o600))
		require.Len(t, ofOne(t, s, "theirs"), 1, i)
		require.NoError(t, os.Remove(s.path(theirs.fileName())))
		require.Empty(t, ofOne(t, s, "theirs"), i)
		require.NoError(t, s.remove(mine))
	}
}

func TestOnlyOneClaims(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	stores := []*recordStore{newTestStore(t, cache), newTestStore(t, cache), newTestStore(t, cache)}
	for range 20 {
		results := make(chan error)
		for _, s := range stores {
			go func() { results <- s.claim(testRecord("sandbox", "net", "eth0")) }()
		}
		won := 0
		for range stores {
			if err := <-results; err == nil {
				won++
			} else {
				require.ErrorIs(t, err, ErrAlreadyAttached)
			}
		}
		require.Equal(t, 1, won)
		require.NoError(t, stores[0].remove(testRecord("sandbox", "net", "eth0")))
	}
}

func TestStoresOfManySandboxesAtOnce(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	stores := []*recordStore{newTestStore(t, cache), newTestStore(t, cache)}
	done := make(chan error)
	const workers = 16
	for i := range workers {
		go func() {
			s := stores[i%len(stores)]
			id := string(rune('a' + i))
			done <- func() error {
				for range 10 {
					rec := testRecord(id, "net", "eth0")
					if err := s.claim(rec); err != nil {
						return err
					}
					if err := s.put(attached(rec)); err != nil {
						return err
					}
					for _, s := range stores {
						recs, bad, err := s.ofSandbox(id)
						if err != nil || len(recs) != 1 || len(bad) != 0 {
							return errors.Join(errors.New("not one record"), err)
						}
					}
					if err := s.remove(rec); err != nil {
						return err
					}
					for _, s := range stores {
						if recs, _, err := s.ofSandbox(id); err != nil || len(recs) != 0 {
							return errors.Join(errors.New("not gone"), err)
						}
					}
				}
				return nil
			}()
		}()
	}
	for range workers {
		require.NoError(t, <-done)
	}
	entries, err := os.ReadDir(stores[0].results)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestSpares(t *testing.T) {
	t.Parallel()
	if maxSpares == 0 {
		t.Skip("none are kept on this platform")
	}
	cache := t.TempDir()
	s := newTestStore(t, cache)
	recs := []*record{testRecord("a", "net", "eth0"), testRecord("b", "net", "eth0")}
	for _, rec := range recs {
		require.NoError(t, s.claim(rec))
		require.NoError(t, s.put(attached(rec)))
	}
	for _, rec := range recs {
		require.NoError(t, s.remove(rec))
	}
	require.Len(t, s.files.spares, 3, "the claim of each, used again by the next put, and two records")
	// A file that has another name is not written to, and one that has gone is
	// not missed.
	linked := filepath.Join(cache, "linked")
	require.NoError(t, os.Link(s.files.spares[2], linked))
	before, err := os.ReadFile(linked)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.files.spares[1], []byte(strings.Repeat("longer than a record ", 100)), 0o600))
	require.NoError(t, os.Remove(s.files.spares[0]))
	for _, rec := range recs {
		require.NoError(t, s.claim(rec))
		require.NoError(t, s.put(attached(rec)))
		require.Len(t, ofOne(t, s, rec.ContainerID), 1)
	}
	got, err := os.ReadFile(linked)
	require.NoError(t, err)
	require.Equal(t, before, got)

	// A hard link that a person made of a record keeps its content.
	require.NoError(t, os.Link(s.path("net-a-eth0"), filepath.Join(cache, "backup")))
	require.NoError(t, s.remove(recs[0]))
	got, err = os.ReadFile(filepath.Join(cache, "backup"))
	require.NoError(t, err)
	require.NotEmpty(t, got)

	s.close()
	s.close()
	entries, err := os.ReadDir(s.extras)
	require.NoError(t, err)
	require.Len(t, entries, 1, "the lock file alone")
	require.NoError(t, s.remove(recs[1]), "what is under way at the end goes on")
	require.NoError(t, s.claim(recs[0]))
	require.NoError(t, s.put(attached(recs[0])))
	entries, err = os.ReadDir(s.extras)
	require.NoError(t, err)
	require.Len(t, entries, 1, "and keeps no spares")
}

func TestSweep(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	live := newTestStore(t, cache)
	rec := testRecord("sandbox", "net", "eth0")
	require.NoError(t, live.claim(rec))
	require.NoError(t, live.put(attached(rec)))

	old := time.Now().Add(-time.Hour)
	file := func(name string, when time.Time) string {
		path := filepath.Join(live.extras, name)
		require.NoError(t, os.WriteFile(path, []byte("secret"), 0o600))
		require.NoError(t, os.Chtimes(path, when, when))
		return path
	}
	abandoned := file(newToken()+".1", old)
	young := file(newToken()+".1", time.Now())
	foreign := file("README.txt", old)
	lives := file(live.files.token+".99", old)

	s := newTestStore(t, cache)
	require.NoError(t, s.claim(testRecord("second", "net", "eth0")))
	require.NoFileExists(t, abandoned)
	require.FileExists(t, young)
	require.FileExists(t, foreign)
	if fileLocks {
		require.FileExists(t, lives)
	}
	live.close()
	s = newTestStore(t, cache)
	require.NoError(t, s.claim(testRecord("third", "net", "eth0")))
	require.NoFileExists(t, lives)
}

func TestSync(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, filepath.Join(t.TempDir(), "cache"))
	s.sync = true
	rec := testRecord("sandbox", "net", "eth0")
	require.NoError(t, s.claim(rec))
	require.NoError(t, s.put(attached(rec)))
	require.Len(t, ofOne(t, s, "sandbox"), 1)
	require.NoError(t, s.remove(rec))
	require.NoError(t, s.remove(rec))
}

func TestAttachmentsEndWithTheContext(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, t.TempDir())
	require.NoError(t, s.claim(testRecord("sandbox", "net", "eth0")))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.attachments(ctx)
	require.ErrorIs(t, err, context.Canceled)
	recs, bad, err := s.all(t.Context())
	require.NoError(t, err)
	require.Len(t, recs, 1)
	require.Empty(t, bad)
}
