package confdir

import (
	"context"
	"sync"
)

// subscribers are who wants to know of changes. The zero value is ready for use.
type subscribers struct {
	mu     sync.Mutex // guards all below
	open   map[chan struct{}]struct{}
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
	if s.open == nil {
		s.open = map[chan struct{}]struct{}{}
	}
	s.open[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.endLocked(ch)
	})
	return ch
}

func (s *subscribers) endLocked(ch chan struct{}) {
	if _, ok := s.open[ch]; ok {
		delete(s.open, ch)
		close(ch)
	}
}

func (s *subscribers) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.open {
		signal(ch)
	}
}

func (s *subscribers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for ch := range s.open {
		s.endLocked(ch)
	}
}
