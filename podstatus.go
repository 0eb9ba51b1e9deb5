package podcni

import (
	"context"
	"errors"
	"fmt"
)

// GetPodNetworkStatus is GetPodNetworkStatusWithContext with a context that
// never ends.
func (p *Plugin) GetPodNetworkStatus(network PodNetwork) ([]NetResult, error) {
	return p.GetPodNetworkStatusWithContext(context.Background(), network)
}

// GetPodNetworkStatusWithContext answers what attaching the pod gave, from its
// records: in the order of the networks that the caller names, or of attachment
// when it names none. It runs no plugin and waits for no operation, unless
// WithStatusCheck asks for CHECK, which does both.
//
// The error is a *PodError that wraps ErrInvalidPod, ErrNotAttached,
// *RecordError, or what CHECK said as *PluginError.
func (p *Plugin) GetPodNetworkStatusWithContext(ctx context.Context, network PodNetwork) ([]NetResult, error) {
	end, err := p.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	results, err := p.podStatus(ctx, &network, p.opts.checkStatus)
	if err != nil {
		return nil, podError("get the status of", &network, err)
	}
	return results, nil
}

// CheckPod asks the plugins of each of the pod's attachments whether it is still
// as ADD left it (specification, "CHECK"), whatever GetPodNetworkStatus does.
// Networks before version 0.4.0 and those with disableCheck have no CHECK and
// pass. It waits for other operations on the sandbox.
//
// The error is a *PodError that wraps ErrInvalidPod, ErrNotAttached, ErrNetNS
// when the sandbox's namespace is gone or another one, or a *PluginError.
func (p *Plugin) CheckPod(ctx context.Context, network PodNetwork) error {
	end, err := p.begin()
	if err != nil {
		return err
	}
	defer end()
	_, err = p.podStatus(ctx, &network, true)
	return podError("check", &network, err)
}

func (p *Plugin) podStatus(ctx context.Context, pod *PodNetwork, check bool) ([]NetResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkPod(pod, false); err != nil {
		return nil, err
	}
	if check {
		unlock, err := p.lockSandbox(ctx, pod.ID, false)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	recs, err := p.attached(pod)
	if err != nil {
		return nil, err
	}
	results := make([]NetResult, len(recs))
	for i, rec := range recs {
		net, err := p.networkOf(rec)
		if err != nil {
			return nil, err
		}
		if check {
			if err := p.checkAttachment(ctx, net, rec); err != nil {
				return nil, err
			}
		}
		results[i].Name, results[i].Ifname = rec.Network, rec.IfName
		if len(rec.Result) == 0 {
			continue
		}
		if results[i].Result, err = readResult(rec.Result, net.cniVersion); err != nil {
			return nil, fmt.Errorf("%w: result of network %q: %w", ErrBadRecord, rec.Network, err)
		}
	}
	return results, nil
}

// attached gives the records that the caller asks for.
func (p *Plugin) attached(pod *PodNetwork) ([]*record, error) {
	recs, bad, err := p.records.ofSandbox(pod.ID)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, b := range bad {
		errs = append(errs, b)
	}
	for _, rec := range recs {
		if rec.State != stateAttached {
			errs = append(errs, fmt.Errorf("%w: %s to network %q was begun and not finished", ErrNotAttached, rec.IfName, rec.Network))
		}
	}
	if len(pod.Networks) == 0 {
		if len(recs) == 0 && len(errs) == 0 {
			return nil, ErrNotAttached
		}
		return recs, errors.Join(errs...)
	}
	asked := make([]*record, 0, len(pod.Networks))
	taken := make(map[*record]bool, len(recs))
	for _, want := range pod.Networks {
		rec := pick(recs, taken, want)
		if rec == nil {
			return nil, errors.Join(append(errs, fmt.Errorf("%w to network %q", ErrNotAttached, want.Name))...)
		}
		taken[rec] = true
		asked = append(asked, rec)
	}
	return asked, nil
}

// pick finds the next finished attachment that is the one wanted.
func pick(recs []*record, taken map[*record]bool, want NetAttachment) *record {
	for _, rec := range recs {
		if rec.State == stateAttached && !taken[rec] && rec.Network == want.Name &&
			(want.Ifname == "" || rec.IfName == want.Ifname) {
			return rec
		}
	}
	return nil
}

func (p *Plugin) checkAttachment(ctx context.Context, net *network, rec *record) error {
	if net.disableCheck || !net.sinceVersion("0.4.0") {
		return nil
	}
	if rec.NetNS != "" && rec.NetNSID != (NetNSID{}) {
		now, err := identifyNetNS(rec.NetNS)
		if err != nil {
			return err
		}
		if !rec.NetNSID.Same(now) {
			return fmt.Errorf("%w: %s is not the one that was attached", ErrNetNS, rec.NetNS)
		}
	}
	return p.check(ctx, net, rec)
}
