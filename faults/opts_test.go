package faults_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

func TestNewRefusesOptions(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("a", 10<<10)
	for _, tc := range []struct {
		name, field string
		opt         podcni.Option
	}{
		{"relative configuration directory", "WithConfDir", podcni.WithConfDir("net.d")},
		{"NUL in a path", "WithConfDir", podcni.WithConfDir("/a\x00b")},
		{"empty binary directory", "WithBinDirs", podcni.WithBinDirs(t.TempDir(), "")},
		{"relative binary directory", "WithBinDirs", podcni.WithBinDirs(t.TempDir(), "bin")},
		{"relative cache directory", "WithCacheDir", podcni.WithCacheDir("cache")},
		{"default network that can be none", "WithDefaultNetwork", podcni.WithDefaultNetwork("../net")},
		{"huge default network", "WithDefaultNetwork", podcni.WithDefaultNetwork(huge)},
		{"prefix without room for a number", "WithInterfacePrefix", podcni.WithInterfacePrefix("abcdefghijklm")},
		{"prefix that is no interface's", "WithInterfacePrefix", podcni.WithInterfacePrefix("a/b")},
		{"huge prefix", "WithInterfacePrefix", podcni.WithInterfacePrefix(huge)},
		{"unknown verb", "WithPluginTimeout", podcni.WithPluginTimeout("add", time.Second)},
		{"negative time limit", "WithPluginTimeout", podcni.WithPluginTimeout("ADD", -2)},
		{"negative grace", "WithTeardownGrace", podcni.WithTeardownGrace(-2)},
		{"negative bound", "WithMaxConcurrent", podcni.WithMaxConcurrent(-2)},
		{"negative retries", "WithMaxAttempts", podcni.WithMaxAttempts(-2)},
		{"NUL in the owner", "WithOwner", podcni.WithOwner("a\x00")},
		{"NUL in the environment", "WithPluginEnv", podcni.WithPluginEnv("A=\x00")},
		{"nameless variable", "WithPluginEnv", podcni.WithPluginEnv("PATH", "=x")},
		{"empty variable", "WithPluginEnv", podcni.WithPluginEnv("")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p, err := podcni.New(podcni.WithConfDir(t.TempDir()), tc.opt)
			require.Nil(t, p)
			require.ErrorIs(t, err, podcni.ErrInvalidOption)
			require.NotErrorIs(t, err, podcni.ErrInvalidPod)
			var bad *podcni.FieldError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, tc.field, bad.Field)
			require.Less(t, len(err.Error()), 1000)
		})
	}
}

// Options only record: their order does not matter, the last of two equal ones
// wins, nil is none, and what the caller does with its slices afterwards changes
// nothing.
func TestOptionsRecord(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	dirs := []string{n.bin.Path()}
	conf := []byte(testutils.List("mine", "1.1.0", "a"))
	opts := []podcni.Option{
		podcni.WithDefaultNetwork("a"),
		nil,
		podcni.WithConfList(conf),
		podcni.WithBinDirs(dirs...),
		podcni.WithCacheDir(n.cache),
		podcni.WithConfDir(t.TempDir()),
		podcni.WithDefaultNetwork("b"),
		podcni.WithConfDir(n.conf.Path()),
		podcni.WithLogger(nil),
		podcni.WithExec(nil),
	}
	dirs[0] = "lost"
	clear(conf)
	// Twice: applying an option must not use it up.
	for range 2 {
		p, err := podcni.New(opts...)
		require.NoError(t, err)
		var names []string
		for _, net := range p.Networks() {
			names = append(names, net.Name)
		}
		require.ElementsMatch(t, []string{"mine", "a", "b"}, names)
		require.Equal(t, "b", p.GetDefaultNetworkName())
		require.Empty(t, p.Rejected())
		require.NoError(t, p.Shutdown())
	}
}

// New reads; it makes nothing.
func TestNewCreatesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := podcni.New(
		podcni.WithConfDir(filepath.Join(dir, "net.d")),
		podcni.WithBinDirs(filepath.Join(dir, "bin")),
		podcni.WithCacheDir(filepath.Join(dir, "cache")),
	)
	require.NoError(t, err)
	require.ErrorIs(t, p.Status(), podcni.ErrNotReady)
	_, err = p.Attachments(t.Context())
	require.NoError(t, err)
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.NoError(t, p.GC(t.Context(), nil))
	require.NoError(t, p.Shutdown())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestWithInterfacePrefix(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open(podcni.WithInterfacePrefix("net"))
	pod := n.pod("sandbox", "a", "a")
	results, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.Equal(t, "net0", results[0].Ifname)
	require.Equal(t, "net1", results[1].Ifname)
	require.NoError(t, p.TearDownPod(pod))
}

// With a bound of one, no two plugins run at the same time, whatever pods and
// verbs they run for.
func TestWithMaxConcurrent(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	p := n.open(podcni.WithMaxConcurrent(1))
	errs := make(chan error)
	pods := []podcni.PodNetwork{n.pod("s0", "a"), n.pod("s1", "b"), n.pod("s2", "a", "b"), n.pod("s3", "b", "a")}
	for _, pod := range pods {
		go func() {
			_, err := p.SetUpPod(pod)
			if err == nil {
				err = p.TearDownPod(pod)
			}
			errs <- err
		}()
	}
	for range pods {
		require.NoError(t, <-errs)
	}
	calls := n.calls()
	require.Len(t, calls, 12)
	for i, call := range calls {
		require.NotZero(t, call.EndSeq)
		if i > 0 {
			require.Less(t, calls[i-1].EndSeq, call.Seq)
		}
	}
}
