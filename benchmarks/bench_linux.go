package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/podcni/podcni"
)

// bench is what figures are measured with.
type bench struct {
	settings
	netNS []string // namespaces that pods share whose plugins do nothing
	next  int      // number of the next pod; see pod
}

// figure is something to measure.
type figure struct {
	name, what string
	run        func(ctx context.Context, b *bench) (figureResults, error)
}

// sharedNetNS is how many namespaces pods share whose plugins do nothing. To make
// one for each of thousands costs more than what is measured.
const sharedNetNS = 32

func newBench(s settings) (*bench, error) {
	if err := enter(s.workDir); err != nil {
		return nil, err
	}
	b := &bench{settings: s}
	for range sharedNetNS {
		path, err := b.newNetNS()
		if err != nil {
			return nil, err
		}
		b.netNS = append(b.netNS, path)
	}
	return b, nil
}

// newNetNS makes a namespace that lasts as long as the sandbox.
func (b *bench) newNetNS() (string, error) {
	b.next++
	ns, err := podcni.NewNetNS(filepath.Join(b.workDir, "tmpfs", "netns"), fmt.Sprintf("ns%d", b.next))
	if err != nil {
		return "", err
	}
	return ns.Path(), ns.Close()
}

// figure measures one, after what others left behind is out of the way.
func (b *bench) figure(ctx context.Context, f figure) (figureResults, error) {
	runtime.GC()
	out, err := f.run(ctx, b)
	out.Name, out.What = f.name, f.what
	if out.Plot != nil && out.Plot.Title == "" {
		out.Plot.Title = f.what
	}
	for i := range out.Rows {
		out.Rows[i] = out.Rows[i].judge()
	}
	return out, err
}

// times is n, or little in a smoke run.
func (b *bench) times(n int) int {
	if b.smoke {
		return min(n, 3)
	}
	return n
}

// few is n, or an eighth of it in a smoke run.
func (b *bench) few(n int) int {
	if b.smoke {
		return (n + 7) / 8
	}
	return n
}

// pod is a sandbox to attach.
type pod struct {
	id, netNS string
	port      int32 // of the host, to publish; 0 for none
}

// pod makes a pod whose ID is as long as those of container runtimes.
func (b *bench) pod() pod {
	b.next++
	return pod{id: podID(b.next), netNS: b.netNS[b.next%len(b.netNS)]}
}

func podID(n int) string { return fmt.Sprintf("%064x", n) }

// mkdir makes a new directory in the work directory.
func (b *bench) mkdir() (string, error) { return os.MkdirTemp(b.workDir, "d") }

// object is a JSON object.
type object map[string]any

// list is a network's configuration.
func list(name, version string, plugins ...object) []byte {
	conf, err := json.Marshal(object{"cniVersion": version, "name": name, "plugins": plugins})
	if err != nil {
		panic(err) // it holds nothing that cannot be JSON
	}
	return conf
}

// noops is a network of n plugins that do nothing.
func noops(name string, n int) []byte {
	plugins := make([]object, n)
	for i := range plugins {
		plugins[i] = object{"type": "noop"}
	}
	return list(name, "1.0.0", plugins...)
}

// trial is one of several that are measured in turn. run gives a sample, and may
// do more than it measures.
type trial struct {
	name string
	run  func(round int) (float64, error)
}

// interleave runs the trials in turn, so that what disturbs one disturbs all, in
// an order that changes with each round, so that none always follows the same.
func interleave(ctx context.Context, rounds int, trials []trial) (map[string]series, error) {
	return turns(ctx, rounds/20+1, rounds, trials)
}

// turns is interleave with so many rounds before those that count.
func turns(ctx context.Context, warmUp, rounds int, trials []trial) (map[string]series, error) {
	random := rand.New(rand.NewPCG(3, 4))
	samples := map[string]series{}
	for round := -warmUp; round < rounds; round++ {
		for _, i := range random.Perm(len(trials)) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			v, err := trials[i].run(round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", trials[i].name, err)
			}
			if round >= 0 {
				samples[trials[i].name] = append(samples[trials[i].name], v)
			}
		}
	}
	return samples, nil
}

// timed is how long f took, in seconds.
func timed(f func() error) (float64, error) {
	began := time.Now()
	err := f()
	return time.Since(began).Seconds(), err
}

// together runs f for each of the pods at once. all is how long that took,
// slowest how long the slowest of them.
func together(pods []pod, f func(pod) error) (all, slowest float64, err error) {
	var wg sync.WaitGroup
	errs := make([]error, len(pods))
	took := make([]float64, len(pods))
	gate := make(chan struct{})
	for i, p := range pods {
		wg.Go(func() {
			<-gate
			took[i], errs[i] = timed(func() error { return f(p) })
		})
	}
	all, _ = timed(func() error {
		close(gate)
		wg.Wait()
		return nil
	})
	for i := range pods {
		slowest = max(slowest, took[i])
		if errs[i] != nil {
			return all, slowest, errs[i]
		}
	}
	return all, slowest, nil
}
