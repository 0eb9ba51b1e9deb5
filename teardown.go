package podcni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// TearDownPod is TearDownPodWithContext with a context that never ends.
func (p *Plugin) TearDownPod(network PodNetwork) error {
	return p.TearDownPodWithContext(context.Background(), network)
}

// TearDownPodWithContext detaches the sandbox from everything that is recorded
// of it, in reverse order of attachment, whichever networks the caller names and
// whether or not they are still configured. Each DEL is driven by its record;
// one that fails holds up none of the others and stays recorded for the next
// try. It succeeds when there is nothing to do.
//
// A ctx that is over does not stop it: what is left then has the time of
// WithTeardownGrace. A plugin whose network namespace is gone, or is no longer
// the one that was recorded, gets an empty CNI_NETNS. Without a record, the
// networks that the caller names, or the default one, get a DEL as far as they
// are loaded.
//
// The error is a *PodError that wraps ErrInvalidPod before anything runs, or
// joins what failed: *PluginError, with ErrPluginNotFound where a binary is
// missing (see Forget), *RecordError, ErrBusy as in SetUpPod, or the context's
// error. It waits for other operations on the sandbox.
func (p *Plugin) TearDownPodWithContext(ctx context.Context, network PodNetwork) error {
	end, err := p.begin()
	if err != nil {
		return err
	}
	defer end()
	return podError("tear down", &network, p.tearDown(ctx, &network))
}

func (p *Plugin) tearDown(caller context.Context, pod *PodNetwork) error {
	if err := checkPod(pod, false); err != nil {
		return err
	}
	var over atomic.Pointer[time.Time] // when the grace ends, once it has begun
	stop := context.AfterFunc(caller, func() {
		end := time.Now().Add(p.opts.grace)
		over.Store(&end)
	})
	defer stop()
	ctx, cancel := outlast(caller, p.opts.grace)
	defer cancel()
	unlock, err := p.lockSandbox(ctx, pod.ID, false)
	if err != nil {
		return err
	}
	defer unlock()
	recs, bad, err := p.records.ofSandbox(pod.ID)
	if err == nil && len(recs)+len(bad) == 0 {
		return p.detachUnrecorded(ctx, pod)
	}
	// What could be read gets its DEL beside what could not.
	errs := []error{err}
	left := len(recs) + len(bad)
	inTurn := func(detach func(ctx context.Context) error) {
		// One that hangs leaves the others their part of the grace.
		part := p.opts.grace
		if end := over.Load(); end != nil {
			part = time.Until(*end)
		}
		turn, cancel := outlast(caller, part/time.Duration(left))
		defer cancel()
		errs = append(errs, detach(turn))
		left--
	}
	for _, rec := range slices.Backward(recs) {
		inTurn(func(ctx context.Context) error { return p.detach(ctx, rec) })
	}
	for _, b := range bad {
		inTurn(func(ctx context.Context) error { return p.detachUnreadable(ctx, pod, b) })
	}
	return errors.Join(errs...)
}

// detachAll detaches in reverse order, and goes on past what fails.
func (p *Plugin) detachAll(ctx context.Context, recs []*record) []error {
	var errs []error
	for _, rec := range slices.Backward(recs) {
		errs = append(errs, p.detach(ctx, rec))
	}
	return errs
}

// detach undoes one recorded attachment and drops its record.
func (p *Plugin) detach(ctx context.Context, rec *record) error {
	net, err := p.networkOf(rec)
	if err != nil {
		return err
	}
	if rec.Writer != p.self {
		// A plugin of a runtime that died may still be at work: what its ADD does
		// after our DEL would stay for good.
		if err := p.orphans.end(ctx, p.opts.log, rec, cniPath(p.opts.binDirs)); err != nil {
			return fmt.Errorf("end what still runs for %s: %w", rec.IfName, err)
		}
		// From here on it is ours: whoever comes after us must know whose plugins
		// may be at work. A record that cannot be written must not stop a DEL.
		mine := *rec
		if err := p.records.put(&mine); err != nil {
			p.opts.log.Warn("a record of an earlier runtime could not be taken over", "sandbox", rec.ContainerID, "err", err)
		}
	}
	netNS, err := p.usableNetNS(rec.NetNS, rec.NetNSID)
	if err != nil {
		return err
	}
	return p.detachWith(ctx, net, rec, netNS, len(net.plugins))
}

func (p *Plugin) detachWith(ctx context.Context, net *network, rec *record, netNS string, started int) error {
	release, err := p.gates.share(ctx, net.name)
	if err != nil {
		return err
	}
	defer release()
	if err := p.del(ctx, net, rec, netNS, started); err != nil {
		return err
	}
	return p.records.remove(rec)
}

