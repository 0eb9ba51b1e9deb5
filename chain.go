package podcni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 2 * time.Second
)

// networkOf gives the network that a record was attached with. The loaded one
// serves when nothing changed since, and when the record's configuration cannot
// be used.
func (p *Plugin) networkOf(rec *record) (*network, error) {
	loaded := p.snap.Load().byName[rec.Network]
	if loaded != nil && bytes.Equal(loaded.config, rec.Config) {
		return loaded, nil
	}
	recorded, err := recordedNetwork(rec.Config)
	switch {
	case err == nil && recorded.foldersOmitted && loaded != nil && loaded.extends(recorded):
		// libcni records a list without the plugins of its folder.
		return loaded, nil
	case err == nil:
		return recorded, nil
	case loaded != nil:
		p.opts.log.Warn("the recorded configuration cannot be used, taking the loaded one",
			"network", rec.Network, "sandbox", rec.ContainerID, "err", err)
		return loaded, nil
	}
	return nil, fmt.Errorf("%w: network %q: %w", ErrBadRecord, rec.Network, err)
}

// extends says whether the network has the plugins of the other and more after
// them, such as those of a folder.
func (n *network) extends(o *network) bool {
	if len(n.plugins) <= len(o.plugins) {
		return false
	}
	for i := range o.plugins {
		if n.plugins[i].typ != o.plugins[i].typ {
			return false
		}
	}
	return true
}

// sinceVersion says whether the network is spoken to in v or later.
func (n *network) sinceVersion(v string) bool {
	ok, err := version.GreaterThanOrEqualTo(n.cniVersion, v)
	return err == nil && ok
}

// runPlugin runs a verb of one plugin. rec is nil for verbs that concern no
// attachment.
func (p *Plugin) runPlugin(ctx context.Context, verb string, net *network, c *pluginConf, rec *record, env []string, stdin []byte) (*invocation, output, error) {
	inv := &invocation{verb: verb, network: net.name, plugin: c.typ, path: c.path, env: env, stdin: stdin}
	if rec != nil {
		inv.containerID, inv.ifName = rec.ContainerID, rec.IfName
	}
	if inv.path != "" {
		out, err := p.run.run(ctx, inv)
		if err == nil || !errors.Is(err, ErrPluginNotFound) {
			return inv, out, err
		}
	}
	// It comes from a record, or has gone from where it was: it may be elsewhere.
	path, err := p.findBinary(c.typ)
	if err != nil {
		inv.path = ""
		out, err := inv.notRun(err)
		return inv, out, err
	}
	inv.path = path
	out, err := p.run.run(ctx, inv)
	return inv, out, err
}

// findBinary finds a plugin for a network that is not in the snapshot, under
// the same rules.
func (p *Plugin) findBinary(typ string) (string, error) {
	path, err := p.run.find(typ)
	if err == nil && p.opts.strict {
		err = checkBinary(path)
	}
	return path, err
}

// retry repeats what a plugin answers with "try again later", within ctx.
func (p *Plugin) retry(ctx context.Context, try func(attempt int) error) error {
	wait := firstBackoff
	for attempt := 1; ; attempt++ {
		err := try(attempt)
		if err == nil || attempt >= p.opts.retry || !isCode(err, types.ErrTryAgainLater) {
			return err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, ctx.Err())
		}
		wait = min(2*wait, maxBackoff)
	}
}

// isCode says whether err is a plugin's answer with this code.
func isCode(err error, code uint) bool {
	var answer *types.Error
	return errors.As(err, &answer) && answer.Code == code
}

// add runs ADD through the network's plugins (specification, "Add Network").
// started counts the plugins that may have done something, also when it fails.
func (p *Plugin) add(ctx context.Context, net *network, rec *record) (result types.Result, raw json.RawMessage, started int, err error) {
	err = p.retry(ctx, func(attempt int) error {
		if attempt > 1 {
			// No second ADD of an attachment without a DEL between.
			if err := p.del(ctx, net, rec, rec.NetNS, started); err != nil {
				return fmt.Errorf("clean up before trying again: %w", err)
			}
		}
		var n int
		var err error
		result, raw, n, err = p.addOnce(ctx, net, rec)
		started = max(started, n)
		return err
	})
	return result, raw, started, err
}

func (p *Plugin) addOnce(ctx context.Context, net *network, rec *record) (result types.Result, raw json.RawMessage, started int, err error) {
	env := p.run.environ(verbAdd, rec.ContainerID, rec.NetNS, rec.IfName, argsString(rec.CniArgs))
	for i := range net.plugins {
		c := &net.plugins[i]
		inv, out, err := p.runPlugin(ctx, verbAdd, net, c, rec, env, c.stdin(rec.CapabilityArgs, raw, nil))
		if !out.notRun {
			started = i + 1
		}
		if err != nil {
			return nil, nil, started, err
		}
		if result, raw, err = decodeResult(out.stdout, net.cniVersion); err != nil {
			return nil, nil, started, inv.fail(out, err)
		}
	}
	return result, raw, started, nil
}

// del runs DEL through the network's plugins in reverse, and stops at the first
// error: a later plugin might free an address that is still in use
// (specification, "Delete Network"). A plugin from started on has had no ADD: it
// may be missing, or no program.
func (p *Plugin) del(ctx context.Context, net *network, rec *record, netNS string, started int) error {
	env := p.run.environ(verbDel, rec.ContainerID, netNS, rec.IfName, argsString(rec.CniArgs))
	prev := rec.prevResult(net)
	for i := len(net.plugins) - 1; i >= 0; i-- {
		c := &net.plugins[i]
		stdin := c.stdin(rec.CapabilityArgs, prev, nil)
		var out output
		err := p.retry(ctx, func(int) (err error) {
			_, out, err = p.runPlugin(ctx, verbDel, net, c, rec, env, stdin)
			return err
		})
		switch {
		case err == nil, isCode(err, types.ErrUnknownContainer):
			// An unknown container needs no clean-up (specification, "Error").
		case i >= started && out.notRun:
		default:
			return err
		}
	}
	return nil
}

// check runs CHECK through the network's plugins, in order.
func (p *Plugin) check(ctx context.Context, net *network, rec *record) error {
	env := p.run.environ(verbCheck, rec.ContainerID, rec.NetNS, rec.IfName, argsString(rec.CniArgs))
	prev := rec.prevResult(net)
	for i := range net.plugins {
		c := &net.plugins[i]
		stdin := c.stdin(rec.CapabilityArgs, prev, nil)
		err := p.retry(ctx, func(int) error {
			_, _, err := p.runPlugin(ctx, verbCheck, net, c, rec, env, stdin)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// prevResult is what DEL and CHECK are told of ADD's result: nothing before
// version 0.4.0 of the specification.
func (r *record) prevResult(net *network) json.RawMessage {
	if !net.sinceVersion("0.4.0") {
		return nil
	}
	return r.Result
}
