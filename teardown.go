package podcni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/locks"
	"github.com/podcni/podcni/internal/netns"
	"github.com/podcni/podcni/internal/plugin"
)

// TearDownPod is TearDownPodWithContext with a context that never ends.
func (c *CNI) TearDownPod(network PodNetwork) error {
	return c.TearDownPodWithContext(context.Background(), network)
}

// TearDownPodWithContext detaches the sandbox, in reverse order of attachment. If
// the pod names no network, everything that is recorded of the sandbox is
// detached. If it names networks, only those are detached. If it names an interface,
// only that interface is. A network can thus be removed from a running pod.
//
// DEL goes out with what was recorded at ADD: also when the configuration has
// changed or is gone, and when the namespace is gone or its path leads to another
// one (CNI_NETNS is empty then). A DEL that fails holds up none of the others; its
// attachment stays recorded for the next try. TearDownPod may be repeated.
//
// A network that the pod names but that is not recorded also gets DEL, if it is
// loaded. So does the default network when the pod names none and nothing is
// recorded.
//
// When ctx ends, detaching goes on for the time of [WithTeardownGrace], and every
// attachment gets its part of that.
//
// The error is a *PodError. It wraps ErrInvalidPod (a *FieldError) before anything
// runs. Otherwise it joins what failed: a *PluginError, with ErrPluginNotFound when
// a binary is missing (see [CNI.Forget]), a *RecordError, ErrBusy as in SetUpPod,
// or the context's error. It blocks until other operations on the sandbox are
// done.
func (c *CNI) TearDownPodWithContext(ctx context.Context, network PodNetwork) error {
	if err := c.closed(); err != nil {
		return err
	}
	return podError("tear down", &network, c.tearDown(ctx, &network))
}

// turns gives each of the attachments that are left its time.
type turns func(left int) (context.Context, context.CancelFunc)

func (c *CNI) tearDown(caller context.Context, pod *PodNetwork) error {
	if err := checkPod(pod, false); err != nil {
		return err
	}
	var over atomic.Pointer[time.Time] // when the grace ends, once it has begun
	stop := context.AfterFunc(caller, func() {
		end := time.Now().Add(c.opts.grace)
		over.Store(&end)
	})
	defer stop()
	turn := func(left int) (context.Context, context.CancelFunc) {
		grace := c.opts.grace
		if end := over.Load(); end != nil {
			grace = time.Until(*end)
		}
		return outlast(caller, grace/time.Duration(left))
	}
	ctx, cancel := turn(1)
	defer cancel()
	lock, err := c.locks.Sandbox(ctx, pod.ID, false)
	if err != nil {
		return err
	}
	defer func() {
		if lock != nil {
			lock.Release()
		}
	}()
	if !lock.KeptApart() && len(c.planLoaded(pod, nil)) > 0 {
		// Nothing was recorded when we looked, and a DEL will go out: no set-up of
		// another process may come between. Without a lock file it goes on as before.
		lock.Release()
		if lock, err = c.locks.Sandbox(ctx, pod.ID, true); err != nil {
			if lock, err = c.locks.Sandbox(ctx, pod.ID, false); err != nil {
				return err
			}
		}
	}

	j, err := c.journal.Read(pod.ID)
	switch {
	case errors.Is(err, journal.ErrUnreadable):
		_, err := c.detachUnreadable(turn, lock, pod, err)
		return err
	case err != nil:
		return recordError(err)
	case j == nil:
		j = &journal.Journal{ContainerID: pod.ID, Owner: c.opts.owner}
	}
	return c.tearDownRecorded(ctx, turn, lock, pod, j)
}

