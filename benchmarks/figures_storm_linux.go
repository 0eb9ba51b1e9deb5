package main

import (
	"context"
	"fmt"
	"slices"
)

// stormSize is a storm of so many pods.
type stormSize struct {
	pods, rounds, warmUp int
	peers                []string // besides ours
}

// stormFigure attaches several pods at once. In large storms go-cni, which is
// libcni below, would only cost time.
func stormFigure(ctx context.Context, b *bench) (figureResults, error) {
	subjects, stop, err := b.subjects(b.noopWork(3))
	if err != nil {
		return figureResults{}, err
	}
	defer stop()
	small, large := []string{peerLib, peerGo, theFloor}, []string{peerLib, theFloor}
	lines := newChart("pods at once", []string{ours, peerLib, theFloor})
	var out figureResults
	for _, size := range []stormSize{
		{1, 200, 10, small}, {8, 40, 2, small}, {32, 24, 1, small}, {128, 6, 0, large}, {500, 3, 0, large},
	} {
		rates, slowest, err := b.storms(ctx, subjects, size)
		if err != nil {
			return out, err
		}
		lines.add(fmt.Sprint(size.pods), rates)
		for _, peer := range size.peers {
			r := row{
				What: fmt.Sprintf("%d at once", size.pods), Value: rates[ours].median(), Unit: podsPerS,
				Peer: peer, PeerValue: rates[peer].median(), Ratio: compare(rates[ours], rates[peer], ofMedians),
			}
			if peer == peerLib && size.pods == 32 {
				r.Must = ratioAtLeast(1.15)
			}
			out.Rows = append(out.Rows, r)
		}
		out.Rows = append(out.Rows, row{
			What: fmt.Sprintf("%d at once, the slowest pod", size.pods), Value: slowest[ours].median(), Unit: seconds,
			Peer: peerLib, PeerValue: slowest[peerLib].median(), Ratio: compare(slowest[ours], slowest[peerLib], ofMedians),
		})
	}
	falls, err := b.stormGrowth(ctx, subjects)
	if err != nil {
		return out, err
	}
	out.Rows = append(out.Rows, falls...)
	out.Plot = &plot{Title: "Pods attached at once, three plugins each", Unit: podsPerS, Chart: lines, Note: "median; more is better"}
	return out, nil
}

// storms are storms of one size, of each subject in turn.
func (b *bench) storms(ctx context.Context, subjects []subject, size stormSize) (rates, slowest map[string]series, err error) {
	n := b.few(size.pods)
	slowest = map[string]series{}
	var trials []trial
	for _, s := range subjects {
		if s.name != ours && !slices.Contains(size.peers, s.name) {
			continue
		}
		trials = append(trials, trial{s.name, func(round int) (float64, error) {
			rate, slow, err := storm(ctx, s, b.pods(n))
			if round >= 0 {
				slowest[s.name] = append(slowest[s.name], slow)
			}
			return rate, err
		}})
	}
	rates, err = turns(ctx, min(size.warmUp, b.times(size.rounds)), b.times(size.rounds), trials)
	return rates, slowest, err
}

// stormGrowth attaches as many pods 32 at a time, and all at once, in turn: how
// fast that goes must not fall.
func (b *bench) stormGrowth(ctx context.Context, subjects []subject) ([]row, error) {
	const some, all = " some", " all"
	storms := b.few(16)
	var trials []trial
	for _, s := range subjects {
		if s.name != ours && s.name != theFloor {
			continue
		}
		trials = append(trials,
			trial{s.name + some, func(int) (float64, error) {
				var took float64
				for range storms {
					rate, _, err := storm(ctx, s, b.pods(32))
					if err != nil {
						return 0, err
					}
					took += 32 / rate
				}
				return float64(32*storms) / took, nil
			}},
			trial{s.name + all, func(int) (float64, error) {
				rate, _, err := storm(ctx, s, b.pods(32*storms))
				return rate, err
			}})
	}
	samples, err := turns(ctx, 0, b.times(4), trials)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, name := range []string{ours, theFloor} {
		r := row{
			What: fmt.Sprintf("%d at once beside 32 at a time", 32*storms), Value: samples[name+all].median(), Unit: podsPerS,
			Peer: "32:", PeerValue: samples[name+some].median(), Ratio: compare(samples[name+all], samples[name+some], ofMedians),
		}
		if name == ours {
			r.Must = ratioAtLeast(1)
		} else {
			r.What += ", the floor"
		}
		rows = append(rows, r)
	}
	return rows, nil
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
