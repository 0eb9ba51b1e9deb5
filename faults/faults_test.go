package faults_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

const (
	pollEvery = 5 * time.Millisecond
	// soon is a plugin's time limit in tests of plugins that never answer. One
	// that does answer must not run into it on a busy machine.
	soon = 3 * time.Second
)

// hangs are the ways in which a plugin does not come back.
func hangs() map[string]testutils.Answer {
	return map[string]testutils.Answer{
		"hangs":                     {Hang: true},
		"hangs and ignores TERM":    {Hang: true, IgnoreTERM: true},
		"hangs with a child":        {Hang: true, Child: true},
		"hangs with a lost child":   {Hang: true, Child: true, ChildSetsid: true},
		"hangs with child, no TERM": {Hang: true, Child: true, IgnoreTERM: true},
	}
}

// requireNoPlugins waits until no plugin of the node runs.
func (n *node) requireNoPlugins() {
	n.t.Helper()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var left []int
	for end := time.Now().Add(bound); time.Now().Before(end); <-tick.C {
		if left = testutils.Processes(n.t, n.bin.Path()); len(left) == 0 {
			return
		}
	}
	for _, pid := range left {
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		n.t.Logf("process %d: %s\n%s", pid, stat, strings.ReplaceAll(string(env), "\x00", "\n"))
	}
	require.Empty(n.t, left, "plugins that still run")
}

// Whatever a plugin answers to ADD instead of a result: the error says which,
// the other network is detached again, and nothing stays.
func TestAddFaults(t *testing.T) {
	t.Parallel()
	is := func(want error) func(*testing.T, error) {
		return func(t *testing.T, err error) { t.Helper(); require.ErrorIs(t, err, want) }
	}
	code := func(want uint) func(*testing.T, error) {
		return func(t *testing.T, err error) {
			t.Helper()
			var answer *types.Error
			require.ErrorAs(t, err, &answer)
			require.Equal(t, want, answer.Code)
		}
	}
	exit := func(want int) func(*testing.T, error) {
		return func(t *testing.T, err error) { t.Helper(); require.Equal(t, want, requirePluginError(t, err).Exit) }
	}
	for name, tc := range map[string]struct {
		answer testutils.Answer
		check  func(*testing.T, error)
	}{
		"nothing":                  {testutils.Answer{NoOutput: true}, is(podcni.ErrNoOutput)},
		"blanks":                   {testutils.Answer{Result: " \n"}, is(podcni.ErrNoOutput)},
		"null":                     {testutils.Answer{Result: "null"}, is(podcni.ErrBadOutput)},
		"a list":                   {testutils.Answer{Result: "[]"}, is(podcni.ErrBadOutput)},
		"text":                     {testutils.Answer{Result: "it works"}, is(podcni.ErrBadOutput)},
		"half a result":            {testutils.Answer{Result: `{"cniVersion":"1.1.0","ips":[{"addr`}, is(podcni.ErrBadOutput)},
		"null in ips":              {testutils.Answer{Result: `{"cniVersion":"1.1.0","ips":[null]}`}, is(podcni.ErrBadOutput)},
		"null in interfaces":       {testutils.Answer{Result: `{"cniVersion":"1.1.0","interfaces":[null]}`}, is(podcni.ErrBadOutput)},
		"null in routes":           {testutils.Answer{Result: `{"cniVersion":"0.3.1","routes":[null]}`}, is(podcni.ErrBadOutput)},
		"an address that is none":  {testutils.Answer{Result: `{"cniVersion":"1.1.0","ips":[{"address":"10.1"}]}`}, is(podcni.ErrBadOutput)},
		"a gateway that is none":   {testutils.Answer{Result: `{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24","gateway":"x"}]}`}, is(podcni.ErrBadOutput)},
		"unknown version":          {testutils.Answer{Result: `{"cniVersion":"9.9.9"}`}, is(podcni.ErrVersion)},
		"an error and exit 0":      {testutils.Answer{Result: `{"cniVersion":"1.1.0","code":7,"msg":"no"}`}, code(7)},
		"an error":                 {testutils.Answer{Error: types.NewError(101, "no", "")}, code(101)},
		"an error after log lines": {testutils.Answer{StdoutBefore: "starting {\n[1]\n", Error: types.NewError(102, "no", "")}, is(podcni.ErrBadOutput)},
		"a result after log lines": {testutils.Answer{StdoutBefore: "starting\nready\n"}, is(podcni.ErrBadOutput)},
		"exit 3":                   {testutils.Answer{Exit: 3}, exit(3)},
		"killed":                   {testutils.Answer{Signal: syscall.SIGKILL}, exit(-1)},
		"too much":                 {testutils.Answer{StdoutFlood: 6 << 20}, is(podcni.ErrOutputTooLarge)},
		"exit 1 after a flood":     {testutils.Answer{StderrFlood: 4 << 20, Stderr: "at last", Exit: 1}, exit(1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "bad")
			n.bin.Plugin("a").Pool()
			n.bin.Plugin("bad").On("ADD", tc.answer)
			p := n.open()
			_, err := p.SetUpPod(n.pod("sandbox", "a", "bad"))
			tc.check(t, err)
			pe := requirePluginError(t, err)
			require.Equal(t, "bad", pe.Plugin)
			require.LessOrEqual(t, len(pe.Stderr), 64<<10)
			require.Equal(t, []string{"ADD a", "ADD bad", "DEL bad", "DEL a"}, n.verbs())
			require.Empty(t, n.records())
			require.Empty(t, n.bin.Plugin("a").Held(t))
			n.requireNoPlugins()
		})
	}
}

