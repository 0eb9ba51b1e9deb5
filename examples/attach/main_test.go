package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// program is the name under which the test binary is attach itself.
const program = "attach-under-test"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == program {
		os.Exit(start())
	}
	testutils.Main(m, func() error { return goleak.Find() })
}

// setup is a node's directories, and the flags that name them.
type setup struct {
	t     *testing.T
	conf  *testutils.ConfDir
	bin   *testutils.BinDir
	flags []string
	netns string
}

// newSetup has one network, net, of the fake plugin fake. Its directories are
// below one that anybody can write to, which --no-strict allows.
func newSetup(t *testing.T) *setup {
	t.Helper()
	s := &setup{t: t, conf: testutils.NewConfDir(t), bin: testutils.NewBinDir(t).Add("fake"), netns: filepath.Join(t.TempDir(), "netns")}
	s.conf.Write("10-net.conflist", testutils.List("net", "1.0.0", "fake"))
	s.flags = []string{
		"--conf-dir", s.conf.Path(), "--bin-dir", s.bin.Path(), "--cache-dir", t.TempDir(),
		"--netns-dir", s.netns, "--no-strict",
	}
	return s
}

// attach runs the program with the setup's flags after the command.
func (s *setup) attach(args ...string) (status int, stdout, stderr string) {
	s.t.Helper()
	return s.attachWith(s.t.Context(), &syncBuffer{}, args...)
}

func (s *setup) attachWith(ctx context.Context, stdout *syncBuffer, args ...string) (status int, out, errs string) {
	s.t.Helper()
	all := append([]string{args[0]}, s.flags...)
	var stderr syncBuffer
	status = run(ctx, append(all, args[1:]...), strings.NewReader(""), stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// syncBuffer is written to by the program while the test reads it.
type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args   []string
		status int
		says   string
	}{
		{nil, exitUsage, "Usage:"},
		{[]string{"--help"}, exitOK, "attach run"},
		{[]string{"run", "--help"}, exitOK, "-conf-dir"},
		{[]string{"bring"}, exitUsage, `no command "bring"`},
		{[]string{"run"}, exitUsage, "no command to run"},
		{[]string{"list", "--colour"}, exitUsage, "-colour"},
		{[]string{"list", "everything"}, exitUsage, "everything"},
		{[]string{"add"}, exitUsage, "--id is needed"},
		{[]string{"check"}, exitUsage, "--id is needed"},
		{[]string{"del"}, exitUsage, "--id is needed"},
		{[]string{"add", "--id", "a", "b"}, exitUsage, `"b"`},
		{[]string{"add", "--id", "a", "--port", "80"}, exitUsage, "HOST:CONTAINER"},
		{[]string{"add", "--id", "a", "--network", ":eth0"}, exitUsage, "no name"},
		{[]string{"add", "--id", "a", "--arg", "IP"}, exitUsage, "KEY=VALUE"},
		{[]string{"add", "--id", "a", "--capability", "mac=c2:11"}, exitUsage, "KEY=JSON"},
		{[]string{"gc"}, exitUsage, "--all"},
		{[]string{"forget"}, exitUsage, "forget"},
		{[]string{"forget", "web", "--cache-dir", "/nowhere"}, exitUsage, "move --cache-dir"},
		{[]string{"gc", "web", "--all"}, exitUsage, "move --all"},
	} {
		var out, errs bytes.Buffer
		require.Equal(t, test.status, run(t.Context(), test.args, nil, &out, &errs), test.args)
		if test.status == exitOK {
			require.Contains(t, out.String(), test.says, test.args)
			require.Empty(t, errs.String())
		} else {
			require.Contains(t, errs.String(), test.says, test.args)
			require.Empty(t, out.String())
		}
	}
}

