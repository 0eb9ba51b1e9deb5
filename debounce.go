package podcni

import "time"

const (
	// quietFor is how long no event may come before a change is acted on.
	quietFor = 30 * time.Millisecond
	// shortestDelay bounds how long a stream of events can put that off. Each
	// time in a row that it does, the bound doubles, to longestDelay, so that a
	// file which is rewritten without a pause costs a few loads a second.
	shortestDelay = 80 * time.Millisecond
	longestDelay  = 320 * time.Millisecond
)

// debounce makes one load of many events. It belongs to one goroutine.
type debounce struct {
	timer *time.Timer // fires when it is time to act
	first time.Time   // of the events that wait; zero when none does
	last  time.Time
	delay time.Duration // how long after first at the latest
}

func newDebounce() *debounce {
	d := &debounce{timer: time.NewTimer(0), delay: shortestDelay}
	d.timer.Stop()
	return d
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
		if time.Since(d.last) < quietFor {
			d.delay = min(2*d.delay, longestDelay)
		} else {
			d.delay = shortestDelay
		}
	}
	d.first = time.Time{}
}
