package podcni

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLoadSettles does random things to the directories, with a load after
// each, and holds what comes of it against what a new loader finds.
func TestLoadSettles(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			settle(t, rand.New(rand.NewPCG(seed, seed)))
		})
	}
}

func settle(t *testing.T, rng *rand.Rand) {
	files := []string{"1.conf", "2.conflist", "3.json", "4.conf", "x/1.conf", "x/2.conf", "y/1.conf", "note.txt"}
	contents := []string{
		list("x", "1.0.0", "a"), list("x", "1.0.0", "b"), list("y", "0.4.0", "a", "b"), list("z", "1.1.0", "c"),
		`{"name":"y"}`, `{"name":"w","type":"a"}`, `{"type":"a"}`, `{"type":"c"}`, "", "{", `{"name":"..","type":"a"}`,
	}
	answers := []string{allVersions, `{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}`}
	pick := func(from []string) string { return from[rng.IntN(len(from))] }
	b := newBench(t).plugin("a", "b")
	for _, dir := range []string{"x", "y"} {
		require.NoError(t, os.Mkdir(b.path(dir), 0o755))
	}
	act := func() {
		file := b.path(pick(files))
		switch rng.IntN(8) {
		case 0, 1, 2: // in place
			_ = os.WriteFile(file, []byte(pick(contents)), 0o644)
		case 3:
			temp := filepath.Join(filepath.Dir(b.confDir), "temp")
			require.NoError(t, os.WriteFile(temp, []byte(pick(contents)), 0o644))
			_ = os.Rename(temp, file)
		case 4:
			_ = os.Remove(file)
		case 5:
			_ = os.Rename(file, b.path(pick(files)))
		case 6:
			_ = os.Rename(b.path("x"), b.path("away"))
			_ = os.Rename(b.path("away"), b.path(pick([]string{"x", "away"})))
			_ = os.Mkdir(b.path("x"), 0o755)
		case 7:
			typ := pick([]string{"a", "b", "c"})
			if rng.IntN(3) == 0 {
				_ = os.Remove(filepath.Join(b.binDir, typ))
			} else {
				b.install(typ, pick(answers))
			}
		}
	}
	var s *snapshot
	for range 60 {
		act()
		if rng.IntN(4) == 0 {
			s = b.l.load(s)
		}
	}
	s = b.load(s)
	fresh := newBench(t)
	fresh.l.o.confDir, fresh.run.binDirs = b.confDir, []string{b.binDir}
	for round := 0; ; round++ {
		want := fresh.load(nil)
		broken := false
		for _, r := range want.rejected {
			_, isList := fresh.l.lists.entries[r.Path]
			_, isPlugin := fresh.l.plugins.entries[r.Path]
			if isList && fresh.l.lists.entries[r.Path].err != nil || isPlugin && fresh.l.plugins.entries[r.Path].err != nil {
				// Where a file does not parse the two may differ.
				require.NoError(t, os.Remove(r.Path))
				broken = true
			}
		}
		s = b.load(s)
		if !broken {
			require.True(t, want.same(s), "rejected: %v\nwant: %v", s.rejected, want.rejected)
			require.ElementsMatch(t, fresh.l.watchDirs(want), swap(b.l.watchDirs(s), b.binDir, fresh.binDir))
			return
		}
		require.Less(t, round, 100)
	}
}

func swap(all []string, from, to string) []string {
	for i := range all {
		if all[i] == from {
			all[i] = to
		}
	}
	return all
}

// FuzzLoad puts any content under any name into the directory.
func FuzzLoad(f *testing.F) {
	f.Add("1.conflist", []byte(list("x", "1.0.0", "a", "b")))
	f.Add("1.conf", []byte(`{"name":"../outside"}`))
	f.Add("x/1.conf", []byte(`{"name":"x","type":"../../outside/1.conf"}`))
	f.Add(".json", []byte(`{"name":"x","type":"a","cniVersions":["1.0.0",null]}`))
	f.Add("1.conf", []byte("\xff{"))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		b := newBench(t).plugin("a", "b")
		b.write("9.conf", list("good", "1.0.0", "a"))
		b.write("../outside/1.conf", `{"type":"outside"}`).plugin("outside")
		path := b.path(name)
		if strings.ContainsRune(name, 0) || !strings.HasPrefix(filepath.Clean(path), b.confDir+string(filepath.Separator)) {
			t.Skip("it is elsewhere")
		}
		if os.MkdirAll(filepath.Dir(path), 0o755) != nil || os.WriteFile(path, content, 0o644) != nil {
			t.Skip("no file can have that name")
		}
		s := b.load(nil)
		require.NotEmpty(t, append(s.networks, nil), "no panic")
		for _, n := range s.networks {
			require.NoError(t, checkNetworkName(n.name))
			require.Same(t, n, s.byName[n.name])
			require.NotEmpty(t, n.plugins)
			for _, p := range n.plugins {
				require.NoError(t, checkPluginType(p.typ))
				require.Equal(t, filepath.Join(b.binDir, p.typ), p.path)
				require.True(t, p.typ != "outside" || strings.Contains(string(content), "outside"))
			}
			_, err := recordedNetwork(n.config)
			require.NoError(t, err)
		}
		taken := s.byName["good"] != nil
		require.True(t, taken || len(s.rejected) > 0)
		require.True(t, s.same(b.load(s)))
	})
}

// BenchmarkLoad changes one file of fifty networks of three plugins each.
func BenchmarkLoad(b *testing.B) {
	dir := b.TempDir()
	o, err := newOptions([]Option{WithConfDir(filepath.Join(dir, "net.d")), WithBinDirs(filepath.Join(dir, "bin"))})
	require.NoError(b, err)
	require.NoError(b, os.Mkdir(o.confDir, 0o755))
	require.NoError(b, os.Mkdir(o.binDirs[0], 0o755))
	for i := range 50 {
		types := []string{fmt.Sprintf("p%da", i), fmt.Sprintf("p%db", i), fmt.Sprintf("p%dc", i)}
		for _, typ := range types {
			require.NoError(b, os.WriteFile(filepath.Join(o.binDirs[0], typ), []byte(allVersions), 0o755))
		}
		name := fmt.Sprintf("net%02d", i)
		require.NoError(b, os.WriteFile(filepath.Join(o.confDir, name+".conflist"), []byte(list(name, "1.0.0", types...)), 0o644))
	}
	done := make(chan struct{}, 1)
	p := newProber(b.Context(), &textRunner{binDirs: o.binDirs}, o.log, func() { done <- struct{}{} })
	defer p.close()
	l, err := newLoader(o, p)
	require.NoError(b, err)
	s := l.load(nil)
	for s.pending > 0 {
		<-done
		s = l.load(s)
	}
	require.Len(b, s.networks, 50)
	for _, e := range l.lists.entries { // as they are once they are two seconds old
		e.settled = true
	}
	path := filepath.Join(o.confDir, "net25.conflist")
	for i := 0; b.Loop(); i++ {
		version := []string{"1.0.0", "0.4.0"}[i%2]
		require.NoError(b, os.WriteFile(path, []byte(list("net25", version, "p25a", "p25b", "p25c")), 0o644))
		s = l.load(s)
	}
	require.Len(b, s.networks, 50)
}
