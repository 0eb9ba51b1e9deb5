package podcni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podcni/podcni/internal/confdir"
	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/netns"
	"github.com/podcni/podcni/internal/plugin"
	"github.com/podcni/podcni/internal/spec"
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// attachment is an attachment that is worked on.
type attachment struct {
	journal.Attachment
	containerID string
	list        *libcni.NetworkConfigList
	asked       string // the pod's field that asks for it, in errors
	// ns is the open namespace. It is nil when there is none that can be used:
	// DEL then gets an empty CNI_NETNS (specification, section 2, "DEL").
	ns *netns.NS
	// started is how many of the chain's plugins may have done something. The
	// others need no DEL.
	started int
}

// run is one run of a network's chain. libcni calls it for each plugin.
type run struct {
	cni  *CNI
	verb string
	net  string
	a    *attachment  // nil for GC and STATUS
	done int          // how many plugins were run, or passed over
	last *PluginError // the last run that succeeded, in case that its result is none
	out  []byte       // of that run
}

var _ invoke.Exec = (*run)(nil)

// engine is libcni for one run.
func (c *CNI) engine(r *run, cacheDir string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(c.opts.binDirs, cacheDir, r)
}

// FindInPath leaves the search to ExecPlugin, where it cannot hold up the caller.
func (r *run) FindInPath(typ string, _ []string) (string, error) { return typ, nil }

// Decode is not called: podcni asks for versions when it loads a network.
func (r *run) Decode(out []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(out)
}

// ExecPlugin runs the plugin of that type. The environment is podcni's: libcni's
// is the whole of the runtime's. The error is a *PluginError.
func (r *run) ExecPlugin(ctx context.Context, typ string, stdin []byte, _ []string) ([]byte, error) {
	call := plugin.Call{Verb: r.verb, Plugin: typ, Stdin: stdin}
	index := r.done
	r.done++
	if a := r.a; a != nil {
		if r.verb == spec.Del {
			index = len(a.list.Plugins) - 1 - index
		}
		call.ContainerID, call.IfName, call.Args = a.containerID, a.IfName, argsString(a.Args)
		call.CNIVersion = a.list.CNIVersion
		call.NetNS = func(context.Context) (string, error) { return r.netNS() }
	}
	out, err := r.cni.plugins.Run(ctx, call)
	if r.verb == spec.Add && !out.NotStarted {
		r.a.started = index + 1
	}
	perr := &PluginError{
		Verb: r.verb, Network: r.net, Plugin: typ, Path: out.Path,
		Stderr: out.Stderr, Exit: out.Exit, TimedOut: out.TimedOut, Err: err,
	}
	if r.a != nil {
		perr.ContainerID, perr.IfName = r.a.containerID, r.a.IfName
	}
	switch {
	case err == nil:
		r.logStderr(ctx, typ, out.Stderr)
		r.last, r.out = perr, out.Stdout
		return out.Stdout, nil
	case r.verb == spec.Del && isCode(err, types.ErrUnknownContainer):
		// It needs no clean-up (specification, section 5, "Error").
		return nil, nil
	case r.verb == spec.Del && out.NotStarted && index >= r.a.started && ctx.Err() == nil:
		// It has had no ADD: it may be missing.
		return nil, nil
	}
	return nil, perr
}

// netNS is CNI_NETNS for the plugin that is about to start: the recorded path, as
// long as it leads to the namespace that was attached.
func (r *run) netNS() (string, error) {
	a := r.a
	if a.ns == nil {
		return "", nil
	}
	same, err := a.ns.StillAt(a.NetNS)
	switch {
	case err == nil && same:
		return a.NetNS, nil
	case r.verb == spec.Del:
		if err == nil {
			r.cni.opts.log.Warn("the path does not lead to the attached network namespace any more: DEL gets none",
				"sandbox", a.containerID, "path", a.NetNS)
		}
		return "", err
	case err == nil:
		err = fmt.Errorf("%w: it is not at its path any more", ErrNetNS)
	}
	return "", fmt.Errorf("network namespace %.128q: %w", a.NetNS, err)
}

func (r *run) logStderr(ctx context.Context, typ, stderr string) {
	log := r.cni.opts.log
	if stderr == "" || !log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []any{"plugin", typ, "verb", r.verb, "network", r.net, "stderr", strings.TrimSpace(stderr)}
	if r.a != nil {
		attrs = append(attrs, "sandbox", r.a.containerID, "interface", r.a.IfName)
	}
	log.DebugContext(ctx, "plugin wrote to stderr", attrs...)
}

