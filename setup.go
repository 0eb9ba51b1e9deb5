package podcni

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/locks"
	"github.com/podcni/podcni/internal/netns"
)

// SetUpPod is SetUpPodWithContext with a context that never ends.
func (c *CNI) SetUpPod(network PodNetwork) ([]NetResult, error) {
	return c.SetUpPodWithContext(context.Background(), network)
}

// SetUpPodWithContext attaches the pod to its networks, or to the default network
// when it names none. It attaches all of them, one after the other, or none: it
// checks everything, brings lo up, records the attachments, and runs ADD. When
// something fails, it detaches in reverse order. That has its own time limit (see
// [WithTeardownGrace]). What it cannot detach stays recorded for TearDownPod and GC,
// and is named in the error.
//
// What an earlier set-up of the sandbox left half done is detached first, and so
// is what was attached to a namespace that is gone, as after a reboot.
//
// The results are in the order of the pod's networks. The error is a *PodError. It
// wraps one of these:
//   - ErrInvalidPod (a *FieldError), ErrNetworkNotFound: nothing was run;
//   - ErrAlreadyAttached when the sandbox has one of the interfaces already,
//     ErrNameTaken, ErrNetNS: no ADD was run;
//   - ErrBusy when another process has the sandbox, or GC has the network, until ctx
//     ends;
//   - a *RecordError when a record cannot be read or written;
//   - a *PluginError for each plugin that failed;
//   - ctx's error.
//
// It blocks until other operations on the sandbox are done.
func (c *CNI) SetUpPodWithContext(ctx context.Context, network PodNetwork) ([]NetResult, error) {
	if err := c.closed(); err != nil {
		return nil, err
	}
	results, err := c.setUp(ctx, &network)
	if err != nil {
		return nil, podError("set up", &network, err)
	}
	return results, nil
}

func (c *CNI) setUp(ctx context.Context, pod *PodNetwork) ([]NetResult, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := checkPod(pod, true); err != nil {
		return nil, err
	}
	plan, err := c.plan(c.networks.Current(), pod)
	if err != nil {
		return nil, err
	}
	lock, err := c.locks.Sandbox(ctx, pod.ID, true)
	if err != nil {
		return nil, recordError(err)
	}
	defer lock.Release()
	j, err := c.makeWay(ctx, lock, pod, plan)
	if err != nil {
		return nil, err
	}
	ns, err := netns.OpenPod(ctx, pod.NetNS, true)
	if err != nil {
		return nil, err
	}
	defer ns.Close()

	now := time.Now()
	records := make([]journal.Attachment, len(plan))
	for i, a := range plan {
		a.ns, a.NetNSID, a.Since = ns, ns.ID(), now
		records[i] = a.Attachment
	}
	if err := c.journal.Attach(j, c.self, records); err != nil {
		return nil, recordError(err)
	}
	results := make([]NetResult, len(plan))
	if c.opts.parallelAttach {
		err = c.attachTogether(ctx, lock, plan, results)
	} else {
		err = c.attachInTurn(ctx, lock, plan, results)
	}
	if err != nil {
		return nil, errors.Join(err, c.undo(ctx, lock, j, plan))
	}
	return results, nil
}

func (c *CNI) attachInTurn(ctx context.Context, lock *locks.Sandbox, plan []*attachment, results []NetResult) error {
	for i, a := range plan {
		if err := c.attach(ctx, lock, a, &results[i]); err != nil {
			return err
		}
	}
	return nil
}