func (c *CNI) tearDownRecorded(ctx context.Context, turn turns, lock *locks.Sandbox, pod *PodNetwork, j *journal.Journal) error {
	recorded := len(j.Attachments) > 0
	orphans := c.endOrphans(ctx, j)
	list, err := c.recordedOf(ctx, pod, j)
	defer func() { closeAll(list) }()
	errs := []error{err, orphans}
	if orphans == nil && (!recorded || j.Torn || j.Others) {
		j.Others = true
		others, err := c.others(ctx, pod)
		others = without(others, list)
		errs = append(errs, err)
		if err := c.adopt(j, others); err != nil {
			c.opts.log.Warn("a DEL cannot be recorded", "sandbox", pod.ID, "err", err)
		}
		list = append(list, others...)
		recorded = recorded || len(others) > 0 || err != nil
	}
	if orphans != nil {
		// DEL goes out all the same, but everything stays recorded: what is still
		// at work may attach it again.
		errs = append(errs, c.detach(turn, lock, j, list, true))
		return errors.Join(errs...)
	}
	errs = append(errs, c.detach(turn, lock, j, list, false))
	if len(pod.Networks) > 0 || !recorded {
		errs = append(errs, c.tearDownNamed(ctx, turn, lock, pod, j, list))
	}
	return errors.Join(errs...)
}

// recordedOf makes the journal's attachments ready that the pod names. The caller
// closes them.
func (c *CNI) recordedOf(ctx context.Context, pod *PodNetwork, j *journal.Journal) (list []*attachment, err error) {
	var errs []error
	for _, rec := range j.Attachments {
		if !pod.names(rec.Network, rec.IfName) {
			continue
		}
		a, err := c.recorded(ctx, j.ContainerID, rec)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, a)
	}
	return list, errors.Join(errs...)
}

// tearDownNamed sends DEL for what the pod names and is not in done. Nothing is
// known of it, so that nothing stays recorded, whether it succeeds or not. While the
// DEL is under way it is recorded: if we die, whoever comes next finds the plugin.
func (c *CNI) tearDownNamed(ctx context.Context, turn turns, lock *locks.Sandbox, pod *PodNetwork, j *journal.Journal, done []*attachment) error {
	named := without(c.planLoaded(pod, j), done)
	if len(named) == 0 {
		return nil
	}
	defer func() { closeAll(named) }()
	var errs []error
	for _, a := range named {
		var err error
		a.ns, err = c.openNetNS(ctx, a.NetNS, netns.ID{})
		errs = append(errs, err)
	}
	if err := c.adopt(j, named); err != nil {
		c.opts.log.Warn("a DEL cannot be recorded", "sandbox", pod.ID, "err", err)
	}
	errs = append(errs, c.detach(turn, lock, j, named, true))
	return errors.Join(append(errs, recordError(c.journal.Detached(j, keysOf(named))))...)
}

// without returns the attachments that are not among the others, and closes the
// rest.
func without(list, others []*attachment) []*attachment {
	return slices.DeleteFunc(list, func(a *attachment) bool {
		known := slices.ContainsFunc(others, func(o *attachment) bool { return o.Key == a.Key })
		if known {
			a.close()
		}
		return known
	})
}

func closeAll(list []*attachment) {
	for _, a := range list {
		a.close()
	}
}

func keysOf(list []*attachment) []journal.Key {
	keys := make([]journal.Key, len(list))
	for i, a := range list {
		keys[i] = a.Key
	}
	return keys
}

// names reports whether a tear-down of the pod is about the attachment.
func (pod *PodNetwork) names(network, ifName string) bool {
	return len(pod.Networks) == 0 || slices.ContainsFunc(pod.Networks, func(n NetAttachment) bool {
		return n.Name == network && (n.Ifname == "" || n.Ifname == ifName)
	})
}

