package podcni

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// snapshotLoader is what a reloader wants of a loader.
type snapshotLoader interface {
	// load reads everything anew; prev is what it answered last, or nil.
	load(prev *snapshot) *snapshot
	// watchDirs are the directories whose content s depends on.
	watchDirs(s *snapshot) []string
}

// maxReloads bounds how often in a row a load is repeated because new
// directories had to be watched for it.
const maxReloads = 3

// reloader keeps the published snapshot up to date. One goroutine watches,
// loads, compares and publishes; everybody else only asks it to.
type reloader struct {
	loads         snapshotLoader
	publish       func(*snapshot)
	log           *slog.Logger
	dirs, binDirs []string // as in the options
	// patience is how long settled waits for plugins.
	patience time.Duration

	life     *background
	requests chan reloadRequest
	woken    chan struct{} // holds one
	// settled is closed when the first load is published and its plugins have
	// answered, or taken too long.
	settled chan struct{}

	// What follows belongs to the goroutine.
	watcher   *watcher
	loaded    *snapshot
	published *snapshot
	waiting   []reloadRequest
	calm      bool // settled is closed, or about to be
	logged    *networkSummary

	subs subscribers // safe for concurrent use
}

// reloadRequest asks for a load that begins after it.
type reloadRequest struct {
	done chan struct{}
	// probes says to wait for plugins that the load has asked for their versions.
	probes bool
	gone   <-chan struct{} // closed when nobody waits any more
}

// newReloader makes a reloader that start sets going. publish is called by one
// goroutine at a time.
func newReloader(o *options, publish func(*snapshot)) *reloader {
	r := &reloader{
		publish:  publish,
		log:      o.log,
		dirs:     append([]string{o.confDir}, o.binDirs...),
		binDirs:  o.binDirs,
		patience: o.timeouts[verbVersion],
		life:     newBackground(),
		requests: make(chan reloadRequest),
		woken:    make(chan struct{}, 1),
		settled:  make(chan struct{}),
	}
	if r.patience <= 0 {
		r.patience = quickTimeout
	}
	open := openFsnotify
	if !o.watch {
		open = nil
	}
	r.watcher = newWatcher(open, o.log)
	return r
}

// start loads for the first time and goes on watching until close. Wait for
// settled before the networks are needed.
func (r *reloader) start(loads snapshotLoader) {
	r.loads = loads
	r.life.start(r.loop)
}

// wake asks for a load because a plugin has answered. It never blocks.
func (r *reloader) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// reload waits for a load that begins after the call and, with probes, for the
// plugins that it has to ask for their versions.
func (r *reloader) reload(ctx context.Context, probes bool) error {
	req := reloadRequest{done: make(chan struct{}), probes: probes, gone: ctx.Done()}
	select {
	case r.requests <- req:
	case <-ctx.Done():
		return ctx.Err()
	case <-r.life.done():
		return ErrShutdown
	}
	select {
	case <-req.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.life.done():
		return ErrShutdown
	}
}

// close ends the goroutine and every subscription, and waits for whatever was
// started in r.life. It may be called again.
func (r *reloader) close() {
	r.life.close()
	r.subs.close()
}

func (r *reloader) loop(ctx context.Context) {
	events := newDebounce()
	defer events.timer.Stop()
	sweep := time.NewTimer(sweepEvery)
	defer sweep.Stop()
	settle := time.NewTimer(r.patience)
	defer settle.Stop()
	defer r.watcher.close()

	for {
		next := pollEvery
		if r.scan() {
			next = r.watcher.interval()
		}
		events.acted()
		sweep.Reset(next)
	waiting:
		for {
			select {
			case <-ctx.Done():
				return
			case ev, ok := <-r.watcher.events():
				if r.watcher.take(ev, ok) {
					events.note()
				}
			case err := <-r.watcher.errors():
				r.log.Debug("events about configuration changes are lost", "error", err)
				r.watcher.doubt()
				events.note()
			case <-r.woken:
				break waiting
			case req := <-r.requests:
				r.waiting = append(r.waiting, req)
				break waiting
			case <-events.timer.C:
				break waiting
			case <-sweep.C:
				break waiting
			case <-settle.C:
				r.settle()
			}
		}
	}
}

// scan loads, publishes what differs, and watches what the new snapshot
// depends on. Watches come before the load that they are for, so that no change
// falls between. It answers false when that could not be had, because
// everything moves: then another scan is due soon.
func (r *reloader) scan() (complete bool) {
	r.takeRequests()
	r.arm()
	for range maxReloads {
		r.loaded = r.loads.load(r.loaded)
		if complete = !r.arm(); complete {
			break
		}
	}
	if s := r.loaded; r.published == nil || !r.published.same(s) {
		r.published = s
		r.publish(s)
		r.subs.notify()
		for i := range s.rejected {
			r.log.Debug("network configuration is not in force", "error", &s.rejected[i])
		}
	}
	idle := r.loaded.pending == 0
	if idle {
		r.settle()
	}
	r.logChange()
	r.waiting = slices.DeleteFunc(r.waiting, func(req reloadRequest) bool {
		select {
		case <-req.gone:
			return true
		default:
		}
		if req.probes && !idle {
			return false
		}
		close(req.done)
		return true
	})
	return complete
}

// takeRequests takes all requests that wait, for one load will do for them.
func (r *reloader) takeRequests() {
	for {
		select {
		case req := <-r.requests:
			r.waiting = append(r.waiting, req)
		default:
			return
		}
	}
}

// arm watches what the last snapshot depends on, and answers whether that was
// not watched before.
func (r *reloader) arm() bool {
	if r.watcher.off() {
		return false
	}
	dirs := r.dirs // before the first load
	if r.loaded != nil {
		dirs = r.loads.watchDirs(r.loaded)
	}
	targets := make([]watchTarget, len(dirs))
	for i, dir := range dirs {
		targets[i] = watchTarget{dir: dir, all: slices.Contains(r.binDirs, dir)}
	}
	return r.watcher.arm(targets)
}

// settle has the first line logged and lets New return.
func (r *reloader) settle() {
	if !r.calm {
		r.calm = true
		r.logChange()
		close(r.settled)
	}
}

// networkSummary is what a line is logged about.
type networkSummary struct {
	names []string
	def   string
	ready bool
}

// logChange logs one line when the set of networks, the default or the
// readiness is another than at the last line.
func (r *reloader) logChange() {
	if !r.calm {
		return // it would be about plugins that have not answered yet
	}
	s := r.published
	now := networkSummary{ready: s.def != nil}
	for _, n := range s.networks {
		now.names = append(now.names, n.name)
	}
	if s.def != nil {
		now.def = s.def.name
	}
	if was := r.logged; was != nil && was.ready == now.ready && was.def == now.def && slices.Equal(was.names, now.names) {
		return
	}
	r.logged = &now
	if now.ready {
		r.log.Info("networks changed", "networks", now.names, "default", now.def)
	} else {
		r.log.Warn("network is not ready", "networks", now.names, "reason", s.reason)
	}
}
