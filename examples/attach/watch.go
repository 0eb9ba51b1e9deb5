package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/podcni/podcni"
)

// statusEvery is how often watch asks for readiness although nothing changed on
// disk: a plugin's answer to STATUS changes without notice.
const statusEvery = 10 * time.Second

// view is what watch compares: readiness and networks in words.
type view struct {
	ready    string
	networks []string
	rejected []string
}

// watch prints the networks and readiness, and then each change of them. Being
// interrupted is its normal end.
func watch(ctx context.Context, e *env) error {
	if err := e.noArgs(); err != nil {
		return err
	}
	var quiet []podcni.Option
	if !e.verbose {
		quiet = append(quiet, podcni.WithLogger(nil)) // of changes we tell ourselves
	}
	return e.with(func(p *podcni.CNI) error {
		updates := p.Updates(ctx)
		tick := time.NewTicker(statusEvery)
		defer tick.Stop()
		var last view
		for {
			ready := p.StatusWithContext(ctx)
			if ctx.Err() != nil {
				return nil
			}
			now := look(p, ready)
			if err := e.printChange(&last, &now, ready, p); err != nil {
				return err
			}
			last = now
			select {
			case <-ctx.Done():
				return nil
			case <-updates:
			case <-tick.C:
			}
		}
	}, quiet...)
}

func look(p *podcni.CNI, ready error) view {
	v := view{ready: "ready"}
	if ready != nil {
		v.ready = oneLine(ready.Error())
	}
	loaded, rejected := p.Networks(), p.Rejected()
	for i := range loaded {
		n := &loaded[i]
		line := fmt.Sprintf("network %s (version %s; %s) from %s", n.Name, n.CNIVersion, strings.Join(n.Plugins, ", "), n.Path)
		if n.Default {
			line += ", the default"
		}
		v.networks = append(v.networks, line)
	}
	for i := range rejected {
		v.rejected = append(v.rejected, "not taken: "+oneLine(rejected[i].Error()))
	}
	return v
}

// printChange prints what came (+), what went (-), and readiness if it changed.
func (e *env) printChange(last, now *view, ready error, p *podcni.CNI) error {
	if last.ready == now.ready && slices.Equal(last.networks, now.networks) && slices.Equal(last.rejected, now.rejected) {
		return nil
	}
	if e.json {
		return e.printJSON(e.stdout, jsonStatus(ready, p))
	}
	var b strings.Builder
	at := time.Now().Format(time.TimeOnly)
	line := func(sign, text string) { fmt.Fprintf(&b, "%s %s %s\n", at, sign, text) }
	for _, lists := range [][2][]string{{last.networks, now.networks}, {last.rejected, now.rejected}} {
		for _, gone := range lists[0] {
			if !slices.Contains(lists[1], gone) {
				line("-", gone)
			}
		}
		for _, came := range lists[1] {
			if !slices.Contains(lists[0], came) {
				line("+", came)
			}
		}
	}
	if last.ready != now.ready {
		line("=", now.ready)
	}
	_, err := fmt.Fprint(e.stdout, b.String())
	return err
}
