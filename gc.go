package podcni

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/errgroup"

	"github.com/podcni/podcni/internal/confdir"
	"github.com/podcni/podcni/internal/journal"
)

const (
	gcSandboxes = 8                // detached at a time
	gcNetworks  = 4                // sent GC at a time
	gcSandbox   = 10 * time.Second // that GC waits for a sandbox
)

// GC detaches what is recorded of sandboxes that are not among validPods, and then
// sends GC to the plugins of every network of version 1.1.0 and later
// (specification, section 2, "GC"). It is no substitute for TearDownPod.
//
// With [WithOwner], GC detaches what this owner attached, on any network. Without
// an owner, GC detaches, on networks that are loaded:
//   - attachments without an owner, unless another process that recorded them still
//     runs;
//   - attachments of other software, only if a CRI runtime made them: their
//     K8S_POD_INFRA_CONTAINER_ID in CNI_ARGS is the sandbox's ID.
//
// GC does not touch networks with disableGC, unreadable records, and sandboxes that
// were in use when GC was called. It logs each attachment that it detaches.
//
// The plugins get all attachments that are recorded, also those of other software,
// and those of validPods. While they run GC, no ADD and no DEL runs on their
// network. GC waits for that, and holds others back for two seconds at a time.
//
// validPods is only read. A nil element is skipped. An empty list means that no
// sandbox is valid. GC tries everything. The error joins what failed: *PodError for a
// sandbox, *PluginError, ErrBusy when a sandbox or a network was still in use at the
// end of ctx, ErrInvalidPod for an ID that cannot be one.
func (c *CNI) GC(ctx context.Context, validPods []*PodNetwork) error {
	if err := c.closed(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	busy := c.locks.Busy() // first of all: what comes to its end from here on is too young
	g := &collection{cni: c, valid: make(map[string]*PodNetwork, len(validPods)), busy: busy, stale: map[string][]journal.Attachment{}}
	for _, pod := range validPods {
		if pod == nil {
			continue
		}
		if err := checkPod(pod, false); err != nil {
			return podError("keep", pod, err)
		}
		g.valid[pod.ID] = pod
	}
	err := g.find(ctx)
	errs := []error{err, g.collect(ctx), g.gcNetworks(ctx)}
	errs = append(errs, recordError(c.journal.Sweep(ctx)))
	return errors.Join(errs...)
}

// collection is one GC.
type collection struct {
	cni   *CNI
	valid map[string]*PodNetwork
	busy  map[string]bool
	// stale is what is to be detached, by sandbox.
	stale map[string][]journal.Attachment
}

// find lists what is stale.
func (g *collection) find(ctx context.Context) error {
	c := g.cni
	all, bad, err := c.allRecords(ctx)
	for _, b := range bad {
		c.opts.log.Warn("a record cannot be read: GC leaves it alone", "err", b)
	}
	for _, s := range all {
		if g.valid[s.id] != nil || g.busy[s.id] {
			continue
		}
		var keys []journal.Attachment
		for _, a := range s.attachments {
			if g.garbage(s, a) {
				keys = append(keys, a)
			}
		}
		if len(keys) == 0 {
			continue
		}
		// A sandbox that another process is at work on is left alone.
		lock, lockErr := c.locks.TrySandbox(s.id)
		if lock == nil {
			err = errors.Join(err, lockErr)
			continue
		}
		lock.Release()
		g.stale[s.id] = append(g.stale[s.id], keys...)
	}
	return err
}

// garbage reports whether GC may detach an attachment of a sandbox that is not
// valid.
func (g *collection) garbage(s *sandboxRecords, a journal.Attachment) bool {
	c := g.cni
	loaded := c.networks.Current().Network(a.Network)
	switch {
	case s.doubtful, loaded != nil && loaded.List.DisableGC:
		return false
	case s.journal == nil: // of another runtime
		return c.opts.owner == "" && loaded != nil && madeByCRI(s.id, a.Args)
	case s.journal.Owner != c.opts.owner:
		return false
	case c.opts.owner == "" && (loaded == nil || s.journal.Writer != c.self && s.journal.Writer.Alive()):
		return false
	case loaded != nil:
		return true
	}
	list, err := confdir.ParseRecorded(a.Network, a.Config)
	return err != nil || !list.DisableGC
}

// madeByCRI reports whether a CRI runtime made the attachment: it says so in
// CNI_ARGS. Others share libcni's directory, such as podman.
func madeByCRI(id string, args [][2]string) bool {
	return slices.Contains(args, [2]string{"K8S_POD_INFRA_CONTAINER_ID", id})
}

// collect detaches what is stale, several sandboxes at a time.
func (g *collection) collect(ctx context.Context) error {
	ids := sortedKeys(g.stale)
	errs := make([]error, len(ids))
	var group errgroup.Group
	group.SetLimit(gcSandboxes)
	for i, id := range ids {
		group.Go(func() error {
			errs[i] = podError("collect", &PodNetwork{ID: id}, g.collectSandbox(ctx, id))
			return nil
		})
	}
	_ = group.Wait() // every error is in errs
	return errors.Join(errs...)
}

// isStale reports whether the attachment is one that find found: the same one,
// not a later one of the same name.
func (g *collection) isStale(id string, a journal.Attachment) bool {
	return slices.ContainsFunc(g.stale[id], func(s journal.Attachment) bool {
		return s.Key == a.Key && s.Since.Equal(a.Since)
	})
}

func (g *collection) collectSandbox(ctx context.Context, id string) error {
	c := g.cni
	waiting, cancel := context.WithTimeout(ctx, gcSandbox)
	defer cancel()
	lock, err := c.locks.Sandbox(waiting, id, false)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	defer lock.Release()
	j, err := c.journal.Read(id)
	if err != nil {
		return recordError(err)
	}
	turn := func(int) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
	list, errs := g.staleOf(ctx, j, id)
	defer func() { closeAll(list) }()
	for _, a := range list {
		c.opts.log.Info("GC detaches a sandbox that is not valid", "sandbox", id, "network", a.Network, "interface", a.IfName)
	}
	if j == nil {
		j = &journal.Journal{ContainerID: id, Owner: c.opts.owner}
		errs = append(errs, c.adopt(j, list))
	}
	orphans := c.endOrphans(ctx, j)
	return errors.Join(append(errs, orphans, c.detach(turn, lock, j, list, orphans != nil))...)
}

// staleOf makes those attachments of a sandbox ready that were found to be stale,
// and still are there.
func (g *collection) staleOf(ctx context.Context, j *journal.Journal, id string) (list []*attachment, errs []error) {
	c := g.cni
	take := func(a *attachment, err error) {
		if err == nil {
			list = append(list, a)
		} else {
			errs = append(errs, err)
		}
	}
	if j != nil {
		for _, rec := range j.Attachments {
			if g.isStale(id, rec) {
				take(c.recorded(ctx, id, rec))
			}
		}
		return list, errs
	}
	for _, key := range g.stale[id] {
		kept, err := c.journal.Result(key.Network, id, key.IfName)
		switch {
		case err != nil:
			errs = append(errs, recordError(err))
		case kept != nil:
			take(c.foreign(ctx, kept))
		}
	}
	return list, errs
}

// gcNetworks sends GC to the plugins of every network that knows it.
func (g *collection) gcNetworks(ctx context.Context) error {
	networks := g.cni.networks.Current().Networks
	errs := make([]error, len(networks))
	var group errgroup.Group
	group.SetLimit(gcNetworks)
	for i, n := range networks {
		if n.List.DisableGC || !since(n.List, "1.1.0") {
			continue
		}
		group.Go(func() error {
			errs[i] = g.gcNetwork(ctx, n)
			return nil
		})
	}
	_ = group.Wait() // every error is in errs
	return errors.Join(errs...)
}

func (g *collection) gcNetwork(ctx context.Context, n *confdir.Network) error {
	c := g.cni
	release, err := c.locks.Network(ctx, n.List.Name)
	if err != nil {
		return fmt.Errorf("GC of network %q: %w", n.List.Name, err)
	}
	defer release()
	valid, err := g.validOn(ctx, n)
	if err != nil {
		return fmt.Errorf("network %q gets no GC, because not all of its attachments are known: %w", n.List.Name, err)
	}
	return c.gcPlugins(ctx, n.List, valid)
}

// validOn lists the attachments of a network that the plugins must keep. The
// caller has the network for itself, so that each one is recorded.
func (g *collection) validOn(ctx context.Context, n *confdir.Network) ([]types.GCAttachment, error) {
	c, name := g.cni, n.List.Name
	valid := []types.GCAttachment{}
	seen := make(map[types.GCAttachment]bool)
	add := func(id, ifName string) {
		a := types.GCAttachment{ContainerID: id, IfName: ifName}
		if !seen[a] {
			seen[a], valid = true, append(valid, a)
		}
	}
	all, bad, err := c.allRecords(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range bad {
		if filepath.Dir(b.Path) == c.journal.ResultsDir() && strings.HasPrefix(filepath.Base(b.Path), name+"-") {
			return nil, b
		}
	}
	for _, s := range all {
		for _, a := range s.attachments {
			if a.Network == name && !g.isStale(s.id, a) {
				add(s.id, a.IfName)
			}
		}
	}
	for _, id := range sortedKeys(g.valid) {
		pod := g.valid[id]
		wanted := pod.Networks
		if def := c.networks.Current().Default; len(wanted) == 0 && def != nil {
			wanted = []NetAttachment{{Name: def.List.Name}}
		}
		names, err := ifNames(c.opts.ifPrefix, wanted, nil)
		if err != nil {
			return nil, err
		}
		for i, want := range wanted {
			if want.Name == name {
				add(id, names[i])
			}
		}
	}
	return valid, nil
}