// attachTogether attaches all at once. It returns the first error, in the pod's
// order, that is not the consequence of another's.
func (c *CNI) attachTogether(ctx context.Context, lock *locks.Sandbox, plan []*attachment, results []NetResult) error {
	together, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(plan))
	var wg sync.WaitGroup
	for i, a := range plan {
		wg.Go(func() {
			if errs[i] = c.attach(together, lock, a, &results[i]); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	var cut error
	for _, err := range errs {
		switch {
		case err == nil:
		case ctx.Err() == nil && errors.Is(err, context.Canceled):
			cut = err
		default:
			return err
		}
	}
	return cut
}

func (c *CNI) attach(ctx context.Context, lock *locks.Sandbox, a *attachment, to *NetResult) error {
	release, err := lock.Network(ctx, a.Network)
	if err != nil {
		return err
	}
	defer release()
	to.Name, to.Ifname = a.Network, a.IfName
	to.Result, err = c.add(ctx, a)
	return err
}

// undo detaches what a failed set-up tried, whatever became of ctx.
func (c *CNI) undo(ctx context.Context, lock *locks.Sandbox, j *journal.Journal, plan []*attachment) error {
	ctx = context.WithoutCancel(ctx)
	end := time.Now().Add(c.opts.grace)
	turn := func(left int) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
	}
	if err := c.detach(turn, lock, j, plan, false); err != nil {
		return fmt.Errorf("could not undo all of it, what is left stays recorded: %w", err)
	}
	return nil
}

// makeWay sees to what is recorded of the sandbox already: it refuses what is in
// the way, and detaches what was left half done and what was attached to a
// namespace that is gone. It returns the journal to go on with.
func (c *CNI) makeWay(ctx context.Context, lock *locks.Sandbox, pod *PodNetwork, plan []*attachment) (*journal.Journal, error) {
	j, err := c.journal.Read(pod.ID)
	turn := func(int) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
	switch {
	case errors.Is(err, journal.ErrUnreadable):
		left, detachErr := c.detachUnreadable(turn, lock, pod, err)
		switch {
		case detachErr != nil:
			return nil, fmt.Errorf("detach what an unreadable record stands for: %w", detachErr)
		case left > 0:
			return nil, fmt.Errorf("the sandbox is attached to other networks, tear it down first: %w", recordError(err))
		}
	case err != nil:
		return nil, recordError(err)
	}
	if j == nil {
		j = &journal.Journal{ContainerID: pod.ID, Owner: c.opts.owner}
		// A pod's first interface is not among these: somebody else attached it.
		j.Others = !slices.ContainsFunc(plan, func(a *attachment) bool { return a.IfName == c.opts.ifPrefix+"0" })
	}
	j.Pod = journal.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
	left, err := c.leftovers(ctx, j, plan)
	defer func() { closeAll(left) }()
	if err != nil {
		return nil, err
	}
	others, err := c.othersInTheWay(ctx, lock, j, plan)
	left = append(left, others...)
	if err != nil {
		return nil, err
	}
	if err := c.endOrphans(ctx, j); err != nil {
		return nil, err
	}
	if err := c.adopt(j, others); err != nil {
		return nil, err
	}
	if err := c.detach(turn, lock, j, left, false); err != nil {
		return nil, fmt.Errorf("detach what an earlier set-up left: %w", err)
	}
	return j, nil
}

// leftovers returns the journal's attachments that must be detached before the
// plan can be carried out.
func (c *CNI) leftovers(ctx context.Context, j *journal.Journal, plan []*attachment) (left []*attachment, err error) {
	whole := make([]bool, len(j.Attachments))
	var cutShort []time.Time
	for i := range j.Attachments {
		a := &j.Attachments[i]
		kept, err := c.journal.Result(a.Network, j.ContainerID, a.IfName)
		if err != nil && !errors.Is(err, journal.ErrUnreadable) && !errors.Is(err, journal.ErrNameTaken) {
			return nil, recordError(err)
		}
		whole[i] = err == nil && kept != nil
		if !whole[i] && !a.Detaching {
			// All of its set-up is half done: the caller never heard of success.
			cutShort = append(cutShort, a.Since)
		}
	}
	for i := range j.Attachments {
		a, err := c.recorded(ctx, j.ContainerID, j.Attachments[i])
		if err != nil {
			return left, err
		}
		left = append(left, a)
		inUse := whole[i] && !a.Detaching && !slices.ContainsFunc(cutShort, a.Since.Equal) &&
			(a.ns != nil || a.NetNSID.IsZero())
		if !inUse {
			continue
		}
		left = left[:len(left)-1]
		a.close()
		if slices.ContainsFunc(plan, func(p *attachment) bool { return p.IfName == a.IfName }) {
			return left, fmt.Errorf("%w: %s to network %q", ErrAlreadyAttached, a.IfName, a.Network)
		}
	}
	return left, nil
}

// othersInTheWay looks for results of libcni at the names that the plan needs.
// It returns those that another runtime left of this sandbox and of a namespace
// that is gone.
func (c *CNI) othersInTheWay(ctx context.Context, lock *locks.Sandbox, j *journal.Journal, plan []*attachment) (left []*attachment, err error) {
	for _, p := range plan {
		if free, err := lock.Claim(filepath.Base(c.journal.ResultPath(p.Network, p.containerID, p.IfName))); err != nil {
			return left, err
		} else if !free {
			return left, fmt.Errorf("%w: %s to network %q", ErrNameTaken, p.IfName, p.Network)
		}
		if slices.ContainsFunc(j.Attachments, func(a journal.Attachment) bool { return a.Key == p.Key }) {
			continue // it is ours
		}
		kept, err := c.journal.Result(p.Network, p.containerID, p.IfName)
		switch {
		case errors.Is(err, journal.ErrUnreadable):
			a := *p
			a.started = len(a.list.Plugins)
			left = append(left, &a)
			continue
		case err != nil:
			return left, recordError(err)
		case kept == nil:
			continue
		}
		a, err := c.foreign(ctx, kept)
		if err != nil {
			return left, err
		}
		left = append(left, a)
		if a.ns != nil {
			return left, fmt.Errorf("%w: %s to network %q", ErrAlreadyAttached, a.IfName, a.Network)
		}
	}
	return left, nil
}
