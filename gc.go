package podcni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/errgroup"
)

const (
	gcSandboxes = 8 // torn down at a time
	gcNetworks  = 4 // sent GC at a time
)

// GC detaches what is recorded of sandboxes that are not among validPods, from
// its records and also from networks that are not configured any more, and then
// sends GC to the plugins of every network of version 1.1.0 and later with the
// attachments that are valid there (specification, "GC"). It is no substitute
// for TearDownPod.
//
// Collected are records of this owner (see WithOwner), and those without an
// owner whose network is loaded. A record directory that is shared with a
// runtime which writes no owner, such as podman's or libcni's default one,
// therefore wants network names that the other does not use. A record that cannot
// be read is collected like one without an owner, if its name tells whose it is;
// as long as it is there, its network gets no GC. What was attached after GC was
// called is left alone, and so are networks with disableGC. validPods is only read; a nil element is skipped, and an empty list means that no sandbox
// is valid.
//
// While a network's plugins run GC, no ADD and no DEL runs on it. Until it falls
// idle GC waits, and holds others back only for two seconds at a time. Everything
// is tried; the error joins what failed: *PodError for a sandbox, *PluginError,
// ErrBusy for what could not be had, ErrInvalidPod for an ID that is none.
func (p *Plugin) GC(ctx context.Context, validPods []*PodNetwork) error {
	end, err := p.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := ctx.Err(); err != nil {
		return err
	}
	began := time.Now()
	valid := make(map[string]bool, len(validPods))
	for _, pod := range validPods {
		if pod == nil {
			continue
		}
		if err := checkContainerID(pod.ID); err != nil {
			return podError("keep", pod, invalidField(ErrInvalidPod, "ID", pod.ID, err))
		}
		valid[pod.ID] = true
	}
	stale := staleRecords{}
	return errors.Join(p.collect(ctx, began, valid, stale), p.gcNetworks(ctx, stale))
}

// staleRecords are the records that GC found to be garbage when it began, by
// file name, with the time of their set-up. What was attached later is not among
// them, whatever clocks say.
type staleRecords map[string]time.Time

func (s staleRecords) has(rec *record) bool {
	since, ok := s[rec.fileName()]
	return ok && since.Equal(rec.Since)
}

// garbage says whether GC may detach the recorded attachment.
func (p *Plugin) garbage(rec *record, valid map[string]bool) bool {
	if valid[rec.ContainerID] {
		return false
	}
	loaded := p.snap.Load().byName[rec.Network]
	mine := rec.Writer != (writerID{}) && rec.Owner == p.opts.owner
	if !mine && (rec.Owner != "" || loaded == nil) {
		return false
	}
	if loaded != nil {
		return !loaded.disableGC
	}
	recorded, err := recordedNetwork(rec.Config)
	return err != nil || !recorded.disableGC
}

// unreadableGarbage says whether GC may detach the attachment whose record cannot
// be read, and which it is: by its name it must be one of a loaded network, no
// reading of the name may be a valid sandbox's, and nobody may be writing it.
func (p *Plugin) unreadableGarbage(b *RecordError, began time.Time, valid map[string]bool) (of recordSplit, ok bool) {
	info, err := os.Lstat(b.Path)
	if err != nil || info.ModTime().After(began) {
		return recordSplit{}, false
	}
	byName := p.snap.Load().byName
	found := 0
	for _, split := range splitName(filepath.Base(b.Path), manySplits) {
		if valid[split.id] {
			return recordSplit{}, false
		}
		if loaded := byName[split.network]; loaded != nil && !loaded.disableGC {
			of = split
			found++
		}
	}
	return of, found == 1
}