// usableNetNS is the CNI_NETNS of a DEL: the path while it leads to the
// namespace that was recorded, and empty once that is gone or another one, or
// no namespace at all, is there (specification, "DEL": the runtime may have
// removed it).
func (p *Plugin) usableNetNS(path string, recorded NetNSID) (string, error) {
	if path == "" {
		return "", nil
	}
	now, err := identifyNetNS(path)
	switch {
	case errors.Is(err, ErrNetNS):
		return "", nil
	case err != nil:
		return "", err
	case recorded != (NetNSID{}) && !recorded.Same(now):
		p.opts.log.Warn("the path leads to another network namespace than it did: plugins get none", "path", path)
		return "", nil
	}
	return path, nil
}

// detachUnrecorded sends DEL for what the caller names, as far as it is loaded.
// Nothing is known to be attached, so that a failure leaves nothing recorded
// either. But while DEL is under way there is a record: if we die, whoever comes
// next finds the plugin that is still at it.
func (p *Plugin) detachUnrecorded(ctx context.Context, pod *PodNetwork) error {
	plan := p.planLoaded(pod)
	var errs []error
	for _, pl := range slices.Backward(plan) {
		netNS, err := p.usableNetNS(pod.NetNS, NetNSID{})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		pl.rec.Since = time.Now()
		if err := p.records.claim(pl.rec); err != nil {
			p.opts.log.Warn("a DEL could not be recorded", "sandbox", pod.ID, "network", pl.net.name, "err", err)
		}
		if err := p.detachWith(ctx, pl.net, pl.rec, netNS, len(pl.net.plugins)); err != nil {
			errs = append(errs, err, p.records.remove(pl.rec))
		}
	}
	return errors.Join(errs...)
}

// planLoaded plans those networks of the pod that are loaded. What cannot be
// planned was never set up by us either.
func (p *Plugin) planLoaded(pod *PodNetwork) []planned {
	snap := p.snap.Load()
	plan, err := planPod(p.opts, snap, pod, p.environArgs)
	if err == nil {
		return plan
	}
	if errors.Is(err, ErrNetworkNotFound) && len(pod.Networks) > 0 {
		var known PodNetwork
		if known, err = onlyLoaded(pod, snap, p.opts.ifPrefix); err == nil && len(known.Networks) > 0 {
			if plan, err = planPod(p.opts, snap, &known, p.environArgs); err == nil {
				return plan
			}
		}
	}
	p.opts.log.Debug("nothing recorded and nothing to detach", "sandbox", pod.ID, "err", err)
	return nil
}

// onlyLoaded leaves of the pod's networks those that are loaded, with the
// interfaces that they have among all.
func onlyLoaded(pod *PodNetwork, snap *snapshot, prefix string) (PodNetwork, error) {
	names, err := interfaceNames(prefix, pod.Networks)
	if err != nil {
		return PodNetwork{}, err
	}
	known := *pod
	known.Networks, known.InterfaceConfig = nil, map[string]RuntimeConfig{}
	for i, want := range pod.Networks {
		if snap.byName[want.Name] == nil {
			continue
		}
		known.Networks = append(known.Networks, NetAttachment{Name: want.Name, Ifname: names[i]})
		if c, ok := pod.InterfaceConfig[names[i]]; ok {
			known.InterfaceConfig[names[i]] = c
		}
	}
	return known, nil
}

// detachUnreadable sends DEL for an attachment whose record cannot be read, with
// the loaded network and what the caller says of the pod, and sets the record
// aside. A record whose name could be another sandbox's as well is left where
// it is.
func (p *Plugin) detachUnreadable(ctx context.Context, pod *PodNetwork, b *RecordError) error {
	net := p.snap.Load().byName[b.network]
	if net == nil {
		p.opts.log.Warn("a record cannot be read and its network is not loaded: nothing can be detached",
			"sandbox", pod.ID, "network", b.network, "record", b.Path, "err", b.Err)
		return p.setAside(b)
	}
	named := *pod
	named.Networks = []NetAttachment{{Name: b.network, Ifname: b.ifName}}
	named.InterfaceConfig = nil
	if c, ok := pod.InterfaceConfig[b.ifName]; ok {
		named.InterfaceConfig = map[string]RuntimeConfig{b.ifName: c}
	}
	plan, err := planPod(p.opts, p.snap.Load(), &named, p.environArgs)
	if err != nil {
		return errors.Join(b, err)
	}
	netNS, err := p.usableNetNS(pod.NetNS, NetNSID{})
	if err != nil {
		return errors.Join(b, err)
	}
	release, err := p.gates.share(ctx, net.name)
	if err != nil {
		return errors.Join(b, err)
	}
	defer release()
	if err := p.del(ctx, net, plan[0].rec, netNS, len(net.plugins)); err != nil {
		return errors.Join(b, err)
	}
	return p.setAside(b)
}

func (p *Plugin) setAside(b *RecordError) error {
	if !b.certain {
		return nil
	}
	return p.records.setAside(b)
}
