package podcni

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
)

// Networks answers the networks that pods can be attached to now, in order of
// precedence. The default is marked. The slice is the caller's; after Shutdown
// it is nil. Networks never blocks.
func (p *Plugin) Networks() []Network {
	if p.isShutdown() {
		return nil
	}
	return p.snap.Load().list()
}

// Rejected answers what of the configuration is not in force as it stands, and
// why: files that cannot be used, networks whose plugins are missing or too
// old. A file that had been fine before it stopped parsing is listed while its
// last good network is still in use. The slice is the caller's; after Shutdown
// it is nil. Rejected never blocks.
func (p *Plugin) Rejected() []ConfigError {
	if p.isShutdown() {
		return nil
	}
	return slices.Clone(p.snap.Load().rejected)
}

// GetDefaultNetworkName answers the name of the network that a pod gets which
// names none; empty when there is none at the moment, and after Shutdown. It
// never blocks.
func (p *Plugin) GetDefaultNetworkName() string {
	if p.isShutdown() {
		return ""
	}
	if def := p.snap.Load().def; def != nil {
		return def.name
	}
	return ""
}

// Reload reads the configuration anew, and waits until that is done and the
// plugins that had to be asked for their versions have answered. It is needed
// only with WithoutWatch, or to be sure that a change just made is in force. It
// returns an error only when ctx ends, or ErrShutdown; what it found is in
// Networks, Rejected and Status.
func (p *Plugin) Reload(ctx context.Context) error {
	if p.isShutdown() {
		return ErrShutdown
	}
	return p.reloads.reload(ctx, true)
}

// UpdatePodCIDRs renders the template of WithConfTemplate with the node's pod
// CIDRs. When it returns the network is in force, unless its plugins cannot
// serve it, as Rejected then tells, or have not said within the time limit of
// VERSION what versions they speak. It fails with ErrInvalidConfig, and the
// last network stays, when the template makes no valid one; ErrShutdown. Without
// a template it does nothing. The slice is not kept.
func (p *Plugin) UpdatePodCIDRs(cidrs []netip.Prefix) error {
	if p.isShutdown() {
		return ErrShutdown
	}
	if err := p.loader.setPodCIDRs(slices.Clone(cidrs)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.reloads.patience)
	defer cancel()
	err := p.reloads.reload(ctx, true)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // it is rendered; when it is in force is the plugins' doing
	}
	return err
}

// Updates answers a channel that can be received from after the networks, the
// reasons why some are rejected, or the readiness changed since the last
// receive: then look at Networks, Rejected and Status. Changes that come
// together, or while nobody receives, count as one. The channel is closed when
// ctx ends and on Shutdown. Updates never blocks, and a caller that does not
// receive holds nothing up.
func (p *Plugin) Updates(ctx context.Context) <-chan struct{} {
	return p.reloads.subs.add(ctx)
}

// subscribers are who wants to know of changes. The zero value is ready for
// use, and safe for concurrent use.
type subscribers struct {
	mu sync.Mutex // guards all below
	// stops has for each subscription what ends its wait for the context.
	stops  map[chan struct{}]func() bool
	closed bool
}

func (s *subscribers) add(ctx context.Context) <-chan struct{} {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || ctx.Err() != nil {
		close(ch)
		return ch
	}
	if s.stops == nil {
		s.stops = map[chan struct{}]func() bool{}
	}
	s.stops[ch] = context.AfterFunc(ctx, func() { s.remove(ch) })
	return ch
}

func (s *subscribers) remove(ch chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.stops[ch]; ok {
		delete(s.stops, ch)
		close(ch)
	}
}

func (s *subscribers) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.stops {
		select {
		case ch <- struct{}{}:
		default: // it knows already
		}
	}
}

func (s *subscribers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for ch, stop := range s.stops {
		stop()
		close(ch)
	}
	s.stops = nil
}