// detach sends DEL for attachments of the journal, the last one first, past
// failures. It drops from the journal what succeeded. With keep it drops nothing,
// and whoever was the journal's writer stays it: that one's plugins may still be at
// work.
func (c *CNI) detach(turn turns, lock *locks.Sandbox, j *journal.Journal, list []*attachment, keep bool) error {
	if len(list) == 0 {
		return nil
	}
	unmarked := func(a *attachment) bool { return !a.Detaching }
	if j.Writer != c.self || slices.ContainsFunc(list, unmarked) {
		// Whoever comes after us must know that plugins of ours may be at work. A
		// record that cannot be written must not stop a DEL.
		writer := c.self
		if keep {
			writer = j.Writer
		}
		if err := c.journal.Detaching(j, writer, keysOf(list)); err != nil {
			c.opts.log.Warn("a DEL cannot be recorded", "sandbox", j.ContainerID, "err", err)
		}
	}
	var errs []error
	var gone []journal.Key
	for i, a := range slices.Backward(list) {
		ctx, cancel := turn(i + 1)
		err := c.detachOne(ctx, lock, a)
		cancel()
		if err != nil {
			errs = append(errs, err)
		} else {
			gone = append(gone, a.Key)
		}
	}
	if len(gone) > 0 && !keep {
		errs = append(errs, recordError(c.journal.Detached(j, gone)))
	}
	return errors.Join(errs...)
}

func (c *CNI) detachOne(ctx context.Context, lock *locks.Sandbox, a *attachment) error {
	if a.started == 0 {
		return nil // no plugin has done anything
	}
	release, err := lock.Network(ctx, a.Network)
	if err != nil {
		return err
	}
	defer release()
	return c.del(ctx, a)
}

func (a *attachment) close() {
	if a.ns != nil {
		_ = a.ns.Close() // it always succeeds
		a.ns = nil
	}
}

// recorded makes a recorded attachment ready for DEL or CHECK. The caller closes
// it.
func (c *CNI) recorded(ctx context.Context, containerID string, rec journal.Attachment) (*attachment, error) {
	list, err := c.recordedList(rec.Network, rec.Config)
	if err != nil {
		return nil, err
	}
	ns, err := c.openNetNS(ctx, rec.NetNS, rec.NetNSID)
	if err != nil {
		return nil, err
	}
	return &attachment{Attachment: rec, containerID: containerID, list: list, ns: ns, started: len(list.Plugins)}, nil
}

// openNetNS opens the namespace of an attachment; nil when it is gone, or the
// path leads to another one than was recorded.
func (c *CNI) openNetNS(ctx context.Context, path string, recorded netns.ID) (*netns.NS, error) {
	if path == "" {
		return nil, nil
	}
	ns, err := netns.OpenPod(ctx, path, false)
	switch {
	case errors.Is(err, netns.ErrNotNetNS):
		return nil, nil
	case err != nil:
		return nil, err
	case recorded.IsZero() || recorded.Same(ns.ID()):
		return ns, nil
	}
	c.opts.log.Warn("the path leads to another network namespace than it did: DEL gets none", "path", path)
	return nil, ns.Close()
}

// endOrphans ends what a runtime that died left at work on the sandbox: on the
// attachments that were in the middle of something. After it we may be the
// journal's writer. With an error we may not.
func (c *CNI) endOrphans(ctx context.Context, j *journal.Journal) error {
	if j.Writer == c.self || len(j.Attachments) == 0 || j.Writer.Alive() {
		return nil
	}
	var doubtful []plugin.Attachment
	for _, a := range j.Attachments {
		if !a.Detaching {
			if kept, err := c.journal.Result(a.Network, j.ContainerID, a.IfName); err == nil && kept != nil {
				continue // its ADD came to an end, and no DEL was begun
			}
		}
		run := plugin.Attachment{ContainerID: j.ContainerID, IfName: a.IfName, NetNS: a.NetNS}
		if list, err := c.recordedList(a.Network, a.Config); err == nil {
			run.Plugins = pluginTypes(list)
		}
		doubtful = append(doubtful, run)
	}
	if len(doubtful) == 0 {
		return nil
	}
	return c.plugins.EndOrphans(ctx, j.Writer, doubtful)
}

