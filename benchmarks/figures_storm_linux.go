package main

import (
	"context"
	"fmt"
)

// stormFigure attaches several pods at once.
func stormFigure(ctx context.Context, b *bench) (figureResults, error) {
	subjects, stop, err := b.subjects(b.noopWork(3))
	if err != nil {
		return figureResults{}, err
	}
	defer stop()
	sizes := []int{1, 8, 32, 128, 500}
	lines := newChart("pods at once", []string{ours, peerLib, peerGo, theFloor})
	var out figureResults
	rates := map[int]series{}
	for _, size := range sizes {
		n := b.few(size)
		rounds := b.times(map[int]int{1: 300, 8: 60, 32: 40, 128: 12, 500: 7}[size])
		slowest := map[string]series{}
		var trials []trial
		for _, s := range subjects {
			trials = append(trials, trial{s.name, func(round int) (float64, error) {
				rate, slow, err := storm(ctx, s, b.pods(n))
				if round >= 0 {
					slowest[s.name] = append(slowest[s.name], slow)
				}
				return rate, err
			}})
		}
		samples, err := interleave(ctx, rounds, trials)
		if err != nil {
			return out, err
		}
		rates[size] = samples[ours]
		lines.add(fmt.Sprint(size), samples)
		for _, peer := range []string{peerLib, peerGo, theFloor} {
			r := row{
				What: fmt.Sprintf("%d at once", size), Value: samples[ours].median(), Unit: podsPerS,
				Peer: peer, PeerValue: samples[peer].median(), Ratio: compare(samples[ours], samples[peer], ofMedians),
			}
			if peer == peerLib && size == 32 {
				r.Must = ratioAtLeast(1.15)
			}
			out.Rows = append(out.Rows, r)
		}
		out.Rows = append(out.Rows, row{
			What: fmt.Sprintf("%d at once, the slowest pod", size), Value: slowest[ours].median(), Unit: seconds,
			Peer: peerLib, PeerValue: slowest[peerLib].median(), Ratio: compare(slowest[ours], slowest[peerLib], ofMedians),
		})
	}
	out.Rows = append(out.Rows, row{
		What: "500 at once beside 32", Value: rates[500].median(), Unit: podsPerS,
		Peer: "32:", PeerValue: rates[32].median(), Ratio: unpaired(rates[500], rates[32], ofMedians), Must: ratioAtLeast(1),
	})
	out.Plot = &plot{Title: "Pods attached at once, three plugins each", Unit: podsPerS, Chart: lines, Note: "more is better"}
	return out, nil
}

// storm attaches the pods at once, and detaches them outside of what is timed.
func storm(ctx context.Context, s subject, pods []pod) (rate, slowest float64, err error) {
	all, slowest, err := together(pods, func(p pod) error { return s.setUp(ctx, p) })
	if err != nil {
		return 0, 0, err
	}
	_, _, err = together(pods, func(p pod) error { return s.tearDown(ctx, p) })
	return float64(len(pods)) / all, slowest, err
}

func (b *bench) pods(n int) []pod {
	pods := make([]pod, n)
	for i := range pods {
		pods[i] = b.pod()
	}
	return pods
}