// collect detaches what is garbage, several sandboxes at a time, and notes it in
// stale.
func (p *Plugin) collect(ctx context.Context, began time.Time, valid map[string]bool, stale staleRecords) error {
	recs, bad, allErr := p.records.all(ctx) // what could be read, beside an error
	var ids []string
	seen := map[string]bool{}
	found := func(id string) {
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	for _, rec := range recs {
		if p.garbage(rec, valid) {
			stale[rec.fileName()] = rec.Since
			found(rec.ContainerID)
		}
	}
	for _, b := range bad {
		if of, ok := p.unreadableGarbage(b, began, valid); ok {
			found(of.id)
		} else {
			p.opts.log.Warn("a record cannot be read: GC leaves it", "record", b.Path, "err", b.Err)
		}
	}
	errs := make([]error, len(ids))
	var group errgroup.Group
	group.SetLimit(gcSandboxes)
	for i, id := range ids {
		group.Go(func() error {
			errs[i] = podError("collect", &PodNetwork{ID: id}, p.collectSandbox(ctx, id, began, valid, stale))
			return nil
		})
	}
	_ = group.Wait() // every error is in errs
	return errors.Join(append(errs, allErr)...)
}

func (p *Plugin) collectSandbox(ctx context.Context, id string, began time.Time, valid map[string]bool, stale staleRecords) error {
	wait, cancel := context.WithTimeout(ctx, gcPatience)
	defer cancel()
	unlock, err := p.lockSandbox(wait, id, false)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	defer unlock()
	recs, bad, err := p.records.ofSandbox(id)
	var garbage []*record
	for _, rec := range recs {
		if stale.has(rec) {
			garbage = append(garbage, rec)
		}
	}
	errs := append(p.detachAll(ctx, garbage), err)
	for _, b := range bad {
		if of, ok := p.unreadableGarbage(b, began, valid); ok && of.id == id && of.network == b.network {
			errs = append(errs, p.detachUnreadable(ctx, &PodNetwork{ID: id}, b))
		}
	}
	return errors.Join(errs...)
}

// gcNetworks sends GC to the plugins of every network that knows it.
func (p *Plugin) gcNetworks(ctx context.Context, stale staleRecords) error {
	networks := p.snap.Load().networks
	errs := make([]error, len(networks))
	var group errgroup.Group
	group.SetLimit(gcNetworks)
	for i, net := range networks {
		if net.disableGC || !net.sinceVersion("1.1.0") {
			continue
		}
		group.Go(func() error {
			errs[i] = p.gcNetwork(ctx, net, stale)
			return nil
		})
	}
	_ = group.Wait() // every error is in errs
	return errors.Join(errs...)
}

func (p *Plugin) gcNetwork(ctx context.Context, net *network, stale staleRecords) error {
	release, err := p.gates.exclude(ctx, net.name, gcPatience)
	if err != nil {
		return fmt.Errorf("collect garbage of network %q: %w", net.name, err)
	}
	defer release()
	// Listed only now: with the network idle, every attachment that counts is
	// recorded.
	recs, bad, err := p.records.all(ctx)
	if err != nil {
		return err
	}
	for _, b := range bad {
		if strings.HasPrefix(filepath.Base(b.Path), net.name+"-") {
			return fmt.Errorf("network %q gets no GC: its attachments cannot all be told: %w", net.name, b)
		}
	}
	attachments := []types.GCAttachment{}
	for _, rec := range recs {
		if rec.Network == net.name && !stale.has(rec) {
			attachments = append(attachments, types.GCAttachment{ContainerID: rec.ContainerID, IfName: rec.IfName})
		}
	}
	list, err := json.Marshal(attachments)
	if err != nil {
		return err
	}
	extra := map[string]json.RawMessage{
		"cni.dev/valid-attachments": list,
		"cni.dev/attachments":       list, // what the specification called it at first, and libcni sends too
	}
	env := p.run.environ(verbGC, "", "", "", "")
	errs := make([]error, len(net.plugins))
	for i := range net.plugins {
		c := &net.plugins[i]
		stdin := c.stdin(nil, nil, extra)
		errs[i] = p.retry(ctx, func(int) error {
			_, _, err := p.runPlugin(ctx, verbGC, net, c, nil, env, stdin)
			return err
		})
	}
	return errors.Join(errs...)
}
