package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/podcni/podcni"
)

const (
	calm, disturbed = "calm", "disturbed"
	// churn is how often a file of the config directory changes.
	churn = 50 * time.Millisecond
	// stretch is how many pods are attached in a row under the same conditions.
	stretch = 40
)

// hangFigure attaches pods while the plugin of another hangs and the directory
// of 50 networks never holds still, in turn with quiet.
func hangFigure(ctx context.Context, b *bench) (figureResults, error) {
	n, err := b.node()
	if err != nil {
		return figureResults{}, err
	}
	for _, name := range []string{"noop", "hang"} {
		if err := os.Link(filepath.Join(b.workDir, "bin", name), filepath.Join(n.binDir, name)); err != nil {
			return figureResults{}, err
		}
	}
	p, err := n.open(
		podcni.WithConfList(noops(netName, 1)), podcni.WithConfList(list("hanging", "1.0.0", object{"type": "hang"})))
	if err != nil {
		return figureResults{}, err
	}
	defer func() { _ = p.Shutdown() }() // which always gives nil
	s := subjectOf(p)
	all := map[string]series{}
	attach := func(mode string, round int) (float64, error) {
		var some series
		for range b.few(stretch) {
			took, err := setUpOne(ctx, s, b.pod())
			if err != nil {
				return 0, err
			}
			some = append(some, took)
		}
		if round >= 0 {
			all[mode] = append(all[mode], some...)
		}
		return some.median(), nil
	}
	rounds := b.times(50)
	_, err = interleave(ctx, rounds, []trial{
		{calm, func(round int) (float64, error) { return attach(calm, round) }},
		{disturbed, func(round int) (v float64, err error) {
			stop, err := n.disturb(ctx, p, b.pod())
			if err != nil {
				return 0, err
			}
			defer func() { err = errors.Join(err, stop()) }()
			return attach(disturbed, round)
		}},
	})
	if err != nil {
		return figureResults{}, err
	}
	quiet, loud := all[calm], all[disturbed]
	return figureResults{
		Rows: []row{
			{
				What: "p99 while disturbed", Value: loud.quantile(0.99), Unit: seconds,
				Peer: "quiet", PeerValue: quiet.quantile(0.99), Ratio: compare(loud, quiet, ofP99), Must: ratioAtMost(1.5),
			},
			{
				What: "median while disturbed", Value: loud.median(), Unit: seconds,
				Peer: "quiet", PeerValue: quiet.median(), Ratio: compare(loud, quiet, ofMedians),
			},
		},
		Plot: &plot{
			Title: "SetUpPod beside a plugin that hangs and configs that churn", Unit: seconds,
			Note: fmt.Sprintf("p99 of %d, with the median and the longest", len(loud)),
			Bars: []bar{tailOf("quiet", quiet), tailOf("hang and churn", loud)},
		},
	}, nil
}

func tailOf(name string, s series) bar {
	return bar{Name: name, Value: s.quantile(0.99), Low: s.median(), High: s.quantile(1)}
}

// disturb has a pod's plugin hang and the directory change, until stop.
func (n *node) disturb(ctx context.Context, p *podcni.CNI, at pod) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	before, err := n.runs()
	if err != nil {
		cancel()
		return nil, err
	}
	var wg sync.WaitGroup
	var hung, churned error
	wg.Go(func() {
		network := podOf(at)
		network.Networks = []podcni.NetAttachment{{Name: "hanging"}}
		if _, err := p.SetUpPodWithContext(ctx, network); !errors.Is(err, context.Canceled) {
			hung = fmt.Errorf("the plugin that hangs: %w", err)
		}
	})
	wg.Go(func() {
		ticker := time.NewTicker(churn)
		defer ticker.Stop()
		for i := 0; churned == nil; i++ {
			churned = n.write(i/2%networks, []string{"0.4.0", "1.0.0"}[i%2])
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	})
	stop = func() error {
		cancel()
		wg.Wait()
		return errors.Join(hung, churned)
	}
	for began := time.Now(); ; {
		now, err := n.runs()
		if err == nil && now > before {
			return stop, nil
		}
		if err == nil && time.Since(began) > 20*time.Second {
			err = errors.New("the plugin that hangs does not start")
		}
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		<-time.After(time.Millisecond)
	}
}
