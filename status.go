package podcni

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// statusVersion is the first version of the specification with STATUS.
	statusVersion = "1.1.0"

	// WaitReady asks plugins that are not ready again after minStatusWait, then
	// twice that, up to maxStatusWait: of them no event tells.
	minStatusWait = time.Second
	maxStatusWait = 10 * time.Second
)

// Status is StatusWithContext with a context that never ends. The plugins that
// it may run have their time limit all the same.
func (p *Plugin) Status() error { return p.StatusWithContext(context.Background()) }

// StatusWithContext is nil when pods that name no network can be attached.
// Otherwise it is ErrNotReady with the reason: the configuration directory is
// missing, or has no files, or none that can be used (the first reasons are
// given; Rejected has all); the network of WithDefaultNetwork is not among
// those that are loaded; or a plugin of the default network says with STATUS
// that it cannot serve. That last one is a *PluginError which unwraps to the
// plugin's *types.Error: code 50 for no new pods, 51 for that and running pods
// may be cut off.
//
// STATUS is run for networks of version 1.1.0 and later only, under the limit
// of WithPluginTimeout. Callers at the same time share one run; it is not ended
// by the end of ctx, which is for this call alone. No pod operation waits for
// it. After Shutdown, ErrShutdown.
func (p *Plugin) StatusWithContext(ctx context.Context) error {
	if p.isShutdown() {
		return ErrShutdown
	}
	s := p.snap.Load()
	if s.def == nil {
		return fmt.Errorf("%w: %w", ErrNotReady, s.reason)
	}
	if ok, err := version.GreaterThanOrEqualTo(s.def.cniVersion, statusVersion); err != nil || !ok {
		return nil // the loader takes no version that cannot be read
	}
	if err := ctx.Err(); err != nil {
		return err // nothing is run for a caller who has gone
	}
	return p.statuses.share(ctx, p.reloads.life, s.def, p.askStatus)
}

// askStatus runs STATUS of the network's plugins, in order up to the first
// that is not ready.
func (p *Plugin) askStatus(ctx context.Context, n *network) error {
	env := p.run.environ(verbStatus, "", "", "", "")
	for i := range n.plugins {
		c := &n.plugins[i]
		_, err := p.run.run(ctx, &invocation{
			verb: verbStatus, network: n.name, plugin: c.typ, path: c.path,
			env: env, stdin: c.stdin(nil, nil, nil),
		})
		if err != nil {
			return notServing(n, err)
		}
	}
	return nil
}

// notServing says what a failed STATUS means.
func notServing(n *network, err error) error {
	var answer *types.Error
	if errors.As(err, &answer) {
		switch answer.Code {
		case types.ErrPluginNotAvailable:
			return fmt.Errorf("%w: network %q cannot take new pods: %w", ErrNotReady, n.name, err)
		case types.ErrLimitedConnectivity:
			return fmt.Errorf("%w: network %q cannot take new pods, and running pods may be cut off: %w", ErrNotReady, n.name, err)
		}
	}
	return fmt.Errorf("%w: network %q does not say that it can take pods: %w", ErrNotReady, n.name, err)
}

// WaitReady waits until Status is nil, for as long as ctx lasts. When ctx ends
// first, the error is ErrNotReady with the last reason, and ctx's; after
// Shutdown, ErrShutdown. It costs nothing while nothing changes, except while a
// plugin fails STATUS: then that is asked again, after a second first and every
// ten at last.
func (p *Plugin) WaitReady(ctx context.Context) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	updates := p.Updates(watching)
	reason := fmt.Errorf("%w: the default network's plugins have not answered STATUS", ErrNotReady)
	wait := minStatusWait
	for {
		err := p.StatusWithContext(ctx)
		if err == nil || errors.Is(err, ErrShutdown) {
			return err
		}
		if errors.Is(err, ErrNotReady) {
			reason = err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w (%w)", reason, ctx.Err())
		}
		var again <-chan time.Time // for ever, unless it is a plugin that says no
		if p.snap.Load().def != nil {
			again = time.After(wait)
			wait = min(2*wait, maxStatusWait)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", reason, ctx.Err())
		case <-updates: // or closed, which the next round finds out
			wait = minStatusWait
		case <-again:
		}
	}
}

// isShutdown says whether Shutdown was called.
func (p *Plugin) isShutdown() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// statusRuns lets callers share a run of STATUS. The zero value is ready for
// use, and safe for concurrent use.
type statusRuns struct {
	mu   sync.Mutex // guards runs
	runs map[*network]*statusRun
}

// statusRun is one run under way.
type statusRun struct {
	done chan struct{} // closed when err is set
	err  error
}

// share waits for the run of n that is under way, or for one that it starts.
// The run ends with life, not with ctx.
func (s *statusRuns) share(ctx context.Context, life *background, n *network, run func(context.Context, *network) error) error {
	s.mu.Lock()
	r := s.runs[n]
	if r == nil {
		r = &statusRun{done: make(chan struct{})}
		started := life.start(func(ctx context.Context) {
			r.err = run(ctx, n)
			s.mu.Lock()
			delete(s.runs, n)
			s.mu.Unlock()
			close(r.done)
		})
		if !started {
			s.mu.Unlock()
			return ErrShutdown
		}
		if s.runs == nil {
			s.runs = map[*network]*statusRun{}
		}
		s.runs[n] = r
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		if life.ctx.Err() != nil {
			return ErrShutdown // which is why the run has failed, if it has
		}
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	case <-life.done():
		return ErrShutdown
	}
}
