package podcni

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podcni/podcni/internal/confdir"
	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/netns"
)

const (
	// WaitReady asks plugins that are not ready again after minStatusWait, then
	// after twice that, up to maxStatusWait: no event tells of them.
	minStatusWait = time.Second
	maxStatusWait = 10 * time.Second
)

// Status is StatusWithContext with a context that never ends. The plugins that it
// runs have their time limit all the same.
func (c *CNI) Status() error { return c.StatusWithContext(context.Background()) }

// StatusWithContext returns nil when a pod that names no network can be attached.
// Otherwise the error wraps ErrNotReady and the reason: the configuration
// directory is missing or has no files; no file can be used (the error has the first
// three reasons, Rejected has all); the default network is not loaded; or one of its
// plugins says with STATUS that it cannot serve. In the last case the error is a
// *PluginError, which wraps the plugin's *types.Error: code 50 means no new pods, 51
// means that running pods may be cut off as well (specification, section 5,
// "Error").
//
// STATUS is sent to networks of version 1.1.0 and later. Concurrent calls share one
// run, and ctx does not end that run. No operation on a pod waits for it. After
// Shutdown the error is ErrShutdown.
func (c *CNI) StatusWithContext(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	snap := c.networks.Current()
	if snap.Default == nil {
		return fmt.Errorf("%w: %w", ErrNotReady, snap.Reason)
	}
	return c.status(ctx, snap.Default)
}

// status asks the plugins of a network whether they can serve.
func (c *CNI) status(ctx context.Context, n *confdir.Network) error {
	if !since(n.List, "1.1.0") {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// The key is the network as it is configured: a change of it gets a run of its
	// own.
	run := c.statuses.DoChan(fmt.Sprintf("%p", n), func() (any, error) {
		return nil, c.askStatus(c.life, n.List)
	})
	select {
	case result := <-run:
		if err := c.closed(); err != nil {
			return err // which may be why the run has failed
		}
		return notServing(n.List.Name, result.Err)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.life.Done():
		return ErrShutdown
	}
}

// notServing says what a failed STATUS means.
func notServing(network string, err error) error {
	switch {
	case err == nil:
		return nil
	case isCode(err, types.ErrPluginNotAvailable):
		return fmt.Errorf("%w: network %q cannot take new pods: %w", ErrNotReady, network, err)
	case isCode(err, types.ErrLimitedConnectivity):
		return fmt.Errorf("%w: network %q cannot take new pods, and running pods may be cut off: %w", ErrNotReady, network, err)
	}
	return fmt.Errorf("%w: network %q does not say that it can take pods: %w", ErrNotReady, network, err)
}

// WaitReady blocks until pods can be attached to all of the named networks, or to
// the default network when none is named. When ctx ends first, the error wraps
// ErrNotReady with the last reason, and ctx's error. After Shutdown it is
// ErrShutdown. A plugin that fails STATUS is asked again after a second, then after
// longer pauses of up to ten seconds.
func (c *CNI) WaitReady(ctx context.Context, networks ...string) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	updates := c.Updates(watching)
	reason := fmt.Errorf("%w: the plugins have not answered STATUS", ErrNotReady)
	wait := minStatusWait
	for {
		loaded, err := c.ready(ctx, networks)
		if err == nil || errors.Is(err, ErrShutdown) {
			return err
		}
		if errors.Is(err, ErrNotReady) {
			reason = err
		}
		var again <-chan time.Time // never, unless a plugin says no
		if loaded {
			again = time.After(wait)
			wait = min(2*wait, maxStatusWait)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", reason, context.Cause(ctx))
		case <-updates: // or closed, which the next round finds out
			wait = minStatusWait
		case <-again:
		}
	}
}

// ready is the status of several networks. It also reports whether they are all
// loaded.
func (c *CNI) ready(ctx context.Context, networks []string) (loaded bool, err error) {
	if len(networks) == 0 {
		err := c.StatusWithContext(ctx)
		return c.networks.Current().Default != nil, err
	}
	if err := c.closed(); err != nil {
		return false, err
	}
	snap := c.networks.Current()
	for _, name := range networks {
		if snap.Network(name) == nil {
			return false, fmt.Errorf("%w: %w", ErrNotReady, networkNotFound(snap, name))
		}
	}
	for _, name := range networks {
		if err := c.status(ctx, snap.Network(name)); err != nil {
			return true, err
		}
	}
	return true, nil
}

// GetPodNetworkStatus is GetPodNetworkStatusWithContext with a context that never
// ends.
func (c *CNI) GetPodNetworkStatus(network PodNetwork) ([]NetResult, error) {
	return c.GetPodNetworkStatusWithContext(context.Background(), network)
}

// GetPodNetworkStatusWithContext returns what attaching the pod gave, as it was
// recorded: in the order of the networks that the pod names, or in the order of
// attachment when it names none. It runs no plugin and waits for no operation. With
// [WithCheckOnGetStatus] it runs CHECK, and waits for other operations on the
// sandbox.
//
// The error is a *PodError. It wraps ErrInvalidPod, ErrNotAttached, a *RecordError,
// or what CHECK returned, a *PluginError.
func (c *CNI) GetPodNetworkStatusWithContext(ctx context.Context, network PodNetwork) ([]NetResult, error) {
	if err := c.closed(); err != nil {
		return nil, err
	}
	results, err := c.podStatus(ctx, &network, c.opts.checkStatus)
	if err != nil {
		return nil, podError("get the status of", &network, err)
	}
	return results, nil
}