// What a plugin may do without being wrong.
func TestAddThatIsNoFault(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]testutils.Answer{
		"a flood of stderr":           {StderrFlood: 4 << 20},
		"an empty result":             {Result: `{}`},
		"a result of another version": {Result: `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`},
		"null lists":                  {Result: `{"cniVersion":"1.1.0","interfaces":null,"ips":null,"routes":null}`},
		"a child left behind":         {Child: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a")
			n.bin.Plugin("a").On("ADD", answer)
			p := n.open()
			pod := n.pod("sandbox", "a")
			results, err := p.SetUpPod(pod)
			require.NoError(t, err)
			require.NotNil(t, results[0].Result)
			_, err = podcni.MergeResults(results)
			require.NoError(t, err)
			require.NoError(t, p.TearDownPod(pod))
			require.Empty(t, n.records())
		})
	}
}

// A plugin that does not come back from ADD, at its own time limit or at the end
// of the caller's.
func TestAddHangs(t *testing.T) {
	t.Parallel()
	for name, answer := range hangs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "bad")
			n.bin.Plugin("bad").On("ADD", answer)
			p := n.open(podcni.WithPluginTimeout("ADD", soon))
			_, err := p.SetUpPod(n.pod("timeout", "a", "bad"))
			pe := requirePluginError(t, err)
			require.True(t, pe.TimedOut)
			require.ErrorIs(t, err, context.DeadlineExceeded)

			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				defer cancel()
				n.waitForVerbs("ADD bad", 2)
			}()
			_, err = p.SetUpPodWithContext(ctx, n.pod("cancel", "a", "bad"))
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, []string{"ADD a", "ADD bad", "DEL bad", "DEL a", "ADD a", "ADD bad", "DEL bad", "DEL a"}, n.verbs())
			require.Empty(t, n.records())
		})
	}
}

// A plugin that does not come back from DEL: the others get theirs, the record
// stays, and the next try succeeds.
func TestDelHangs(t *testing.T) {
	t.Parallel()
	for name, answer := range hangs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "bad")
			n.bin.Plugin("bad").Next("DEL", answer)
			p := n.open(podcni.WithPluginTimeout("DEL", soon))
			pod := n.pod("sandbox", "a", "bad")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			pe := requirePluginError(t, p.TearDownPod(pod))
			require.True(t, pe.TimedOut)
			require.Equal(t, "DEL", pe.Verb)
			require.Equal(t, []string{"bad-sandbox-eth1"}, n.records())
			require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: pod.ID}))
			require.Empty(t, n.records())
			require.Equal(t, []string{"DEL bad", "DEL a", "DEL bad"}, n.verbs()[2:])
		})
	}
}

