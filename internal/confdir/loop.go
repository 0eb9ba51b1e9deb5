package confdir

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// quietFor is how long no event may come before a change is acted on.
	quietFor = 30 * time.Millisecond
	// shortestDelay bounds how long a stream of events can put that off. Each
	// time in a row that it does, the bound doubles, to longestDelay: a file that
	// is rewritten without a pause costs a few loads a second.
	shortestDelay = 80 * time.Millisecond
	longestDelay  = 320 * time.Millisecond
	// probeNews is how long answers wait for those of other plugins: a start with
	// many plugins is not one load for each.
	probeNews = 50 * time.Millisecond
	// maxRounds bounds how often in a row a load is repeated because other
	// directories had to be watched after it.
	maxRounds = 5
)

// debounce makes one load of many events.
type debounce struct {
	timer *time.Timer // fires when it is time to act
	first time.Time   // of the events that wait; zero when none does
	last  time.Time
	delay time.Duration // how long after first at the latest
}

// note says that there was an event.
func (d *debounce) note() {
	now := time.Now()
	if d.first.IsZero() {
		d.first = now
	}
	d.last = now
	d.timer.Reset(min(quietFor, d.first.Add(d.delay).Sub(now)))
}

// acted says that every event so far is dealt with.
func (d *debounce) acted() {
	d.timer.Stop()
	if !d.first.IsZero() {
		d.delay = min(2*d.delay, longestDelay)
		if time.Since(d.last) >= quietFor {
			d.delay = shortestDelay
		}
	}
	d.first = time.Time{}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (d *Dir) loop(ctx context.Context) {
	defer close(d.ended)
	defer d.watcher.close()
	events := debounce{timer: stoppedTimer(), delay: shortestDelay}
	defer events.timer.Stop()
	sweep, news := stoppedTimer(), stoppedTimer()
	defer sweep.Stop()
	defer news.Stop()
	settle := time.NewTimer(d.o.ProbeTimeout)
	defer settle.Stop()
	for {
		next := d.scan(ctx)
		events.acted()
		sweep.Reset(next)
		news.Stop()
		told := false
	waiting:
		for {
			select {
			case <-ctx.Done():
				return
			case ev, ok := <-d.watcher.events():
				if d.watcher.take(ev, ok) {
					events.note()
				}
			case err := <-d.watcher.errors():
				d.o.Log.Debug("events about configuration changes are lost", "error", err)
				d.watcher.doubt()
				events.note()
			case <-d.answered:
				if !d.probes.pending() {
					break waiting
				}
				if !told {
					told = true
					news.Reset(probeNews)
				}
			case <-d.asked:
				break waiting
			case <-events.timer.C:
				break waiting
			case <-news.C:
				break waiting
			case <-sweep.C:
				break waiting
			case <-settle.C:
				d.calm = true
				d.logChange()
			}
		}
	}
}

// scan loads, watches what the snapshot depends on, and publishes what differs.
// Where something is watched that was not before, it loads again: a change
// before that gave no event. It returns after how long the next scan is due.
func (d *Dir) scan(ctx context.Context) time.Duration {
	d.mu.Lock()
	requests := d.requests
	d.requests = nil
	d.mu.Unlock()
	next := pollEvery // if everything moves
	for range maxRounds {
		d.loaded = d.load(ctx, d.loaded)
		if !d.watcher.arm(slices.Concat([]string{d.o.Dir}, d.o.BinDirs, d.loaded.folders)) {
			next = d.watcher.interval()
			break
		}
	}
	if ctx.Err() != nil {
		return next // it may have been a file system that held us for long
	}
	if !d.Current().same(d.loaded) {
		d.current.Store(d.loaded)
		d.subs.notify()
	}
	d.calm = d.calm || d.loaded.pending == 0
	if d.calm {
		d.logChange()
	}
	for _, r := range requests {
		close(r.loaded)
	}
	d.patient = append(d.patient, requests...)
	if d.loaded.pending == 0 {
		for _, r := range d.patient {
			close(r.answered)
		}
		d.patient = nil
	}
	return min(next, d.probes.retryIn())
}

// logChange logs what was rejected since the last time, and one line when the
// networks, the default or the readiness are others.
func (d *Dir) logChange() {
	s := d.Current()
	for _, r := range s.Rejected {
		waits := errors.Is(r.Err, errProbing) || errors.Is(r.Err, errNoPodCIDRs)
		if !waits && !slices.ContainsFunc(d.warned, r.same) {
			d.o.Log.Warn("network configuration is not in force", "path", r.Path, "network", r.Network, "error", r.Err)
		}
	}
	d.warned = s.Rejected
	names := []string{}
	for _, n := range s.Networks {
		names = append(names, n.List.Name)
	}
	line := fmt.Sprint(names, s.DefaultName, s.Default != nil)
	if line == d.lastLine {
		return
	}
	d.lastLine = line
	if s.Default != nil {
		d.o.Log.Info("networks changed", "networks", names, "default", s.DefaultName)
	} else {
		d.o.Log.Warn("network is not ready", "networks", names, "reason", s.Reason)
	}
}