func TestFlagsOfPods(t *testing.T) {
	t.Parallel()
	var e env
	require.NoError(t, e.flagSet("add").Parse([]string{
		"--id", "a", "--network", "one", "-network", "two:net0",
		"--ip", "10.0.0.7", "--ip", "two=fd00::7/64", "--mac", "c2:11:22:33:44:55",
		"--port", "8080:80", "--port", "127.0.0.1:53:5353/udp", "--port", "[::1]:81:82",
		"--ingress", "10M:1M", "--egress", "two=5k:1",
		"--arg", "K=a=b", "--capability", `aliases=["x"]`,
	}))
	pod, err := e.pod("default")
	require.NoError(t, err)
	require.Equal(t, podcni.PodNetwork{
		ID: "a", NetNS: "/run/netns/a",
		Networks: []podcni.NetAttachment{{Name: "one"}, {Name: "two", Ifname: "net0"}},
		RuntimeConfig: map[string]podcni.RuntimeConfig{
			"one": {
				IPs: []string{"10.0.0.7"}, MAC: "c2:11:22:33:44:55",
				PortMappings: []podcni.PortMapping{
					{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
					{HostPort: 53, ContainerPort: 5353, Protocol: "udp", HostIP: "127.0.0.1"},
					{HostPort: 81, ContainerPort: 82, Protocol: "tcp", HostIP: "::1"},
				},
				Bandwidth:      &podcni.BandwidthConfig{IngressRate: 10_000_000, IngressBurst: 1_000_000},
				Args:           map[string]string{"K": "a=b"},
				CapabilityArgs: map[string]any{"aliases": json.RawMessage(`["x"]`)},
			},
			"two": {
				IPs:       []string{"fd00::7/64"},
				Bandwidth: &podcni.BandwidthConfig{EgressRate: 5_000, EgressBurst: 1},
			},
		},
	}, pod)
}

func TestFlagsAreForTheDefaultNetwork(t *testing.T) {
	t.Parallel()
	var e env
	require.NoError(t, e.flagSet("add").Parse([]string{"--id", "a", "--netns", "/x/y", "--ip", "10.0.0.7"}))
	pod, err := e.pod("default")
	require.NoError(t, err)
	require.Equal(t, "/x/y", pod.NetNS)
	require.Equal(t, map[string]podcni.RuntimeConfig{"default": {IPs: []string{"10.0.0.7"}}}, pod.RuntimeConfig)
}

func TestFlagsThatAreWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--port", "0:80"},
		{"--port", "80:65536"},
		{"--port", "localhost:80:80"},
		{"--ingress", "10M"},
		{"--ingress", "x:1"},
		{"--ingress", ":"},
		{"--egress", "99999999999G:1"},
		{"--timeout", "5"},
		{"--timeout", "-1s"},
		{"--timeout", "0"},
	} {
		var e env
		set := e.flagSet("add")
		set.SetOutput(&bytes.Buffer{})
		require.Error(t, set.Parse(args), args)
	}
	for _, args := range [][]string{
		{"--network", "one", "--ip", "two=10.0.0.7"},
		{"--network", "one", "--ip", "one=10.0.0.7", "--mac", "c2:11:22:33:44:55"},
	} {
		var e env
		require.NoError(t, e.flagSet("add").Parse(args))
		_, err := e.pod("default")
		var line lineError
		require.ErrorAs(t, err, &line, args)
	}
}

func TestNetworksAndStatus(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.conf.Write("20-bad.conflist", "{").Write("30-other.conflist", testutils.List("other", "0.4.0", "fake"))

	status, out, errs := s.attach("networks")
	require.Zero(t, status, errs)
	require.Regexp(t, `(?m)^net +yes +1\.0\.0 +fake +/.*10-net\.conflist$`, out)
	require.Regexp(t, `(?m)^other +- +0\.4\.0 +fake +/`, out)
	require.Regexp(t, `(?m)^not taken: /.*20-bad\.conflist`, out)

	status, out, _ = s.attach("networks", "--json")
	require.Zero(t, status)
	var lists networksJSON
	require.NoError(t, json.Unmarshal([]byte(out), &lists))
	require.Len(t, lists.Networks, 2)
	require.Equal(t, []string{"fake"}, lists.Networks[0].Plugins)
	require.Len(t, lists.Rejected, 1)

	status, out, _ = s.attach("status")
	require.Zero(t, status)
	require.Equal(t, "ready: the default network is net\n", out)

	s.conf.Remove("10-net.conflist")
	s.conf.Remove("30-other.conflist")
	status, _, errs = s.attach("status")
	require.Equal(t, exitFailed, status)
	require.Contains(t, errs, "20-bad.conflist")

	status, out, _ = s.attach("status", "--json")
	require.Equal(t, exitFailed, status)
	var said statusJSON
	require.NoError(t, json.Unmarshal([]byte(out), &said))
	require.False(t, said.Ready)
	require.Contains(t, said.Reason, "20-bad.conflist")

	status, _, errs = s.attach("status", "--wait", "--timeout", "10ms")
	require.Equal(t, exitFailed, status)
	require.Regexp(t, `^attach: waiting: .*20-bad\.conflist.*\nattach: .*20-bad\.conflist.*\n$`, errs)

	// Without networks it is said why there are none, once.
	s.conf.Remove("")
	for _, command := range []string{"networks", "status", "list", "gc --all"} {
		_, _, errs = s.attach(strings.Fields(command)...)
		require.Equal(t, command == "networks" || command == "status", strings.Contains(errs, "No CNI configuration file in"), errs)
		require.LessOrEqual(t, strings.Count(errs, "\n"), 1, errs)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	ctx, interrupt := context.WithCancel(t.Context())
	var out syncBuffer
	done := make(chan int, 1)
	go func() {
		status, _, _ := s.attachWith(ctx, &out, "watch")
		done <- status
	}()
	defer interrupt()
	waitFor(t, &out, "+ network net (version 1.0.0; fake)")
	waitFor(t, &out, "= ready")
	s.conf.Rename("20-other.conflist", testutils.List("other", "1.0.0", "fake"))
	waitFor(t, &out, "+ network other")
	s.conf.Remove("10-net.conflist")
	waitFor(t, &out, "- network net")
	s.conf.Remove("20-other.conflist")
	waitFor(t, &out, "= network is not ready: ")
	interrupt()
	require.Zero(t, <-done)

	status, _, errs := s.attach("watch", "--timeout", "1ms")
	require.Zero(t, status, errs)
}

func waitFor(t *testing.T, out *syncBuffer, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), text) },
		time.Minute, 10*time.Millisecond, "waiting for %q in %s", text, out)
}