// add runs ADD (specification, section 2, "ADD"), and again for a plugin that
// asks for it, after a DEL (section 3, "Lifecycle & Ordering"). When that fails,
// its error comes second.
func (c *CNI) add(ctx context.Context, a *attachment) (types.Result, error) {
	wait := firstBackoff
	for attempt := 1; ; attempt++ {
		result, err := c.addOnce(ctx, a)
		if err == nil || attempt >= c.opts.maxAttempts || !isCode(err, types.ErrTryAgainLater) || !sleep(ctx, wait) {
			return result, err
		}
		if delErr := c.delOnce(ctx, a); delErr != nil {
			return nil, errors.Join(err, fmt.Errorf("DEL before another try: %w", delErr))
		}
		wait = min(2*wait, lastBackoff)
	}
}

func (c *CNI) addOnce(ctx context.Context, a *attachment) (types.Result, error) {
	r := &run{cni: c, verb: spec.Add, net: a.Network, a: a}
	result, err := c.engine(r, c.opts.cacheDir).AddNetworkList(ctx, a.list, a.runtimeConf())
	if perr := (*PluginError)(nil); err == nil || errors.As(err, &perr) {
		return result, pluginError(err)
	}
	// It is libcni that failed, over what the last plugin printed or else over the
	// file of its result.
	if r.last != nil {
		if _, bad := create.Create(a.list.CNIVersion, r.out); bad != nil {
			r.last.Err = fmt.Errorf("%w: %w", ErrBadOutput, bad)
			return nil, r.last
		}
	}
	if r.done == len(a.list.Plugins) {
		err = &RecordError{Path: c.journal.ResultPath(a.Network, a.containerID, a.IfName), Err: err}
	}
	return nil, err
}

// del runs DEL, and again for a plugin that asks for it.
func (c *CNI) del(ctx context.Context, a *attachment) error {
	wait := firstBackoff
	for attempt := 1; ; attempt++ {
		err := c.delOnce(ctx, a)
		if errors.Is(err, ErrPluginNotFound) && len(a.list.Plugins) == 1 && a.list.Plugins[0].Network.Type == "loopback" {
			// ocicni before 0.5 attached lo with it. The kernel removes lo.
			return recordError(c.journal.RemoveResult(c.journal.ResultPath(a.Network, a.containerID, a.IfName)))
		}
		if err == nil || attempt >= c.opts.maxAttempts || !isCode(err, types.ErrTryAgainLater) || !sleep(ctx, wait) {
			return err
		}
		wait = min(2*wait, lastBackoff)
	}
}

func (c *CNI) delOnce(ctx context.Context, a *attachment) error {
	r := &run{cni: c, verb: spec.Del, net: a.Network, a: a}
	cacheDir := c.opts.cacheDir
	kept, unusable := c.journal.Result(a.Network, a.containerID, a.IfName)
	if kept != nil {
		_, unusable = keptResult(kept, a.list.CNIVersion)
	}
	if unusable != nil || kept == nil {
		// libcni would panic over it, or remove what is another's, which may come
		// while the plugins run. DEL goes out without a result.
		cacheDir = c.noResults()
	}
	err := pluginError(c.engine(r, cacheDir).DelNetworkList(ctx, a.list, a.runtimeConf()))
	if err == nil && unusable != nil && !errors.Is(unusable, ErrNameTaken) {
		path := c.journal.ResultPath(a.Network, a.containerID, a.IfName)
		if err := c.journal.RemoveResult(path); err != nil {
			c.opts.log.Warn("a result that cannot be used stays", "sandbox", a.containerID, "err", err)
		}
	}
	return err
}

// noResults is a cache directory in which libcni finds nothing.
func (c *CNI) noResults() string { return filepath.Join(c.journal.Dir(), ".none") }

// check runs CHECK (specification, section 2, "CHECK").
func (c *CNI) check(ctx context.Context, a *attachment) error {
	r := &run{cni: c, verb: spec.Check, net: a.Network, a: a}
	return pluginError(c.engine(r, c.opts.cacheDir).CheckNetworkList(ctx, a.list, a.runtimeConf()))
}

// askStatus runs STATUS (specification, section 2, "STATUS").
func (c *CNI) askStatus(ctx context.Context, list *libcni.NetworkConfigList) error {
	r := &run{cni: c, verb: spec.Status, net: list.Name}
	return pluginError(c.engine(r, c.noResults()).GetStatusNetworkList(ctx, list))
}

