package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// soakTime is how long the soak lasts: PODCNI_SOAK, which `make soak` sets.
func soakTime(t *testing.T) time.Duration {
	text := os.Getenv("PODCNI_SOAK")
	if text == "" {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// soakSeed makes two runs alike, as far as the scheduler lets them be.
func soakSeed(t *testing.T) uint64 {
	text := os.Getenv("PODCNI_SOAK_SEED")
	if text == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err)
	return seed
}

// soakFaults are what may become of a run of a plugin.
func soakFaults() []testutils.Answer {
	return []testutils.Answer{
		{},
		{},
		{},
		{Error: types.NewError(100, "bad luck", "")},
		{Error: types.NewError(types.ErrTryAgainLater, "later", "")},
		{Exit: 3, Stderr: "crashed"},
		{Signal: syscall.SIGKILL},
		{NoOutput: true},
		{Result: `{"cniVersion":"1.1.0","ips":[null]}`},
		{Result: `{"cniVer`},
		{Delay: 30 * time.Millisecond},
		{Hang: true},
		{Hang: true, Child: true},
		{StderrFlood: 1 << 20},
	}
}

var soakPlugins = []string{"p0", "p1", "p2"}

// soakTimeouts keep hanging plugins from taking all of the time.
func soakTimeouts() []podcni.Option {
	var opts []podcni.Option
	for _, verb := range []string{"ADD", "DEL", "GC"} {
		opts = append(opts, podcni.WithPluginTimeout(verb, 4*time.Second))
	}
	return append(opts, podcni.WithMaxAttempts(2))
}

// TestSoak lets runtimes come and go, in this process and in others that are
// killed at random instants, while plugins fail at random and the configuration
// changes; and in the end nothing may be left of it all.
func TestSoak(t *testing.T) {
	t.Parallel()
	duration, seed := soakTime(t), soakSeed(t)
	t.Logf("PODCNI_SOAK=%s PODCNI_SOAK_SEED=%d", duration, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	n := newNode(t)
	n.bin.Add(soakPlugins...)
	for _, name := range soakPlugins {
		n.bin.Plugin(name).Pool()
	}
	n.conf.Write("10-a.conflist", testutils.List("a", "1.1.0", "p0", "p1"))
	n.conf.Write("20-b.conflist", testutils.List("b", "1.0.0", "p2"))
	netns := n.pod("unused").NetNS

	fds := testutils.FDs(t)
	end := time.Now().Add(duration)
	ctx, cancel := context.WithDeadline(t.Context(), end)
	defer cancel()
	var work sync.WaitGroup
	work.Go(func() { n.churn(ctx, rand.New(rand.NewPCG(seed, 1))) })
	work.Go(func() { n.sow(ctx, rand.New(rand.NewPCG(seed, 2))) })
	work.Go(func() { n.killRuntimes(ctx, rand.New(rand.NewPCG(seed, 3)), netns) })

	p := n.open(soakTimeouts()...)
	work.Go(func() {
		for ctx.Err() == nil {
			_ = p.GC(ctx, nil) // nobody's pods are valid, and so all are fair game
			pause(ctx, 200*time.Millisecond)
		}
	})
	loop(ctx, p, netns, "here", rng)
	work.Wait()

	// Whatever faults are still to come: in the end everything is undone.
	last := n.open(soakTimeouts()...)
	for range 40 {
		if err := last.GC(t.Context(), nil); err == nil && len(n.records()) == 0 {
			break
		}
	}
	require.Empty(t, n.records())
	for _, name := range soakPlugins {
		require.Empty(t, n.bin.Plugin(name).Held(t), "addresses that %s still holds", name)
	}
	n.requireUndone()
	n.requireNoPlugins()
	if os.Getenv("PODCNI_SOAK") != "" { // else other tests run in this process too
		require.NoError(t, p.Shutdown())
		require.NoError(t, last.Shutdown())
		require.LessOrEqual(t, testutils.FDs(t), fds)
	}
}

// requireUndone checks that after the last ADD of every attachment there was a
// DEL of the same plugin.
func (n *node) requireUndone() {
	n.t.Helper()
	type key struct{ plugin, id, ifName string }
	open := map[key]bool{}
	adds := 0
	for _, call := range n.calls() {
		k := key{call.Plugin, call.Env["CNI_CONTAINERID"], call.Env["CNI_IFNAME"]}
		switch call.Verb {
		case "ADD":
			open[k] = true
			adds++
		case "DEL":
			delete(open, k)
		}
	}
	require.Empty(n.t, open, "attachments that had ADD and no DEL after it")
	require.NotZero(n.t, adds)
	n.t.Logf("%d runs of plugins, %d of them ADD", len(n.calls()), adds)
}

// loop sets pods up and tears them down until ctx ends, several at a time.
func loop(ctx context.Context, p *podcni.CNI, netns, name string, rng *rand.Rand) {
	var wg sync.WaitGroup
	for i := range 4 {
		mine := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			for ctx.Err() == nil {
				pod := podcni.PodNetwork{
					ID: fmt.Sprintf("%s-%d-%d", name, i, mine.IntN(5)), NetNS: netns,
					Networks: []podcni.NetAttachment{{Name: "a"}, {Name: "b"}}[:1+mine.IntN(2)],
				}
				short, cancel := context.WithTimeout(ctx, time.Duration(mine.IntN(2000))*time.Millisecond)
				_, _ = p.SetUpPodWithContext(short, pod)
				if mine.IntN(3) > 0 {
					_ = p.TearDownPodWithContext(short, pod)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

// churn changes the configuration.
func (n *node) churn(ctx context.Context, rng *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		switch rng.IntN(4) {
		case 0:
			n.conf.Remove("20-b.conflist")
		case 1:
			n.conf.Write("20-b.conflist", `{"half`)
		default:
			n.conf.Write("20-b.conflist", testutils.ListJSON("b", "1.0.0", map[string]any{"type": "p2", "round": i}))
		}
		pause(ctx, time.Duration(rng.IntN(50))*time.Millisecond)
	}
	n.conf.Write("20-b.conflist", testutils.List("b", "1.0.0", "p2"))
}

// sow makes runs of plugins fail.
func (n *node) sow(ctx context.Context, rng *rand.Rand) {
	faults := soakFaults()
	for ctx.Err() == nil {
		verb := []string{"ADD", "ADD", "DEL", "GC"}[rng.IntN(4)]
		n.bin.Plugin(soakPlugins[rng.IntN(len(soakPlugins))]).Next(verb, faults[rng.IntN(len(faults))])
		pause(ctx, time.Duration(rng.IntN(100))*time.Millisecond)
	}
}

// killRuntimes starts runtimes and kills each after a while.
func (n *node) killRuntimes(ctx context.Context, rng *rand.Rand, netns string) {
	for i := 0; ctx.Err() == nil; i++ {
		cmd, err := n.startRuntime(runtimeTask{
			Conf: n.conf.Path(), Bin: n.bin.Path(), Cache: n.cache, Op: "soak", Seed: rng.Uint64(),
			// Twice the same sandboxes: the next one finds what was left.
			Pod: podcni.PodNetwork{ID: fmt.Sprintf("child-%d", i/2), NetNS: netns},
		})
		if err != nil {
			n.t.Errorf("start a runtime: %v", err)
			return
		}
		pause(ctx, 300*time.Millisecond+time.Duration(rng.IntN(700))*time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
}

// startRuntime starts a process that plays a runtime.
func (n *node) startRuntime(task runtimeTask) (*exec.Cmd, error) {
	text, err := json.Marshal(task)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRuntimeProcess$", "-test.timeout=30m")
	cmd.Env = append(os.Environ(), runtimeEnv+"="+string(text))
	return cmd, cmd.Start()
}

// pause waits for d or for ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
