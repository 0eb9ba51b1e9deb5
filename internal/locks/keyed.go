package locks

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// keyed is a semaphore for each key that is in use. Who comes first is first
// served.
type keyed struct {
	places int64

	mu   sync.Mutex // guards used
	used map[string]*place
}

type place struct {
	sem   *semaphore.Weighted
	users int // who hold it, or wait for it
}

// acquire waits for n of the key's places. A context that is over gets none. The
// caller calls release once.
func (k *keyed) acquire(ctx context.Context, key string, n int64) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p := k.enter(key)
	if p.sem.Acquire(ctx, n) != nil {
		k.leave(key, p)
		return nil, context.Cause(ctx)
	}
	return func() {
		p.sem.Release(n)
		k.leave(key, p)
	}, nil
}

// try is acquire without waiting; nil when the places are not free.
func (k *keyed) try(key string, n int64) (release func()) {
	p := k.enter(key)
	if !p.sem.TryAcquire(n) {
		k.leave(key, p)
		return nil
	}
	return func() {
		p.sem.Release(n)
		k.leave(key, p)
	}
}

func (k *keyed) enter(key string) *place {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.used[key]
	if p == nil {
		if k.used == nil {
			k.used = make(map[string]*place)
		}
		p = &place{sem: semaphore.NewWeighted(k.places)}
		k.used[key] = p
	}
	p.users++
	return p
}

func (k *keyed) leave(key string, p *place) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p.users--
	if p.users == 0 {
		delete(k.used, key)
	}
}

// held lists the keys that are in use.
func (k *keyed) held() map[string]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := make(map[string]bool, len(k.used))
	for key := range k.used {
		keys[key] = true
	}
	return keys
}
