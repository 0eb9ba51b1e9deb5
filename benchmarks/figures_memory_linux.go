package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
)

// memoryFigure counts what an attachment allocates.
func memoryFigure(ctx context.Context, b *bench) (figureResults, error) {
	subjects, stop, err := b.subjects(b.noopWork(1))
	if err != nil {
		return figureResults{}, err
	}
	defer stop()
	bytes, objects := map[string]series{}, map[string]series{}
	var trials []trial
	for _, s := range subjects {
		trials = append(trials, trial{s.name, func(round int) (float64, error) {
			size, number, err := allocated(ctx, s, b.pods(b.few(64)))
			if round >= 0 {
				bytes[s.name] = append(bytes[s.name], size)
				objects[s.name] = append(objects[s.name], number)
			}
			return size, err
		}})
	}
	if _, err := interleave(ctx, b.times(10), trials); err != nil {
		return figureResults{}, err
	}
	out := figureResults{Plot: &plot{Title: "Allocated per SetUpPod, one plugin", Unit: byteCount, Note: "less is better"}}
	for _, s := range subjects {
		out.Plot.Bars = append(out.Plot.Bars, bar{Name: s.name, Value: bytes[s.name].median()})
		if s.name == ours {
			continue
		}
		var must *bound
		if s.name == peerLib {
			must = ratioAtMost(1.2)
		}
		out.Rows = append(out.Rows,
			row{
				What: "bytes per SetUpPod", Value: bytes[ours].median(), Unit: byteCount, Peer: s.name, PeerValue: bytes[s.name].median(),
				Ratio: compare(bytes[ours], bytes[s.name], ofMedians), Must: must,
			},
			row{
				What: "allocations per SetUpPod", Value: objects[ours].median(), Unit: count, Peer: s.name, PeerValue: objects[s.name].median(),
				Ratio: compare(objects[ours], objects[s.name], ofMedians), Must: must,
			})
	}
	return out, nil
}

// allocated is what attaching one of the pods allocates, in bytes and objects.
func allocated(ctx context.Context, s subject, pods []pod) (size, number float64, err error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, p := range pods {
		if err := s.setUp(ctx, p); err != nil {
			return 0, 0, err
		}
	}
	runtime.ReadMemStats(&after)
	for _, p := range pods {
		if err := s.tearDown(ctx, p); err != nil {
			return 0, 0, err
		}
	}
	n := float64(len(pods))
	return float64(after.TotalAlloc-before.TotalAlloc) / n, float64(after.Mallocs-before.Mallocs) / n, nil
}

// holdings are what a process may leak.
type holdings struct{ heap, descriptors, goroutines float64 }

func held() (holdings, error) {
	// The second time takes what the first made free to be taken.
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	return holdings{float64(m.HeapAlloc), float64(len(files)), float64(runtime.NumGoroutine())}, err
}

// spareHeap is what the heap may be larger after 10,000 pods for reasons that do
// not grow with their number.
const spareHeap = 256 << 10

// leakFigure attaches and detaches many pods, and looks at what is left of them.
func leakFigure(ctx context.Context, b *bench) (figureResults, error) {
	p, err := openPodcni(b.noopWork(1))
	if err != nil {
		return figureResults{}, err
	}
	defer func() { _ = p.Shutdown() }() // which always gives nil
	s := subjectOf(p)
	total := b.few(10_000)
	if err := inAndOut(ctx, s, b.pods(total/10)); err != nil {
		return figureResults{}, err
	}
	before, err := held()
	if err != nil {
		return figureResults{}, err
	}
	for range 10 {
		if err := inAndOut(ctx, s, b.pods(total/10)); err != nil {
			return figureResults{}, err
		}
	}
	after, err := held()
	if err != nil {
		return figureResults{}, err
	}
	what := func(s string) string { return fmt.Sprintf("%s more after %d pods", s, total) }
	return figureResults{Rows: []row{
		{What: what("heap"), Value: after.heap - before.heap, Unit: byteCount, Must: atMost(spareHeap)},
		{What: what("descriptors"), Value: after.descriptors - before.descriptors, Unit: count, Must: atMost(0)},
		{What: what("goroutines"), Value: after.goroutines - before.goroutines, Unit: count, Must: atMost(0)},
	}}, nil
}

// inAndOut attaches and detaches the pods, two at a time.
func inAndOut(ctx context.Context, s subject, pods []pod) error {
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for half := range errs {
		wg.Go(func() {
			for i := half; i < len(pods) && errs[half] == nil; i += len(errs) {
				if errs[half] = s.setUp(ctx, pods[i]); errs[half] == nil {
					errs[half] = s.tearDown(ctx, pods[i])
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