// gcPlugins runs GC (specification, section 2, "GC") on every plugin, past
// failures. It does not use libcni's own, which first detaches what others have
// attached meanwhile.
func (c *CNI) gcPlugins(ctx context.Context, list *libcni.NetworkConfigList, valid []types.GCAttachment) error {
	inject := map[string]any{
		"name": list.Name, "cniVersion": list.CNIVersion,
		"cni.dev/valid-attachments": valid,
		"cni.dev/attachments":       valid, // what the specification called it at first
	}
	errs := make([]error, len(list.Plugins))
	for i, p := range list.Plugins {
		r := &run{cni: c, verb: spec.GC, net: list.Name}
		conf, err := libcni.InjectConf(p, inject)
		if err == nil {
			err = invoke.ExecPluginWithoutResult(ctx, p.Network.Type, conf.Bytes, &invoke.Args{Command: spec.GC}, r)
		}
		errs[i] = pluginError(err)
	}
	return errors.Join(errs...)
}

// runtimeConf is the attachment as libcni wants it.
func (a *attachment) runtimeConf() *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: a.containerID, NetNS: a.NetNS, IfName: a.IfName, Args: a.Args,
	}
	if len(a.CapabilityArgs) > 0 {
		rt.CapabilityArgs = make(map[string]any, len(a.CapabilityArgs))
		for name, value := range a.CapabilityArgs {
			rt.CapabilityArgs[name] = value
		}
	}
	return rt
}

// keptResult is what libcni has recorded of the attachment, in the network's
// version; nil when the last plugin printed nothing.
func keptResult(kept *journal.Result, cniVersion string) (types.Result, error) {
	if kept.Raw == nil {
		return nil, nil
	}
	raw, err := plugin.CheckResult(kept.Raw, cniVersion)
	if err != nil {
		return nil, err
	}
	return create.Create(cniVersion, raw)
}

// pluginError takes off what libcni puts around a *PluginError, which says the
// same and more.
func pluginError(err error) error {
	if perr := (*PluginError)(nil); errors.As(err, &perr) {
		return perr
	}
	return err
}

// isCode reports whether err is a plugin's own error with this code.
func isCode(err error, code uint) bool {
	own := (*types.Error)(nil)
	return errors.As(err, &own) && own.Code == code
}

// sleep reports whether ctx goes on after d. It does not wait for what is sure
// to come too late.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// since reports whether a network's version of the specification is v or later.
func since(list *libcni.NetworkConfigList, v string) bool {
	ok, err := version.GreaterThanOrEqualTo(list.CNIVersion, v)
	return err == nil && ok
}

// recordedList reads the configuration that was recorded for an attachment. The
// loaded network serves when it is the same, and when the recorded one cannot be
// used.
func (c *CNI) recordedList(network string, config []byte) (*libcni.NetworkConfigList, error) {
	loaded := c.networks.Current().Network(network)
	if loaded != nil && bytes.Equal(loaded.List.Bytes, config) {
		return loaded.List, nil
	}
	list, err := confdir.ParseRecorded(network, config)
	switch {
	case err == nil:
		return list, nil
	case loaded != nil:
		c.opts.log.Warn("a recorded configuration cannot be used, taking the loaded one", "network", network, "err", err)
		return loaded.List, nil
	}
	return nil, fmt.Errorf("%w: configuration of network %q: %w", ErrBadRecord, network, err)
}

// foreignList is the configuration of an attachment that another runtime made.
// That runtime's libcni did not record the plugins of the network's folder. They
// are those of today, if the network is loaded.
func (c *CNI) foreignList(r *journal.Result) (*libcni.NetworkConfigList, error) {
	list, err := c.recordedList(r.Network, r.Config)
	if err != nil || list.LoadOnlyInlinedPlugins {
		return list, err
	}
	loaded := c.networks.Current().Network(r.Network)
	if loaded == nil || loaded.List == list || loaded.Inlined == len(loaded.List.Plugins) {
		return list, nil
	}
	return confdir.Append(list, loaded.List.Plugins[loaded.Inlined:])
}

// foreignRecord is the attachment of another runtime, without its configuration.
func foreignRecord(r *journal.Result) journal.Attachment {
	return journal.Attachment{
		Key:   journal.Key{Network: r.Network, IfName: r.IfName},
		NetNS: r.NetNS, Args: r.Args, CapabilityArgs: r.CapabilityArgs,
	}
}
