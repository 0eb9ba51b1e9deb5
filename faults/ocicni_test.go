package faults_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// initCNI is InitCNIWithCache on the node; it is shut down at the end of the
// test.
func (n *node) initCNI(defaultNetName string) podcni.CNIPlugin {
	n.t.Helper()
	p, err := podcni.InitCNIWithCache(defaultNetName, n.conf.Path(), n.cache, n.bin.Path())
	require.NoError(n.t, err)
	n.t.Cleanup(func() { require.NoError(n.t, p.Shutdown()) })
	return p
}

func TestInitCNITakesTheDefaultNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	require.Equal(t, "a", n.initCNI("").GetDefaultNetworkName())
	p := n.initCNI("b")
	require.Equal(t, "b", p.GetDefaultNetworkName())
	require.NoError(t, p.Status())
	pod := n.pod("sandbox")
	results, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.Len(t, results, 1)
	require.Equal(t, podcni.NetAttachment{Name: "b", Ifname: podcni.DefaultInterfaceName}, results[0].NetAttachment)
	require.Len(t, n.records(), 1)
	require.NoError(t, p.TearDownPod(pod))
	require.Equal(t, []string{"ADD b", "DEL b"}, testutils.Verbs(withoutStatus(n.calls())))
}

func withoutStatus(calls []testutils.Call) []testutils.Call {
	var rest []testutils.Call
	for _, c := range calls {
		if c.Verb != "STATUS" {
			rest = append(rest, c)
		}
	}
	return rest
}

// ocicni runs CHECK in GetPodNetworkStatus since 0.4.0; so do its successors,
// and New does not.
func TestInitCNIChecks(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.bin.Add("old", "new")
	n.conf.Write("1.conflist", testutils.List("old", "0.3.1", "old"))
	n.conf.Write("2.conflist", testutils.List("new", "0.4.0", "new"))
	p := n.initCNI("")
	pod := n.pod("sandbox", "old", "new")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	results, err := p.GetPodNetworkStatus(pod)
	require.NoError(t, err)
	require.Len(t, results, 2)
	require.Equal(t, []string{"ADD old", "ADD new", "CHECK new"}, n.verbs())

	results, err = n.open().GetPodNetworkStatus(pod)
	require.NoError(t, err)
	require.Len(t, results, 2)
	require.Equal(t, []string{"ADD old", "ADD new", "CHECK new"}, n.verbs())
	require.NoError(t, p.TearDownPod(pod))
}

// CNI_ARGS of the environment reach plugins through InitCNI alone, and an
// address that the caller gives wins over the one there.
func TestInitCNIPassesCNIArgs(t *testing.T) {
	t.Setenv("CNI_ARGS", "IP=10.9.9.9;COLOUR=blue")
	const names = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=sandbox;K8S_POD_UID=uid-sandbox"
	n := newNode(t, "net")
	pod := n.pod("sandbox")
	for _, tc := range []struct {
		p    podcni.CNIPlugin
		ip   string
		want string
	}{
		{n.initCNI(""), "", names + ";IP=10.9.9.9;COLOUR=blue"},
		{n.initCNI(""), "10.1.0.5", names + ";IP=10.1.0.5;COLOUR=blue"},
		{n.open(), "", names},
	} {
		before := len(n.calls())
		pod.RuntimeConfig = map[string]podcni.RuntimeConfig{"net": {IP: tc.ip}}
		_, err := tc.p.SetUpPod(pod)
		require.NoError(t, err)
		require.NoError(t, tc.p.TearDownPod(pod))
		calls := n.calls()[before:]
		require.Len(t, calls, 2)
		for _, call := range calls {
			require.Equal(t, tc.want, call.Env["CNI_ARGS"], call.Verb)
		}
	}
}

// ocicni's callers may give relative paths; they must mean the same for as long
// as the Plugin lives.
func TestInitCNIRelativePaths(t *testing.T) {
	n := newNode(t, "net")
	dir := t.TempDir()
	for name, path := range map[string]string{"conf": n.conf.Path(), "bin": n.bin.Path()} {
		require.NoError(t, os.Symlink(path, filepath.Join(dir, name)))
	}
	t.Chdir(dir)
	p, err := podcni.InitCNIWithCache("", "conf", "cache", "bin")
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Shutdown()) }()
	t.Chdir(t.TempDir())
	pod := n.pod("sandbox")
	_, err = p.SetUpPod(pod)
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "cache", "results", "net-sandbox-eth0"))
	require.NoError(t, p.TearDownPod(pod))
}

func TestInitCNIDefaultDirectories(t *testing.T) {
	t.Parallel()
	p, err := podcni.InitCNI("", "")
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Shutdown()) }()
	networks := p.(*podcni.CNI).Networks()
	for _, net := range networks {
		require.Equal(t, podcni.DefaultConfDir, filepath.Dir(net.Path))
	}
	if len(networks) == 0 {
		require.ErrorContains(t, p.Status(), podcni.DefaultConfDir)
	}
}

func TestInitCNIFails(t *testing.T) {
	t.Parallel()
	for field, init := range map[string]func() (podcni.CNIPlugin, error){
		"WithDefaultNetwork": func() (podcni.CNIPlugin, error) { return podcni.InitCNI("../x", t.TempDir()) },
		"WithConfDir":        func() (podcni.CNIPlugin, error) { return podcni.InitCNI("", "a\x00b") },
		"WithCacheDir":       func() (podcni.CNIPlugin, error) { return podcni.InitCNIWithCache("", "", "a\x00b") },
		"WithBinDirs":        func() (podcni.CNIPlugin, error) { return podcni.InitCNINoInotify("", "", "", "a\x00b") },
	} {
		p, err := init()
		require.ErrorIs(t, err, podcni.ErrInvalidOption)
		var bad *podcni.FieldError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, field, bad.Field)
		require.True(t, p == nil, "no typed nil in the interface")
	}
}

// InitCNINoInotify loads once: when a Plugin that watches has seen a change,
// it still has not, until it is asked to.
func TestInitCNINoInotify(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	n.conf.Remove("01-b.conflist")
	watching := n.open()
	p, err := podcni.InitCNINoInotify("", n.conf.Path(), n.cache, n.bin.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Shutdown()) }()
	still := p.(*podcni.CNI)
	updates := watching.Updates(t.Context())

	n.conf.Rename("01-b.conflist", testutils.List("b", "1.1.0", "b"))
	for len(watching.Networks()) < 2 {
		<-updates
	}
	require.Len(t, still.Networks(), 1)
	require.NoError(t, still.Reload(t.Context()))
	require.Len(t, still.Networks(), 2)
}