// CheckPod asks the plugins of each of the pod's attachments whether it is still as
// ADD left it (specification, section 2, "CHECK"). Networks before version 0.4.0
// and those with disableCheck have no CHECK and pass. It blocks until other
// operations on the sandbox are done.
//
// The error is a *PodError. It wraps ErrInvalidPod, ErrNotAttached, ErrNetNS when
// the namespace is gone or its path leads to another one, a *RecordError, or a
// *PluginError.
func (c *CNI) CheckPod(ctx context.Context, network PodNetwork) error {
	if err := c.closed(); err != nil {
		return err
	}
	_, err := c.podStatus(ctx, &network, true)
	return podError("check", &network, err)
}

func (c *CNI) podStatus(ctx context.Context, pod *PodNetwork, check bool) ([]NetResult, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := checkPod(pod, false); err != nil {
		return nil, err
	}
	if check {
		lock, err := c.locks.Sandbox(ctx, pod.ID, false)
		if err != nil {
			return nil, err
		}
		defer lock.Release()
	}
	kept, err := c.attached(ctx, pod)
	if err != nil {
		return nil, err
	}
	results := make([]NetResult, len(kept))
	for i, k := range kept {
		results[i].Name, results[i].Ifname = k.Network, k.IfName
		var list *libcni.NetworkConfigList
		if k.record.Config == nil { // another runtime's
			list, err = c.foreignList(k.Result)
		} else {
			list, err = c.recordedList(k.Network, k.record.Config)
		}
		if err != nil {
			return nil, &RecordError{Path: k.Path, Err: err}
		}
		if results[i].Result, err = keptResult(k.Result, list.CNIVersion); err != nil {
			return nil, &RecordError{Path: k.Path, Err: fmt.Errorf("%w: %w", ErrBadRecord, err)}
		}
		if check {
			a := &attachment{Attachment: k.record, containerID: pod.ID, list: list}
			if err := c.checkOne(ctx, a); err != nil {
				return nil, err
			}
		}
	}
	return results, nil
}

// checkOne runs CHECK, where the network has it.
func (c *CNI) checkOne(ctx context.Context, a *attachment) error {
	if a.list.DisableCheck || !since(a.list, "0.4.0") {
		return nil
	}
	ns, err := netns.OpenPod(ctx, a.NetNS, false)
	if err != nil {
		return err
	}
	defer ns.Close()
	if !a.NetNSID.IsZero() && !a.NetNSID.Same(ns.ID()) {
		return fmt.Errorf("%w: %s is not the one that was attached", ErrNetNS, a.NetNS)
	}
	a.ns = ns
	return c.check(ctx, a)
}

// keptAttachment is an attachment that is complete.
type keptAttachment struct {
	*journal.Result
	record journal.Attachment
}

// attached returns the attachments that the pod asks for.
func (c *CNI) attached(ctx context.Context, pod *PodNetwork) ([]keptAttachment, error) {
	all, errs := c.keptOf(ctx, pod.ID)
	if len(pod.Networks) == 0 {
		if len(all) == 0 && len(errs) == 0 {
			return nil, ErrNotAttached
		}
		return all, errors.Join(errs...)
	}
	asked := make([]keptAttachment, 0, len(pod.Networks))
	taken := make([]bool, len(all))
search:
	for _, want := range pod.Networks {
		for i, k := range all {
			if !taken[i] && k.Network == want.Name && (want.Ifname == "" || k.IfName == want.Ifname) {
				taken[i] = true
				asked = append(asked, k)
				continue search
			}
		}
		return nil, errors.Join(append(errs, fmt.Errorf("%w to network %q", ErrNotAttached, want.Name))...)
	}
	return asked, nil
}

// keptOf returns the complete attachments of a sandbox, and why others are not.
func (c *CNI) keptOf(ctx context.Context, containerID string) (all []keptAttachment, errs []error) {
	j, err := c.journal.Read(containerID)
	if err != nil {
		return nil, []error{recordError(err)}
	}
	if j == nil {
		results, bad, err := c.journal.Results(ctx, containerID)
		if len(bad) > 0 {
			// A set-up that began meanwhile is one more reason: libcni writes in place.
			if begun, _ := c.journal.Read(containerID); begun != nil {
				return c.keptOf(ctx, containerID)
			}
		}
		for _, r := range results {
			all = append(all, keptAttachment{Result: r, record: foreignRecord(r)})
		}
		for _, b := range bad {
			errs = append(errs, recordError(b))
		}
		if err != nil {
			errs = append(errs, recordError(err))
		}
		return all, errs
	}
	for _, a := range j.Attachments {
		kept, err := c.journal.Result(a.Network, containerID, a.IfName)
		switch {
		case a.Detaching:
			errs = append(errs, fmt.Errorf("%w: %s to network %q is to be detached", ErrNotAttached, a.IfName, a.Network))
		case err != nil:
			// libcni writes it in place: the set-up may still be under way.
			errs = append(errs, fmt.Errorf("%w: %s to network %q: %w", ErrNotAttached, a.IfName, a.Network, recordError(err)))
		case kept == nil:
			errs = append(errs, fmt.Errorf("%w: %s to network %q was begun and not finished", ErrNotAttached, a.IfName, a.Network))
		default:
			all = append(all, keptAttachment{Result: kept, record: a})
		}
	}
	return all, errs
}
