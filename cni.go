package podcni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/podcni/podcni/internal/confdir"
	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/locks"
	"github.com/podcni/podcni/internal/plugin"
	"github.com/podcni/podcni/internal/proc"
	"github.com/podcni/podcni/internal/spec"
)

// CNI attaches pods to networks and detaches them. Make one with [New], and end it
// with Shutdown. It is safe for concurrent use: operations on one sandbox wait for
// each other, those on different sandboxes do not.
type CNI struct {
	opts        *options
	environArgs string // CNI_ARGS of the environment, for InitCNI

	networks *confdir.Dir
	plugins  *plugin.Runner
	journal  *journal.Store
	locks    *locks.Locks
	self     proc.ID

	statuses singleflight.Group

	life context.Context // until Shutdown
	end  context.CancelFunc
}

// New makes a CNI. It loads the networks, asks their plugins which versions they
// speak (VERSION), and begins to watch the directories. These are not errors: a
// missing directory, a file that does not parse, a plugin that is not installed. See
// [CNI.Status] and [CNI.Rejected]. New blocks until the plugins have
// answered, at most for the time limit of VERSION. It creates nothing on disk.
//
// The error wraps ErrInvalidOption and is a *FieldError.
func New(opts ...Option) (*CNI, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	running := plugin.Options{
		BinDirs: o.binDirs, Env: o.pluginEnv, Limits: o.timeouts,
		MaxConcurrent: max(o.maxConcurrent, 0), Exec: o.exec,
	}
	if o.strict {
		running.Check = confdir.CheckBinary
	}
	c := &CNI{
		opts:    o,
		plugins: plugin.New(running),
		journal: journal.Open(o.cacheDir, o.fsync),
		locks:   locks.New(o.cacheDir, o.log),
		self:    proc.Self(),
	}
	if o.passCNIArgs {
		c.environArgs = os.Getenv("CNI_ARGS")
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.networks, err = confdir.Open(confdir.Options{
		Dir: o.confDir, BinDirs: o.binDirs, Lists: o.confLists,
		Template: o.confTemplate, HasTemplate: o.hasTemplate,
		Default: o.defaultNetwork, Watch: o.watch, Strict: o.strict,
		ProbeTimeout: o.probeTimeout(), Log: o.log,
		Find: c.plugins.Find, Versions: c.plugins.Versions,
	})
	if bad := (*confdir.InputError)(nil); errors.As(err, &bad) {
		err = invalidField(ErrInvalidOption, bad.Option, "", bad.Err)
	}
	if err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// probeTimeout is how long plugins that are asked for their versions are waited
// for, also where there is no limit.
func (o *options) probeTimeout() time.Duration {
	if d := o.timeouts[spec.Version]; d > 0 {
		return d
	}
	return quickTimeout
}

// Name returns [CNIPluginName].
func (c *CNI) Name() string { return CNIPluginName }

// Shutdown stops watching and waits until that has stopped. Every later call that
// can fail returns ErrShutdown, except Shutdown. Attached pods stay attached. Running
// operations go on; Shutdown does not wait for them. It always returns nil.
func (c *CNI) Shutdown() error {
	c.end()
	c.networks.Close()
	return nil
}

// closed returns ErrShutdown after Shutdown.
func (c *CNI) closed() error {
	if c.life.Err() != nil {
		return ErrShutdown
	}
	return nil
}

// outlast returns a context with ctx's values that ends d after ctx: what must be
// done is not given up because the caller's time is over.
func outlast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(fmt.Errorf("the time for detaching after the end of the caller's context is over: %w: %w",
				context.DeadlineExceeded, context.Cause(ctx)))
		case <-out.Done():
		}
	})
	return out, func() {
		stop()
		cancel(nil)
	}
}

// podError says which pod an operation failed for.
func podError(op string, pod *PodNetwork, err error) error {
	if err == nil {
		return nil
	}
	return &PodError{Op: op, Namespace: short(pod.Namespace), Name: short(pod.Name), ID: short(pod.ID), Err: err}
}
