package podcni

import (
	"context"
	"sync"
)

// background is the life of what a Plugin does on its own: its goroutines and
// the context that they, and the plugins that they run, live under.
type background struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards ended, so that nothing starts once close waits
	ended bool
}

func newBackground() *background {
	b := &background{}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// start runs f in a goroutine that close waits for, and answers false, without
// running it, once close was called.
func (b *background) start(f func(ctx context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	b.wg.Go(func() { f(b.ctx) })
	return true
}

// done is closed when close is called.
func (b *background) done() <-chan struct{} { return b.ctx.Done() }

// close ends every goroutine and waits for it. It may be called again, and then
// waits as well.
func (b *background) close() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.cancel()
	b.wg.Wait()
}