// pluginTypes lists the plugins of a network, with those that hand out their
// addresses.
func pluginTypes(list *libcni.NetworkConfigList) []string {
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
		if p.Network.IPAM.Type != "" {
			types = append(types, p.Network.IPAM.Type)
		}
	}
	return types
}

// adopt records attachments that podcni is about to detach and did not record.
func (c *CNI) adopt(j *journal.Journal, list []*attachment) error {
	if len(list) == 0 {
		return nil
	}
	records := make([]journal.Attachment, len(list))
	for i, a := range list {
		a.Detaching, a.Since = true, time.Now()
		records[i] = a.Attachment
	}
	return recordError(c.journal.Attach(j, c.self, records))
}

// others returns what other runtimes have attached of the sandbox, as far as the
// pod names it. The caller closes them.
func (c *CNI) others(ctx context.Context, pod *PodNetwork) (list []*attachment, err error) {
	results, bad, err := c.journal.Results(ctx, pod.ID)
	errs := []error{recordError(err)}
	for _, r := range results {
		if !pod.names(r.Network, r.IfName) {
			continue
		}
		a, err := c.foreign(ctx, r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, a)
	}
	for _, b := range bad {
		found := false
		for _, n := range c.networks.Current().Networks {
			ifName, ok := journal.IfNameOf(b.Path, n.List.Name, pod.ID)
			if !ok || !pod.names(n.List.Name, ifName) {
				continue
			}
			found = true
			named := *pod
			named.Networks, named.InterfaceConfig = []NetAttachment{{Name: n.List.Name, Ifname: ifName}}, nil
			list = append(list, c.planLoaded(&named, nil)...)
		}
		if !found {
			errs = append(errs, recordError(b))
		}
	}
	return list, errors.Join(errs...)
}

// foreign makes an attachment of another runtime ready for DEL. The caller closes
// it.
func (c *CNI) foreign(ctx context.Context, r *journal.Result) (*attachment, error) {
	list, err := c.foreignList(r)
	if err != nil {
		return nil, &RecordError{Path: r.Path, Err: err}
	}
	rec := foreignRecord(r)
	rec.Config = list.Bytes
	return c.recorded(ctx, r.ContainerID, rec)
}

// detachUnreadable detaches a sandbox whose journal cannot be read: what libcni
// has recorded of it, as far as the pod names it, and the networks that the pod
// names, or the default one. It sets the journal aside when that was something, all
// of it succeeded, and nothing is left.
func (c *CNI) detachUnreadable(turn turns, lock *locks.Sandbox, pod *PodNetwork, unreadable error) (left int, err error) {
	ctx, cancel := turn(1)
	defer cancel()
	everything := *pod
	everything.Networks = nil
	list, err := c.others(ctx, &everything)
	defer func() { closeAll(list) }()
	list = slices.DeleteFunc(list, func(a *attachment) bool {
		if pod.names(a.Network, a.IfName) {
			return false
		}
		a.close()
		left++
		return true
	})
	errs := []error{err}
	for _, a := range without(c.planLoaded(pod, nil), list) {
		a.ns, err = c.openNetNS(ctx, a.NetNS, netns.ID{})
		errs, list = append(errs, err), append(list, a)
	}
	if len(list) == 0 {
		errs = append(errs, errNothingToSend)
	}
	for i, a := range slices.Backward(list) {
		ctx, cancel := turn(i + 1)
		errs = append(errs, c.detachOne(ctx, lock, a))
		cancel()
	}
	if err := errors.Join(errs...); err != nil {
		return left, errors.Join(recordError(unreadable), err)
	}
	c.opts.log.Warn("the record of a sandbox could not be read: it was detached by what libcni recorded and what the caller named",
		"sandbox", pod.ID, "left", left, "err", unreadable)
	if left > 0 {
		return left, nil
	}
	return 0, recordError(c.journal.SetAside(pod.ID))
}

var errNothingToSend = fmt.Errorf("%w: no network of it is known: name its networks", ErrBadRecord)
