package main

import (
	"context"
	"errors"

	"github.com/podcni/podcni"
)

// statusFigure asks for a pod's status, which the record answers, and for the
// node's.
func statusFigure(ctx context.Context, b *bench) (figureResults, error) {
	n, err := b.node()
	if err != nil {
		return figureResults{}, err
	}
	w := b.noopWork(1)
	p, err := openPodcni(w, podcni.WithPluginEnv("NOOP_COUNT="+n.countPath))
	if err != nil {
		return figureResults{}, err
	}
	defer func() { _ = p.Shutdown() }() // which always gives nil
	lib, conf, err := openLibcni(w)
	if err != nil {
		return figureResults{}, err
	}
	at := b.pod()
	rt := runtimeConf(at)
	if _, err := p.SetUpPodWithContext(ctx, podOf(at)); err != nil {
		return figureResults{}, err
	}
	if _, err := lib.AddNetworkList(ctx, conf, rt); err != nil {
		return figureResults{}, err
	}
	// A network of a version that has STATUS.
	asked := w
	asked.conf = list(netName, "1.1.0", object{"type": "noop"})
	q, err := openPodcni(asked)
	if err != nil {
		return figureResults{}, err
	}
	defer func() { _ = q.Shutdown() }() // which always gives nil
	askedLib, askedConf, err := openLibcni(asked)
	if err != nil {
		return figureResults{}, err
	}

	const pod, libPod, idle, status, libStatus = "pod", "libcni's pod", "idle", "STATUS", "libcni's STATUS"
	before, err := n.runs()
	if err != nil {
		return figureResults{}, err
	}
	samples, err := interleave(ctx, b.times(1000), []trial{
		{pod, func(int) (float64, error) {
			return timed(func() error {
				results, err := p.GetPodNetworkStatusWithContext(ctx, podOf(at))
				if err == nil && len(results) != 1 {
					err = errors.New("the status is not one result")
				}
				return err
			})
		}},
		{libPod, func(int) (float64, error) {
			return timed(func() error {
				_, err := lib.GetNetworkListCachedResult(conf, rt)
				return err
			})
		}},
		{idle, func(int) (float64, error) { return timed(func() error { return p.StatusWithContext(ctx) }) }},
		{status, func(int) (float64, error) { return timed(func() error { return q.StatusWithContext(ctx) }) }},
		{libStatus, func(int) (float64, error) {
			return timed(func() error { return askedLib.GetStatusNetworkList(ctx, askedConf) })
		}},
	})
	if err != nil {
		return figureResults{}, err
	}
	after, err := n.runs()
	if err != nil {
		return figureResults{}, err
	}
	if err := errors.Join(p.TearDownPodWithContext(ctx, podOf(at)), lib.DelNetworkList(ctx, conf, rt)); err != nil {
		return figureResults{}, err
	}
	return figureResults{
		Rows: []row{
			{
				What: "GetPodNetworkStatus, from the record", Value: samples[pod].median(), Unit: seconds, Must: atMost(100e-6),
				Range: alone(samples[pod], series.median),
				Peer:  "libcni's cached result", PeerValue: samples[libPod].median(),
			},
			{What: "plugin runs of all of those", Value: after - before, Unit: count, Must: atMost(0)},
			{What: "Status while idle, a network of 1.0.0", Value: samples[idle].median(), Unit: seconds},
			{
				What: "Status of a network of 1.1.0, which runs STATUS", Value: samples[status].median(), Unit: seconds,
				Peer: peerLib, PeerValue: samples[libStatus].median(), Ratio: compare(samples[status], samples[libStatus], ofMedians),
			},
		},
		Plot: &plot{
			Title: "Status", Unit: seconds, Note: "median, with the 10th and 90th percentile",
			Bars: []bar{
				barOf("GetPodNetworkStatus", samples[pod]), barOf("libcni's cached result", samples[libPod]),
				barOf("Status, 1.0.0", samples[idle]), barOf("Status, 1.1.0", samples[status]), barOf("libcni's STATUS", samples[libStatus]),
			},
		},
	}, nil
}
