package main

import (
	"context"
	"fmt"
	"path/filepath"
)

// setUpCase is one way to attach one pod after the other.
type setUpCase struct {
	plugins int
	rounds  int
	tmpfs   bool // records on tmpfs; go-cni, which cannot be told, is left out
	goNoop  bool
	must    map[string]*bound // by peer
}

func setUpFigure(c setUpCase) func(ctx context.Context, b *bench) (figureResults, error) {
	return func(ctx context.Context, b *bench) (figureResults, error) {
		w := b.noopWork(c.plugins)
		if c.tmpfs {
			w.root = filepath.Join(b.workDir, "tmpfs")
		}
		if c.goNoop {
			w.binDir = filepath.Join(b.workDir, "gobin")
		}
		subjects, stop, err := b.subjects(w)
		if err != nil {
			return figureResults{}, err
		}
		defer stop()
		var trials []trial
		for _, s := range subjects {
			if c.tmpfs && s.name == peerGo {
				continue
			}
			trials = append(trials, trial{s.name, func(int) (float64, error) {
				return setUpOne(ctx, s, b.pod())
			}})
		}
		samples, err := interleave(ctx, b.times(c.rounds), trials)
		if err != nil {
			return figureResults{}, err
		}
		return besidePeers("SetUpPod", samples, c.must), nil
	}
}

// setUpOne times an attachment, and detaches the pod outside of that.
func setUpOne(ctx context.Context, s subject, p pod) (float64, error) {
	took, err := timed(func() error { return s.setUp(ctx, p) })
	if err != nil {
		return 0, err
	}
	return took, s.tearDown(ctx, p)
}

// besidePeers are the rows and the plot of what was timed beside each peer.
func besidePeers(what string, samples map[string]series, must map[string]*bound) figureResults {
	out := figureResults{Plot: &plot{Unit: seconds, Bars: []bar{barOf(ours, samples[ours])}}}
	for _, peer := range []string{peerLib, peerGo, theFloor} {
		s, ok := samples[peer]
		if !ok {
			continue
		}
		out.Plot.Bars = append(out.Plot.Bars, barOf(peer, s))
		out.Rows = append(out.Rows, row{
			What: what, Value: samples[ours].median(), Unit: seconds, Peer: peer, PeerValue: s.median(),
			Ratio: compare(samples[ours], s, ofMedians), Must: must[peer],
		})
	}
	out.Plot.Note = fmt.Sprintf("median of %d, with the 10th and 90th percentile", len(samples[ours]))
	return out
}

func barOf(name string, s series) bar {
	return bar{Name: name, Value: s.median(), Low: s.quantile(0.1), High: s.quantile(0.9)}
}
