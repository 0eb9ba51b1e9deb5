package podcni

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// SetUpPod is SetUpPodWithContext with a context that never ends.
func (p *Plugin) SetUpPod(network PodNetwork) ([]NetResult, error) {
	return p.SetUpPodWithContext(context.Background(), network)
}

// SetUpPodWithContext attaches the pod to its networks, or to the default one
// when it names none, one after the other and all or nothing: it checks
// everything, brings lo up, records each attachment, and runs ADD. When anything
// fails, what was tried is detached in reverse under a time of its own (see
// WithTeardownGrace), and what even that could not undo stays recorded, for
// TearDownPod or GC, and is named in the error.
//
// The results are in the order of the pod's networks. The error is a *PodError
// that wraps ErrInvalidPod, as a *FieldError, before anything runs;
// ErrNetworkNotFound; ErrNetNS; ErrAlreadyAttached when an interface that is
// asked for is attached already, and ErrNameTaken; ErrBusy when another process
// has the sandbox, or GC the network, for as long as ctx lasts; a *RecordError
// when a record cannot be read or written; a *PluginError for each plugin that
// failed; or ctx's error. An attachment that an earlier process left half done is
// detached first. It waits for other operations on the sandbox.
func (p *Plugin) SetUpPodWithContext(ctx context.Context, network PodNetwork) ([]NetResult, error) {
	end, err := p.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	results, err := p.setUp(ctx, &network)
	if err != nil {
		return nil, podError("set up", &network, err)
	}
	return results, nil
}

// attempt is one attachment on its way through setUp.
type attempt struct {
	planned
	started int // how many of its plugins may have done something
	result  types.Result
}

func (p *Plugin) setUp(ctx context.Context, pod *PodNetwork) ([]NetResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkPod(pod, true); err != nil {
		return nil, err
	}
	plan, err := planPod(p.opts, p.snap.Load(), pod, p.environArgs)
	if err != nil {
		return nil, err
	}
	unlock, err := p.lockSandbox(ctx, pod.ID, true)
	if err != nil {
		return nil, err
	}
	defer unlock()
	next, err := p.makeWay(ctx, pod, plan)
	if err != nil {
		return nil, err
	}
	id, err := preparePodNetNS(pod.NetNS)
	if err != nil {
		return nil, err
	}

	attempts := make([]attempt, len(plan))
	since := time.Now()
	for i := range plan {
		rec := plan[i].rec
		rec.NetNSID, rec.Writer, rec.Since = id, p.self, since
		rec.Order += next
		attempts[i].planned = plan[i]
		if err := p.records.claim(rec); err != nil {
			return nil, errors.Join(err, p.undo(ctx, attempts[:i]))
		}
	}
	if p.opts.parallelAttach {
		err = p.attachTogether(ctx, attempts)
	} else {
		err = p.attachInTurn(ctx, attempts)
	}
	if err != nil {
		return nil, errors.Join(err, p.undo(ctx, attempts))
	}
	results := make([]NetResult, len(attempts))
	for i := range attempts {
		a := &attempts[i]
		results[i] = NetResult{NetAttachment: NetAttachment{Name: a.net.name, Ifname: a.rec.IfName}, Result: a.result}
	}
	return results, nil
}

// makeWay sees to what is recorded of the sandbox already: it refuses what is
// attached, and detaches what was left half done. It gives the place in order of
// the next attachment.
func (p *Plugin) makeWay(ctx context.Context, pod *PodNetwork, plan []planned) (next int, err error) {
	recs, bad, err := p.records.ofSandbox(pod.ID)
	if err != nil || len(recs)+len(bad) == 0 {
		return 0, err
	}
	// The records of one set-up have one time: what it finished before it was cut
	// short is half done as well.
	half := func(rec *record) bool {
		return slices.ContainsFunc(recs, func(o *record) bool {
			return o.State != stateAttached && (o == rec || o.Since.Equal(rec.Since))
		})
	}
	for _, rec := range recs {
		next = max(next, rec.Order+1)
		if !half(rec) && slices.ContainsFunc(plan, func(pl planned) bool { return pl.rec.IfName == rec.IfName }) {
			return 0, fmt.Errorf("%w: %s to network %q", ErrAlreadyAttached, rec.IfName, rec.Network)
		}
	}
	var errs []error
	for _, rec := range slices.Backward(recs) {
		if half(rec) {
			if rec.State == stateAttached {
				// Also when the others are gone, and this one's DEL fails.
				marked := *rec
				marked.State = stateAttaching
				rec, err = &marked, p.records.put(&marked)
				errs = append(errs, err)
			}
			errs = append(errs, p.detach(ctx, rec))
		}
	}
	for _, b := range bad {
		// No second ADD of an interface without a DEL, whichever its network was.
		if b.certain && slices.ContainsFunc(plan, func(pl planned) bool { return pl.rec.IfName == b.ifName }) {
			errs = append(errs, p.detachUnreadable(ctx, pod, b))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return 0, fmt.Errorf("detach what an earlier set-up left: %w", err)
	}
	return next, nil
}

func (p *Plugin) attachInTurn(ctx context.Context, attempts []attempt) error {
	for i := range attempts {
		if err := p.attach(ctx, &attempts[i]); err != nil {
			return err
		}
	}
	return nil
}

// attachTogether attaches all at once. The first error in the pod's order that
// did not come of another's failure is the one that is returned.
func (p *Plugin) attachTogether(ctx context.Context, attempts []attempt) error {
	together, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(attempts))
	var wg sync.WaitGroup
	for i := range attempts {
		wg.Go(func() {
			if errs[i] = p.attach(together, &attempts[i]); errs[i] != nil {
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

// attach runs one attachment's ADD and makes its record final. A panic on the
// way, such as one in the conversion of a result, is an error like any other.
func (p *Plugin) attach(ctx context.Context, a *attempt) (err error) {
	defer func() {
		if r := recover(); r != nil {
			a.started = len(a.net.plugins)
			err = fmt.Errorf("attach network %q: panic: %v\n%s", a.net.name, r, debug.Stack())
		}
	}()
	release, err := p.gates.share(ctx, a.net.name)
	if err != nil {
		return err
	}
	defer release()
	result, raw, started, err := p.add(ctx, a.net, a.rec)
	a.started = started
	if err != nil {
		return err
	}
	final := *a.rec
	final.State, final.Result = stateAttached, raw
	a.rec, a.result = &final, result
	return p.records.put(&final)
}

// undo detaches what was tried, in reverse, whatever became of ctx, and says
// what could not be undone.
func (p *Plugin) undo(ctx context.Context, attempts []attempt) error {
	ctx = context.WithoutCancel(ctx)
	end := time.Now().Add(p.opts.grace)
	var errs []error
	for i := range slices.Backward(attempts) {
		a := &attempts[i]
		var err error
		if a.started > 0 {
			// One that hangs leaves the others their part of the time.
			turn, cancel := context.WithTimeout(ctx, time.Until(end)/time.Duration(i+1))
			err = p.detachWith(turn, a.net, a.rec, a.rec.NetNS, a.started)
			cancel()
		} else {
			err = p.records.remove(a.rec)
		}
		if err != nil && a.rec.State == stateAttached {
			// It is not that any more, whatever DEL left of it.
			half := *a.rec
			half.State = stateAttaching
			err = errors.Join(err, p.records.put(&half))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("could not undo %s of network %q, it stays recorded: %w", a.rec.IfName, a.net.name, err))
		}
	}
	return errors.Join(errs...)
}
