package integration_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

type object = map[string]any

// pluginPath is the PATH of plugins: with nft, where Debian has it.
const pluginPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// node is a host with pods: the sandbox that a test runs in.
type node struct {
	*podcni.CNI
	t        *testing.T
	dir      string // of the node's own files
	binDir   string
	stays    []string // interfaces that are to be there at the end
	networks []string
	ids      []string // of every pod that there was
}

// onNode runs a test in a sandbox, with what the plugins need in it.
func onNode(t *testing.T, test func(n *node)) {
	t.Helper()
	t.Parallel()
	plugins := os.Getenv("PODCNI_PLUGINS")
	if plugins == "" {
		t.Skip("PODCNI_PLUGINS names no directory of the CNI reference plugins; see make integration")
	}
	require.True(t, filepath.IsAbs(plugins), "PODCNI_PLUGINS must be an absolute path")
	testutils.Sandbox(t, func(t *testing.T) {
		n := &node{t: t, dir: t.TempDir(), binDir: filepath.Join(t.TempDir(), "bin")}
		// Links, so that a test can take a plugin away.
		require.NoError(t, os.Mkdir(n.binDir, 0o755))
		entries, err := os.ReadDir(plugins)
		require.NoError(t, err)
		for _, e := range entries {
			require.NoError(t, os.Symlink(filepath.Join(plugins, e.Name()), filepath.Join(n.binDir, e.Name())))
		}
		n.stays, err = interfaces()
		require.NoError(t, err)
		test(n)
	})
}

// needNft skips a test whose plugins run nft.
func (n *node) needNft() {
	n.t.Helper()
	if _, err := nft(); err != nil {
		n.t.Skipf("nft cannot be used: %v", err)
	}
}

func nft() (string, error) {
	out, err := exec.Command("/usr/sbin/nft", "list", "ruleset").CombinedOutput()
	return string(out), err
}

// load makes the Plugin, with these networks; stays are the interfaces that
// their plugins leave behind on purpose, such as bridges.
func (n *node) load(stays []string, networks ...object) {
	n.t.Helper()
	confDir := filepath.Join(n.dir, "net.d")
	require.NoError(n.t, os.Mkdir(confDir, 0o755))
	for _, network := range networks {
		name := network["name"].(string)
		n.networks = append(n.networks, name)
		conf, err := json.Marshal(network)
		require.NoError(n.t, err)
		require.NoError(n.t, os.WriteFile(filepath.Join(confDir, name+".conflist"), conf, 0o644))
	}
	n.stays = append(n.stays, stays...)
	p, err := podcni.New(
		podcni.WithConfDir(confDir),
		podcni.WithBinDirs(n.binDir),
		podcni.WithCacheDir(n.cacheDir()),
		podcni.WithPluginEnv("PATH="+pluginPath),
		podcni.WithoutWatch(),
	)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { require.NoError(n.t, p.Shutdown()) })
	require.Empty(n.t, p.Rejected())
	n.CNI = p
}

func (n *node) cacheDir() string { return filepath.Join(n.dir, "cache") }

// hostLocal is the configuration of the IPAM plugin host-local.
func (n *node) hostLocal(subnets ...string) object {
	var ranges [][]object
	var routes []object
	for _, subnet := range subnets {
		ranges = append(ranges, []object{{"subnet": subnet}})
		dst := "0.0.0.0/0"
		if netip.MustParsePrefix(subnet).Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, object{"dst": dst})
	}
	return object{"type": "host-local", "dataDir": n.reservations(), "ranges": ranges, "routes": routes}
}

func (n *node) reservations() string { return filepath.Join(n.dir, "reservations") }

// list is a network of these plugins.
func list(name, version string, plugins ...object) object {
	return object{"cniVersion": version, "name": name, "plugins": plugins}
}

// pod is a pod on a node.
type pod struct {
	podcni.PodNetwork
	ns *podcni.NetNS
	n  *node
}

