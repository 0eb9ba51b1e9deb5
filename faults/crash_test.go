package faults_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// runtimeEnv holds, in a process that plays a runtime, what it is to do.
const runtimeEnv = "PODCNI_TEST_RUNTIME"

// runtimeTask is what a process that plays a runtime does.
type runtimeTask struct {
	Conf, Bin, Cache string
	Op               string // setup, teardown, or soak: both, many times
	Pod              podcni.PodNetwork
	Seed             uint64 // of soak
}

// TestRuntimeProcess is no test: it is the runtime that others start and kill.
func TestRuntimeProcess(t *testing.T) {
	text := os.Getenv(runtimeEnv)
	if text == "" {
		t.Skip("played by a process of its own")
	}
	var task runtimeTask
	require.NoError(t, json.Unmarshal([]byte(text), &task))
	p, err := podcni.New(append(soakTimeouts(),
		podcni.WithConfDir(task.Conf), podcni.WithBinDirs(task.Bin), podcni.WithCacheDir(task.Cache))...)
	require.NoError(t, err)
	switch task.Op {
	case "setup":
		_, err = p.SetUpPod(task.Pod)
	case "teardown":
		err = p.TearDownPod(task.Pod)
	case "soak":
		loop(t.Context(), p, task.Pod.NetNS, task.Pod.ID, rand.New(rand.NewPCG(task.Seed, 0)))
	}
	require.NoError(t, err)
	require.NoError(t, p.Shutdown())
}

// runtime starts a process that does op with the pod.
func (n *node) runtime(op string, pod podcni.PodNetwork) *exec.Cmd {
	n.t.Helper()
	cmd, err := n.startRuntime(runtimeTask{Conf: n.conf.Path(), Bin: n.bin.Path(), Cache: n.cache, Op: op, Pod: pod})
	require.NoError(n.t, err)
	n.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// kill ends the runtime at once and waits until it is gone.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
}

// chained makes one network of three plugins, each of which holds an address
// for every attachment.
func chained(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.bin.Add("p0", "p1", "p2")
	for i := range 3 {
		n.bin.Plugin(fmt.Sprintf("p%d", i)).Pool()
	}
	n.conf.Write("net.conflist", testutils.List("net", "1.1.0", "p0", "p1", "p2"))
	return n
}

func (n *node) requireNothingHeld() {
	n.t.Helper()
	for i := range 3 {
		require.Empty(n.t, n.bin.Plugin(fmt.Sprintf("p%d", i)).Held(n.t))
	}
	require.Empty(n.t, n.records())
}

// The runtime dies while a plugin of the chain is at ADD. Whoever comes next
// finds the attachment, ends the plugin that is still at work, and detaches.
func TestRuntimeDiesDuringADD(t *testing.T) {
	t.Parallel()
	for i := range 3 {
		for _, next := range []string{"teardown", "setup", "gc"} {
			t.Run(fmt.Sprintf("plugin %d then %s", i, next), func(t *testing.T) {
				t.Parallel()
				n := chained(t)
				gate := n.bin.Plugin(fmt.Sprintf("p%d", i)).Gate("ADD")
				pod := n.pod("sandbox", "net")
				cmd := n.runtime("setup", pod)
				gate.Wait(t)
				kill(t, cmd)
				require.Equal(t, []string{"net-sandbox-eth0"}, n.records())

				p := n.open()
				_, err := p.GetPodNetworkStatus(pod)
				require.ErrorIs(t, err, podcni.ErrNotAttached)
				attachments, err := p.Attachments(t.Context())
				require.NoError(t, err)
				require.Len(t, attachments, 1)
				require.Equal(t, podcni.AttachmentState("attaching"), attachments[0].State)
				switch next {
				case "teardown":
					require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
				case "gc":
					require.NoError(t, p.GC(t.Context(), nil))
				case "setup":
					go func() { // once the plugin at the gate is gone
						n.waitForVerbs("DEL p0", 1)
						gate.Open()
					}()
					_, err := p.SetUpPod(pod)
					require.NoError(t, err)
					require.NoError(t, p.TearDownPod(pod))
				}
				n.requireNothingHeld()
				require.Empty(t, testutils.Processes(t, n.bin.Path()))
			})
		}
	}
}