// Plugins that do not come back from the other verbs.
func TestOtherVerbsHang(t *testing.T) {
	t.Parallel()
	for name, answer := range hangs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "bad")
			for _, verb := range []string{"CHECK", "STATUS", "GC"} {
				n.bin.Plugin("bad").On(verb, answer)
			}
			// Nobody answers these verbs, so that no busy machine makes a
			// difference.
			const limit = time.Second
			p := n.open(podcni.WithPluginTimeout("CHECK", limit), podcni.WithPluginTimeout("STATUS", limit), podcni.WithPluginTimeout("GC", limit))
			pod := n.pod("sandbox", "bad")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			var wg sync.WaitGroup
			var check, gc, status error
			wg.Go(func() { check = p.CheckPod(context.Background(), pod) })
			wg.Go(func() { gc = p.GC(context.Background(), []*podcni.PodNetwork{&pod}) })
			wg.Go(func() { status = p.Status() })
			wg.Wait()
			require.True(t, requirePluginError(t, check).TimedOut)
			require.True(t, requirePluginError(t, gc).TimedOut)
			require.ErrorIs(t, status, podcni.ErrNotReady)
			require.ErrorIs(t, status, context.DeadlineExceeded)
			require.NoError(t, p.TearDownPod(pod))
		})
	}
}

// The caller's context ends while DEL is under way: it goes on to its end.
func TestTearDownOutlastsItsContext(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	gate := n.bin.Plugin("b").Gate("DEL")
	p := n.open()
	pod := n.pod("sandbox", "a", "b")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	torn := make(chan error, 1)
	go func() { torn <- p.TearDownPodWithContext(ctx, pod) }()
	gate.Wait(t)
	cancel()
	gate.Open()
	require.NoError(t, <-torn)
	require.Equal(t, []string{"DEL b", "DEL a"}, n.verbs()[2:])
	require.Empty(t, n.records())
}

// ... but not for ever.
func TestTearDownGraceEnds(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	n.bin.Plugin("a").Next("DEL", testutils.Answer{Hang: true})
	p := n.open(podcni.WithTeardownGrace(time.Second))
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.TearDownPodWithContext(ctx, pod), context.Canceled)
	require.Len(t, n.records(), 1)
	require.NoError(t, p.TearDownPod(pod))
	require.Empty(t, n.records())
}

// A DEL that fails for good keeps its record until the operator drops it.
func TestForget(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open(podcni.WithoutWatch())
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	n.bin.Plugin("a").Remove()
	for range 2 {
		err := p.TearDownPod(pod)
		require.ErrorIs(t, err, podcni.ErrPluginNotFound)
		require.Contains(t, err.Error(), n.bin.Path(), "the directories searched")
	}
	require.NoError(t, p.Forget(t.Context(), "sandbox"))
	require.Empty(t, n.records())
	attachments, err := p.Attachments(t.Context())
	require.NoError(t, err)
	require.Empty(t, attachments)
	require.ErrorIs(t, p.Forget(t.Context(), "../x"), podcni.ErrInvalidPod)
}

// A plugin that vanished after another of its chain ran does not keep that one
// from being undone.
func TestPluginVanishes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.bin.Add("first", "second")
	n.bin.Plugin("first").Pool()
	n.conf.Write("net.conflist", testutils.List("net", "1.1.0", "first", "second"))
	p := n.open(podcni.WithoutWatch())
	n.bin.Plugin("second").Remove()
	_, err := p.SetUpPod(n.pod("sandbox", "net"))
	require.ErrorIs(t, err, podcni.ErrPluginNotFound)
	require.Equal(t, "second", requirePluginError(t, err).Plugin)
	require.Equal(t, []string{"ADD first", "DEL first"}, n.verbs())
	require.Empty(t, n.records())
	require.Empty(t, n.bin.Plugin("first").Held(t))

	n.bin.Plugin("first").Remove()
	_, err = p.SetUpPod(n.pod("other", "net"))
	require.ErrorIs(t, err, podcni.ErrPluginNotFound)
	require.Empty(t, n.records(), "nothing ran, nothing is to be undone")
}

// The config changed, or left, between ADD and DEL: DEL is told what ADD was.
func TestConfigChangesBetweenAddAndDel(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.bin.Add("a", "b")
	n.conf.Write("net.conflist", testutils.ListJSON("net", "1.1.0",
		map[string]any{"type": "a", "capabilities": map[string]bool{"portMappings": true}, "mark": "old"}))
	p := n.open(podcni.WithoutWatch())
	pod := n.pod("sandbox", "net")
	pod.RuntimeConfig = map[string]podcni.RuntimeConfig{"net": {
		PortMappings: []podcni.PortMapping{{HostPort: 8080, ContainerPort: 80}},
		Args:         map[string]string{"COLOUR": "red"},
	}}
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	n.conf.Write("net.conflist", testutils.ListJSON("net", "1.1.0", map[string]any{"type": "b", "mark": "new"}))
	require.NoError(t, p.Reload(t.Context()))
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	calls := n.calls()
	require.Equal(t, []string{"ADD a", "DEL a"}, testutils.Verbs(calls))
	del := calls[1]
	require.Contains(t, string(del.Stdin), `"mark":"old"`)
	require.Contains(t, string(del.Stdin), `"hostPort":8080`)
	require.Contains(t, string(del.Stdin), `"prevResult"`)
	require.Contains(t, del.Env["CNI_ARGS"], "COLOUR=red")
	require.Equal(t, calls[0].Env["CNI_ARGS"], del.Env["CNI_ARGS"])

	_, err = p.SetUpPod(n.pod("second", "net"))
	require.NoError(t, err)
	n.conf.Remove("net.conflist")
	require.NoError(t, p.Reload(t.Context()))
	require.Error(t, p.Status())
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "second"}))
	require.Empty(t, n.records())
}

