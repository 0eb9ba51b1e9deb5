package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/podcni/podcni"
)

// with opens the Plugin for one step and shuts it down after it.
func (e *env) with(do func(p *podcni.CNI) error, opts ...podcni.Option) (err error) {
	p, err := e.open(opts...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Shutdown()) }()
	return do(p)
}

func (e *env) noArgs() error {
	if len(e.args) > 0 {
		return usageError("unexpected argument %q", e.args[0])
	}
	return nil
}

// withPod is with for a step on the sandbox that the flags describe.
func (e *env) withPod(do func(p *podcni.CNI, pod podcni.PodNetwork) error) error {
	if e.id == "" {
		return usageError("--id is needed")
	}
	if err := e.noArgs(); err != nil {
		return err
	}
	return e.with(func(p *podcni.CNI) error {
		pod, err := e.pod(p.GetDefaultNetworkName())
		if err != nil {
			return err
		}
		return do(p, pod)
	}, podcni.WithoutWatch())
}

func add(ctx context.Context, e *env) error {
	return e.withPod(func(p *podcni.CNI, pod podcni.PodNetwork) error {
		undo := func() error { return nil }
		if e.newNetNS {
			ns, err := e.makeNetNS()
			if err != nil {
				return err
			}
			pod.NetNS, undo = ns.Path(), ns.Remove
		}
		results, err := p.SetUpPodWithContext(ctx, pod)
		if err != nil {
			return errors.Join(err, undo())
		}
		return e.printResults(e.stdout, pod, results)
	})
}

// makeNetNS makes the namespace that --netns or --id names.
func (e *env) makeNetNS() (*podcni.NetNS, error) {
	name := e.netns
	if name == "" {
		name = e.id
	}
	if strings.ContainsRune(name, '/') {
		return nil, usageError("--new-netns makes a namespace below --netns-dir: --netns must be a name")
	}
	return podcni.NewNetNS(e.netnsDir, name)
}

func del(ctx context.Context, e *env) error {
	return e.withPod(func(p *podcni.CNI, pod podcni.PodNetwork) error {
		if err := p.TearDownPodWithContext(ctx, pod); err != nil || !e.removeNetNS {
			return err
		}
		ns, err := podcni.OpenNetNS(pod.NetNS)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // as del itself may be repeated
		}
		if err != nil {
			return err
		}
		return ns.Remove()
	})
}

func check(ctx context.Context, e *env) error {
	return e.withPod(func(p *podcni.CNI, pod podcni.PodNetwork) error {
		if err := p.CheckPod(ctx, pod); err != nil {
			return err
		}
		results, err := p.GetPodNetworkStatusWithContext(ctx, pod)
		if err != nil {
			return err
		}
		return e.printResults(e.stdout, pod, results)
	})
}

func status(ctx context.Context, e *env) error {
	if err := e.noArgs(); err != nil {
		return err
	}
	var opts []podcni.Option
	if !e.wait {
		opts = append(opts, podcni.WithoutWatch())
	}
	return e.with(func(p *podcni.CNI) error {
		err := p.StatusWithContext(ctx)
		if err != nil && e.wait {
			fmt.Fprintf(e.stderr, "attach: waiting: %s\n", oneLine(err.Error()))
			err = p.WaitReady(ctx)
		}
		if e.json {
			if err := e.printJSON(e.stdout, jsonStatus(err, p)); err != nil {
				return err
			}
			if err != nil {
				return errReported
			}
			return nil
		}
		if err == nil {
			fmt.Fprintf(e.stdout, "ready: the default network is %s\n", p.GetDefaultNetworkName())
		}
		return err
	}, opts...)
}

func networks(ctx context.Context, e *env) error {
	if err := e.noArgs(); err != nil {
		return err
	}
	return e.with(func(p *podcni.CNI) error {
		loaded, rejected := p.Networks(), p.Rejected()
		if e.json {
			return e.printJSON(e.stdout, jsonNetworks(loaded, rejected))
		}
		t := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "NETWORK\tDEFAULT\tVERSION\tPLUGINS\tFILE")
		for i := range loaded {
			n := &loaded[i]
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", n.Name, yes(n.Default), n.CNIVersion, strings.Join(n.Plugins, ","), n.Path)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for i := range rejected {
			fmt.Fprintf(e.stdout, "not taken: %s\n", oneLine(rejected[i].Error()))
		}
		if len(loaded)+len(rejected) == 0 {
			fmt.Fprintf(e.stderr, "attach: %s\n", oneLine(p.StatusWithContext(ctx).Error()))
		}
		return nil
	}, podcni.WithoutWatch())
}

func list(ctx context.Context, e *env) error {
	if err := e.noArgs(); err != nil {
		return err
	}
	return e.with(func(p *podcni.CNI) error {
		attachments, err := p.Attachments(ctx)
		if err != nil {
			return err
		}
		if e.json {
			return e.printJSON(e.stdout, jsonAttachments(attachments))
		}
		t := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "SANDBOX\tNETWORK\tINTERFACE\tSTATE\tSINCE\tNETNS\tOWNER")
		for i := range attachments {
			a := &attachments[i]
			since := "-"
			if !a.Since.IsZero() {
				since = a.Since.Local().Format(time.DateTime)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(a.ContainerID), dash(a.Network), dash(a.IfName),
				a.State, since, dash(a.NetNS), dash(a.Owner))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for i := range attachments {
			if a := &attachments[i]; a.Err != nil {
				fmt.Fprintf(e.stdout, "not read: %s\n", oneLine(a.Err.Error()))
			}
		}
		return nil
	}, podcni.WithoutWatch())
}

func gc(ctx context.Context, e *env) error {
	if len(e.args) == 0 && !e.all {
		return usageError("name the sandboxes that live, or say --all")
	}
	valid := make([]*podcni.PodNetwork, len(e.args))
	for i, id := range e.args {
		valid[i] = &podcni.PodNetwork{ID: id}
	}
	return e.with(func(p *podcni.CNI) error { return p.GC(ctx, valid) }, podcni.WithoutWatch())
}

func forget(ctx context.Context, e *env) error {
	if len(e.args) == 0 {
		return usageError("name the sandboxes to forget")
	}
	return e.with(func(p *podcni.CNI) error {
		var errs []error
		for _, id := range e.args {
			if err := p.Forget(ctx, id); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", id, err))
			}
		}
		return errors.Join(errs...)
	}, podcni.WithoutWatch())
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

// dash is a cell of a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

// oneLine makes of an error's text, which may be several joined, one line.
func oneLine(s string) string { return printable(strings.ReplaceAll(s, "\n", "; ")) }

// printable keeps what plugins and files say from giving orders to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