// pod makes a pod with a namespace.
func (n *node) pod(name string, networks ...podcni.NetAttachment) *pod {
	n.t.Helper()
	ns, err := podcni.NewNetNS(filepath.Join(n.dir, "netns"), name)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { require.NoError(n.t, ns.Remove()) })
	p := &pod{ns: ns, n: n, PodNetwork: podcni.PodNetwork{
		Name: name, Namespace: "default", ID: "sandbox-" + name, NetNS: ns.Path(), Networks: networks,
	}}
	n.ids = append(n.ids, p.ID)
	return p
}

// ask sets what the pod asks of the network that tests of one network have.
func (p *pod) ask(config podcni.RuntimeConfig) *pod {
	p.RuntimeConfig = map[string]podcni.RuntimeConfig{"net": config}
	return p
}

// attach sets the pod up, and sees that the kernel has what the plugins told.
func (p *pod) attach() podcni.PodResult {
	t := p.n.t
	t.Helper()
	results, err := p.n.SetUpPodWithContext(t.Context(), p.PodNetwork)
	require.NoError(t, err)
	got, err := podcni.MergeResults(results)
	require.NoError(t, err)
	require.NotEmpty(t, got.IPs)
	for _, ip := range got.IPs {
		require.Contains(t, p.kernel(ip.Interface).Addrs, ip.Address)
	}
	for _, itf := range got.Interfaces {
		if itf.Sandbox != "" {
			require.Equal(t, p.ns.Path(), itf.Sandbox)
			require.Equal(t, itf.MAC, p.kernel(itf.Name).MAC)
		}
	}
	require.True(t, p.kernel("lo").Up)
	return got
}

// kernel is an interface as the kernel has it, which must be up.
func (p *pod) kernel(name string) podcni.InterfaceInfo {
	p.n.t.Helper()
	info, err := p.ns.Interface(name)
	require.NoError(p.n.t, err)
	require.True(p.n.t, info.Up)
	return info
}

// detach tears the pod down.
func (p *pod) detach() {
	p.n.t.Helper()
	require.NoError(p.n.t, p.n.TearDownPodWithContext(p.n.t.Context(), p.PodNetwork))
	var left []string
	require.NoError(p.n.t, p.ns.Do(func() (err error) {
		left, err = interfaces()
		return err
	}))
	require.Equal(p.n.t, []string{"lo"}, left, "interfaces in the pod")
}

// nothingLeft is how every test ends.
func (n *node) nothingLeft() {
	n.t.Helper()
	// The kernel takes its time over a namespace that nobody holds any more.
	require.EventuallyWithT(n.t, func(c *assert.CollectT) {
		now, err := interfaces()
		require.NoError(c, err)
		require.ElementsMatch(c, n.stays, now, "interfaces")
	}, patience, 20*time.Millisecond)

	// Tables and chains stay. The reference plugins put the pod's ID into a
	// comment of each rule that is a pod's.
	if rules, err := nft(); err == nil {
		for _, id := range n.ids {
			require.NotContains(n.t, rules, id, "rules of nft")
		}
	}
	require.Empty(n.t, n.reserved(), "reservations of host-local")

	attachments, err := n.Attachments(n.t.Context())
	require.NoError(n.t, err)
	require.Empty(n.t, attachments, "attachments")
	records, err := os.ReadDir(filepath.Join(n.cacheDir(), "results"))
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(n.t, err)
	}
	require.Empty(n.t, records, "records")
}

// reserved are the addresses that host-local holds.
func (n *node) reserved() []string {
	n.t.Helper()
	var addresses []string
	err := filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			// Windows has no ':' in names of files, so host-local may write '_'.
			name := strings.ReplaceAll(d.Name(), "_", ":")
			if _, err := netip.ParseAddr(name); err == nil {
				addresses = append(addresses, name)
			}
		}
		return err
	})
	require.NoError(n.t, err)
	return addresses
}

// interfaces are the names of those of the calling thread's namespace.
func interfaces() ([]string, error) {
	all, err := net.Interfaces()
	var names []string
	for _, itf := range all {
		names = append(names, itf.Name)
	}
	return names, err
}
