package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// realWork is a network of the reference plugins. unable says why it cannot be
// used here.
func (b *bench) realWork() (w work, unable string) {
	w = work{binDir: filepath.Join(b.workDir, "real"), root: b.workDir}
	for _, name := range realChain() {
		if _, err := os.Stat(filepath.Join(w.binDir, name)); err != nil {
			return w, "there is no plugin " + name + "; see make plugins"
		}
	}
	nft := exec.Command("nft", "list", "ruleset")
	nft.Env = []string{"PATH=" + pluginPath}
	if err := nft.Run(); err != nil {
		return w, fmt.Sprintf("portmap's nft cannot be used: %v", err)
	}
	w.conf = list(netName, "1.0.0",
		object{
			"type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
			"ipam": object{
				"type": "host-local", "dataDir": filepath.Join(b.workDir, "ipam"),
				"ranges": [][]object{{{"subnet": "10.88.0.0/20"}}}, "routes": []object{{"dst": "0.0.0.0/0"}},
			},
		},
		object{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
	)
	return w, ""
}

// realSubjects are the subjects on the real chain.
func (b *bench) realSubjects() (subjects []subject, stop func(), unable string, err error) {
	w, unable := b.realWork()
	if unable != "" {
		return nil, nil, unable, nil
	}
	// libcni's plugins get our whole environment.
	if err := os.Setenv("PATH", pluginPath); err != nil {
		return nil, nil, "", err
	}
	subjects, stop, err = b.subjects(w)
	return subjects, stop, "", err
}

// realPod is a pod with a namespace of its own.
func (b *bench) realPod() (pod, error) {
	p := b.pod()
	var err error
	p.netNS, err = b.newNetNS()
	return p, err
}

// again is the same pod under another ID, with a port of the host's.
func (b *bench) again(p pod, port int) pod {
	fresh := b.pod()
	fresh.netNS, fresh.port = p.netNS, int32(port)
	return fresh
}

// realFigure attaches pods with the reference plugins. How much of that is ours
// drowns in how much their time differs. So it is taken from plugins that sleep
// as long as real ones take, beside the floor with the same.
func realFigure(ctx context.Context, b *bench) (figureResults, error) {
	subjects, stop, unable, err := b.realSubjects()
	if err != nil || unable != "" {
		return figureResults{Skipped: unable}, err
	}
	defer stop()
	var trials []trial
	for i, s := range subjects {
		p, err := b.realPod()
		if err != nil {
			return figureResults{}, err
		}
		trials = append(trials, trial{s.name, func(int) (float64, error) {
			return setUpOne(ctx, s, b.again(p, 20000+i))
		}})
	}
	sleepers, stopSleepers, err := b.subjects(work{
		conf: list(netName, "1.0.0", object{"type": "slow"}, object{"type": "slow"}), binDir: filepath.Join(b.workDir, "bin"), root: b.workDir,
	})
	if err != nil {
		return figureResults{}, err
	}
	defer stopSleepers()
	const asleep = "asleep "
	for _, s := range sleepers {
		trials = append(trials, trial{asleep + s.name, func(int) (float64, error) { return setUpOne(ctx, s, b.pod()) }})
	}
	samples, err := interleave(ctx, b.times(30), trials)
	if err != nil {
		return figureResults{}, err
	}
	out := besidePeers("SetUpPod", samples, nil)
	out.Plot.Title = "SetUpPod with bridge, host-local and portmap"
	total := samples[ours].median()
	extra := func(name string) interval {
		return compare(samples[asleep+name], samples[asleep+theFloor], func(a, b series) float64 { return a.median() - b.median() })
	}
	mine, lib := extra(ours), extra(peerLib)
	part := interval{Mid: mine.Mid / total, Low: mine.Low / total, High: mine.High / total}
	out.Rows = append(out.Rows,
		row{
			What: "what is added to two plugins of 20 ms", Value: mine.Mid, Unit: seconds, Range: mine,
			Peer: peerLib, PeerValue: lib.Mid,
		},
		row{What: "what share of the real SetUpPod that is", Value: part.Mid, Unit: share, Range: part, Must: atMost(0.03)})
	return out, nil
}

// realStormFigure attaches 200 pods at once.
func realStormFigure(ctx context.Context, b *bench) (figureResults, error) {
	subjects, stop, unable, err := b.realSubjects()
	if err != nil || unable != "" {
		return figureResults{Skipped: unable}, err
	}
	defer stop()
	pods := make([]pod, b.few(200))
	for i := range pods {
		if pods[i], err = b.realPod(); err != nil {
			return figureResults{}, err
		}
	}
	slowest := map[string]series{}
	var trials []trial
	for _, s := range subjects {
		if s.name != ours && s.name != peerLib {
			continue
		}
		trials = append(trials, trial{s.name, func(round int) (float64, error) {
			batch := make([]pod, len(pods))
			for i, p := range pods {
				batch[i] = b.again(p, 20000+i)
			}
			rate, slow, err := storm(ctx, s, batch)
			slowest[s.name] = append(slowest[s.name], slow)
			return rate, err
		}})
	}
	// Once, since it takes the better part of a minute.
	samples, err := turns(ctx, 0, 1, trials)
	if err != nil {
		return figureResults{}, err
	}
	out := figureResults{Plot: &plot{Title: "Pods per second of 200 at once: bridge, host-local, portmap", Unit: podsPerS, Note: "more is better"}}
	for _, t := range trials {
		out.Plot.Bars = append(out.Plot.Bars, bar{Name: t.name, Value: samples[t.name].median()})
		if t.name == ours {
			continue
		}
		out.Rows = append(out.Rows,
			row{
				What: "200 at once", Value: samples[ours].median(), Unit: podsPerS,
				Peer: t.name, PeerValue: samples[t.name].median(), Ratio: only(samples[ours].median() / samples[t.name].median()),
			},
			row{
				What: "200 at once, the slowest pod", Value: slowest[ours].median(), Unit: seconds,
				Peer: t.name, PeerValue: slowest[t.name].median(), Ratio: only(slowest[ours].median() / slowest[t.name].median()),
			})
	}
	return out, nil
}