// The namespace is gone, or another one is in its place: DEL comes without one.
func TestNamespaceBetweenAddAndDel(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(t *testing.T, path, other string)
		gone   bool
	}{
		"the same": {func(*testing.T, string, string) {}, false},
		"gone": {func(t *testing.T, path, _ string) {
			t.Helper()
			require.NoError(t, os.Remove(path))
		}, true},
		"another one": {func(t *testing.T, path, other string) {
			t.Helper()
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Symlink(other, path))
		}, true},
		"a file": {func(t *testing.T, path, _ string) {
			t.Helper()
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.WriteFile(path, nil, 0o600))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a")
			p := n.open()
			pod := n.pod("sandbox", "a")
			link := filepath.Join(t.TempDir(), "netns")
			require.NoError(t, os.Symlink(pod.NetNS, link))
			pod.NetNS = link
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			tc.change(t, link, testutils.NewNetNS(t))
			if tc.gone {
				require.ErrorIs(t, p.CheckPod(t.Context(), pod), podcni.ErrNetNS)
			}
			require.NoError(t, p.TearDownPod(pod))
			del := n.calls()[1]
			require.Equal(t, "DEL", del.Verb)
			want := link
			if tc.gone {
				want = ""
			}
			require.Equal(t, want, del.Env["CNI_NETNS"])
		})
	}
}

// The machine rebooted since: nothing that was recorded is still there, even if
// something of the same number is.
func TestRebootBetweenAddAndDel(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, p.Shutdown())
	path := n.journal()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	changed := strings.ReplaceAll(string(content), strings.TrimSpace(string(boot)), "11111111-2222-3333-4444-555555555555")
	require.NotEqual(t, string(content), changed)
	require.NoError(t, os.WriteFile(path, []byte(changed), 0o600))
	require.NoError(t, n.open().TearDownPod(pod))
	require.Empty(t, n.calls()[1].Env["CNI_NETNS"])
}

// Identifiers from outside never reach a plugin or a path.
func TestHostileIdentifiers(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	victim := filepath.Join(filepath.Dir(n.cache), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
	bad := []string{"../../../victim", "x/../../../victim", "a\x00b", "a/b", "a;b", "a=b", "..", ".", "-a", strings.Repeat("x", 10<<10)}
	try := func(what string, pod podcni.PodNetwork) {
		_, err := p.SetUpPod(pod)
		require.ErrorIs(t, err, podcni.ErrInvalidPod, what)
		require.Less(t, len(err.Error()), 4096)
		require.ErrorIs(t, p.TearDownPod(pod), podcni.ErrInvalidPod, what)
		_, err = p.GetPodNetworkStatus(pod)
		require.ErrorIs(t, err, podcni.ErrInvalidPod, what)
		require.ErrorIs(t, p.CheckPod(t.Context(), pod), podcni.ErrInvalidPod, what)
	}
	for i, s := range bad {
		pod := n.pod(s, "a")
		try(fmt.Sprint("ID ", i), pod)
		require.ErrorIs(t, p.Forget(t.Context(), s), podcni.ErrInvalidPod)
		pod = n.pod("sandbox", s)
		try(fmt.Sprint("network ", i), pod)
		if s == "-a" || s == "a;b" || s == "a=b" {
			continue // fine as the name of an interface
		}
		pod = n.pod("sandbox", "a")
		pod.Networks[0].Ifname = s
		try(fmt.Sprint("interface ", i), pod)
	}
	try("empty", podcni.PodNetwork{NetNS: "/proc/self/ns/net"})
	require.Empty(t, n.verbs())
	require.Empty(t, n.records())
	require.FileExists(t, victim)
}
