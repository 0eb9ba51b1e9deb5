// Package confdir keeps the networks of a configuration directory up to date. A
// directory of files, which may change at any time, becomes a sequence of
// immutable snapshots: the networks that pods can be attached to, and what was
// rejected and why.
//
// One goroutine watches, loads, compares and publishes. Everybody else takes the
// current snapshot, or asks for a load. Only that goroutine touches the file
// system, so that one that hangs holds up nobody else.
package confdir

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podcni/podcni/internal/spec"
)

var (
	// ErrInvalid is what is wrong with a configuration that is not one.
	ErrInvalid = errors.New("invalid network configuration")
	// ErrVersion says that configuration, podcni and plugins have no version of
	// the specification in common.
	ErrVersion = spec.ErrVersion
	// ErrNotFound says that the default network is not configured.
	ErrNotFound = errors.New("network not found")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the configuration directory is closed")
)

// InputError is an option that does not parse. Err wraps ErrInvalid.
type InputError struct {
	Option string // for example WithConfList[0]
	Err    error
}

func (e *InputError) Error() string { return fmt.Sprintf("%s: %v", e.Option, e.Err) }

func (e *InputError) Unwrap() error { return e.Err }

// Options are what Open needs to know.
type Options struct {
	Dir     string
	BinDirs []string
	// Lists are networks that are in no file. They come first, in their order.
	Lists [][]byte
	// Template makes a network of the pod CIDRs, if HasTemplate.
	Template    string
	HasTemplate bool
	// Default is the default network's name; empty for the first network.
	Default string
	// Watch loads whenever a directory changes, and now and then anyway. Without
	// it only Reload does, and the retry of a plugin that failed.
	Watch bool
	// Strict rejects what others than root and our own user could have written.
	Strict bool
	// ProbeTimeout is how long Open and Reload wait for plugins to answer. Each
	// run is limited by Versions.
	ProbeTimeout time.Duration
	Log          *slog.Logger // not nil
	// Find finds a plugin's binary.
	Find func(plugin string) (path string, err error)
	// Versions asks a binary for the versions that it speaks. It returns soon
	// after its context has ended.
	Versions func(ctx context.Context, plugin, path string) ([]string, error)
}

// moment is how long Open and Close wait for a file system that does not answer.
const moment = time.Second

// Dir is a configuration directory. It is safe for concurrent use.
type Dir struct {
	o       Options
	loader  *loader
	load    func(ctx context.Context, prev *Snapshot) *Snapshot
	probes  *prober
	watcher *watcher
	current atomic.Pointer[Snapshot]
	subs    subscribers

	cancel context.CancelFunc
	closed <-chan struct{} // from Close on
	ended  chan struct{}   // closed when loop has returned

	asked    chan struct{} // holds one: there are requests
	answered chan struct{} // holds one: a plugin has answered

	mu       sync.Mutex // guards requests
	requests []request

	// What follows belongs to loop.
	loaded   *Snapshot
	patient  []request // whose load is done, and whose plugins have not answered
	calm     bool      // the first load's plugins have answered, or taken too long
	warned   []Rejection
	lastLine string
}

// request asks for a load that begins after it.
type request struct{ loaded, answered chan struct{} }

// Open loads for the first time, and waits until the plugins have answered or
// ProbeTimeout has passed. Where the directory cannot be read in that time and a
// moment, Current says so until it can. Open fails only for Lists and a Template
// that do not parse: the error is an *InputError. Close the Dir when it is no
// longer needed.
func Open(o Options) (*Dir, error) {
	d, err := newDir(o)
	if err != nil {
		return nil, err
	}
	first := d.request()
	d.start()
	ctx, cancel := context.WithTimeout(context.Background(), o.ProbeTimeout+moment)
	defer cancel()
	_ = d.await(ctx, first) // Current says what is missing
	return d, nil
}

func newDir(o Options) (*Dir, error) {
	d := &Dir{
		o: o, ended: make(chan struct{}),
		asked: make(chan struct{}, 1), answered: make(chan struct{}, 1),
	}
	d.probes = newProber(o.Versions, func() { signal(d.answered) })
	var err error
	if d.loader, err = newLoader(&d.o, d.probes); err != nil {
		return nil, err
	}
	d.load = d.loader.load
	d.watcher = newWatcher(openFsnotify, o.Log)
	if !o.Watch {
		d.watcher.open = nil
	}
	d.current.Store(&Snapshot{DefaultName: o.Default, Reason: fmt.Errorf("%s has not been read yet", o.Dir)})
	return d, nil
}

func (d *Dir) start() {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.closed = cancel, ctx.Done()
	go d.loop(ctx)
}

// signal never blocks: one signal says as much as many.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// CheckBinary refuses a plugin that anyone but root and this process's user could
// have put there or could change.
func CheckBinary(path string) error { return newTrust().file(path) }

// Current returns the current snapshot. It never blocks, and never returns nil.
func (d *Dir) Current() *Snapshot { return d.current.Load() }

// Reload waits for a load that begins after the call, and for the plugins that
// it has to ask for their versions, for these at most ProbeTimeout: Rejected
// names the networks that still wait. It returns an error only if ctx ends, or
// ErrClosed.
func (d *Dir) Reload(ctx context.Context) error { return d.await(ctx, d.request()) }

func (d *Dir) request() request {
	r := request{loaded: make(chan struct{}), answered: make(chan struct{})}
	d.mu.Lock()
	d.requests = append(d.requests, r)
	d.mu.Unlock()
	signal(d.asked)
	return r
}

func (d *Dir) await(ctx context.Context, r request) error {
	select {
	case <-r.loaded:
	case <-ctx.Done():
		return ctx.Err()
	case <-d.closed:
		return ErrClosed
	}
	patience := time.NewTimer(d.o.ProbeTimeout)
	defer patience.Stop()
	select {
	case <-r.answered:
		return nil
	case <-patience.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.closed:
		return ErrClosed
	}
}

// UpdatePodCIDRs renders the template with the node's pod CIDRs, and then does
// what Reload does. The error is an *InputError when the template makes no valid
// network: the last one stays. Without a template it does nothing.
func (d *Dir) UpdatePodCIDRs(ctx context.Context, cidrs []netip.Prefix) error {
	if d.loader.template == nil {
		return nil
	}
	src, err := render(d.loader.template, cidrs)
	if err != nil {
		return &InputError{templatePath, err}
	}
	d.loader.rendered.Store(src)
	return d.Reload(ctx)
}

// Subscribe returns a channel that can be received from after networks,
// rejections or readiness have changed since the last receive. Changes that come
// together, or while nobody receives, count as one. The channel is closed when
// ctx ends and by Close. Who does not receive holds nothing up.
func (d *Dir) Subscribe(ctx context.Context) <-chan struct{} { return d.subs.add(ctx) }

// Close ends everything and waits for it. It waits for a file system that does
// not answer for a second at most: then a goroutine is left that ends when the
// file system answers. Close may be called again.
func (d *Dir) Close() {
	d.cancel()
	d.probes.close()
	patience := time.NewTimer(moment)
	defer patience.Stop()
	select {
	case <-d.ended:
	case <-patience.C:
	}
	d.subs.close()
}