// The runtime dies while a plugin of the chain is at DEL.
func TestRuntimeDiesDuringDEL(t *testing.T) {
	t.Parallel()
	for i := range 3 {
		t.Run(fmt.Sprintf("plugin %d", i), func(t *testing.T) {
			t.Parallel()
			n := chained(t)
			p := n.open()
			pod := n.pod("sandbox", "net")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			gate := n.bin.Plugin(fmt.Sprintf("p%d", i)).Gate("DEL")
			cmd := n.runtime("teardown", pod)
			gate.Wait(t)
			kill(t, cmd)
			gate.Open()
			require.Equal(t, []string{"net-sandbox-eth0"}, n.records())
			require.NoError(t, p.TearDownPod(pod))
			n.requireNothingHeld()
		})
	}
}

// The runtime dies while a plugin of one network is at work. Whoever detaches
// another network of the pod ends that plugin, too: afterwards nobody would look for
// it any more.
func TestOrphanOfANetworkThatIsNotNamed(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	n.bin.Plugin("b").Pool()
	gate := n.bin.Plugin("b").Gate("ADD")
	pod := n.pod("sandbox", "a", "b")
	cmd := n.runtime("setup", pod)
	gate.Wait(t)
	kill(t, cmd)
	p := n.open()
	some := pod
	some.Networks = pod.Networks[:1]
	require.NoError(t, p.TearDownPod(some))
	require.Empty(t, testutils.Processes(t, n.bin.Path()))
	require.Equal(t, []string{"b-sandbox-eth1"}, n.records())
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	gate.Open()
	require.Empty(t, n.records())
	require.Empty(t, n.bin.Plugin("b").Held(t))
}

// The runtime dies once everything is done: the next one knows of it.
func TestRuntimeDiesAfterwards(t *testing.T) {
	t.Parallel()
	n := chained(t)
	pod := n.pod("sandbox", "net")
	require.NoError(t, n.runtime("setup", pod).Wait())
	p := n.open()
	results, err := p.GetPodNetworkStatus(pod)
	require.NoError(t, err)
	require.Len(t, results, 1)
	require.NoError(t, p.TearDownPod(pod))
	n.requireNothingHeld()
}

// Two processes at one sandbox: the second waits for the first.
func TestTwoRuntimesAtOneSandbox(t *testing.T) {
	t.Parallel()
	n := chained(t)
	gate := n.bin.Plugin("p1").Gate("ADD")
	pod := n.pod("sandbox", "net")
	cmd := n.runtime("setup", pod)
	gate.Wait(t)
	p := n.open()
	torn := make(chan error, 1)
	go func() { torn <- p.TearDownPod(pod) }()
	gate.Open()
	require.NoError(t, cmd.Wait())
	require.NoError(t, <-torn)
	n.requireNothingHeld()
	require.Equal(t, []string{"ADD p0", "ADD p1", "ADD p2", "DEL p2", "DEL p1", "DEL p0"}, n.verbs())
}

// The runtime dies between the journal and ADD, or between ADD and libcni's
// result: what comes next cannot tell, and detaches.
func TestRuntimeDiesBesideADD(t *testing.T) {
	t.Parallel()
	n := chained(t)
	pod := n.pod("sandbox", "net")
	require.NoError(t, n.runtime("setup", pod).Wait())
	journal, err := os.ReadFile(n.journal())
	require.NoError(t, err)
	require.NoError(t, os.Remove(n.result("net-sandbox-eth0")))
	p := n.open()
	_, err = p.SetUpPod(pod)
	require.NoError(t, err)
	require.Equal(t, []string{"DEL p2", "DEL p1", "DEL p0", "ADD p0", "ADD p1", "ADD p2"}, n.verbs()[3:])

	// ... and after DEL, before the journal goes.
	require.NoError(t, p.TearDownPod(pod))
	require.NoError(t, os.WriteFile(n.journal(), journal, 0o600))
	require.NoError(t, n.open().TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	n.requireNothingHeld()
}
