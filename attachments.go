package podcni

import (
	"context"
	"errors"
	"time"
)

// AttachmentState says how far an attachment has come.
type AttachmentState string

const (
	// AttachmentAttaching says that plugins may have run, and that it is not
	// known how far they came: a set-up is under way, was cut short by the death
	// of its process, or failed and could not be undone. TearDownPod detaches it.
	AttachmentAttaching AttachmentState = "attaching"
	// AttachmentAttached says that the set-up succeeded.
	AttachmentAttached AttachmentState = "attached"
	// AttachmentUnreadable says that there is a file which cannot be read as the
	// record of an attachment.
	AttachmentUnreadable AttachmentState = "unreadable"
)

// Attachment is what is recorded about one interface of one sandbox.
type Attachment struct {
	// ContainerID, Network and IfName are the sandbox, the network and the
	// interface. Of an unreadable record they are what the file's name tells,
	// and empty where that can be read in more than one way.
	ContainerID, Network, IfName string
	// NetNS is the path of the network namespace at the time of the set-up.
	NetNS string
	// State says how far the attachment has come.
	State AttachmentState
	// Since is when the set-up began; zero in the records of other runtimes.
	Since time.Time
	// Owner is the runtime that attached it, as [WithOwner] names it; empty
	// without that option and in the records of other runtimes.
	Owner string
	// PodNamespace, PodName and PodUID are the pod's, as far as the caller gave
	// them; empty in the records of other runtimes.
	PodNamespace, PodName, PodUID string
	// Path is the record's file.
	Path string
	// Err says why an unreadable record is one: a *RecordError that wraps
	// [ErrBadRecord], or the file system's error. nil for all others.
	Err error
}

// Attachments lists every record in the cache directory, whoever wrote it, by
// sandbox and in the order of attachment, and then the files that cannot be read
// as records, also those that were set aside. It runs no plugin, takes no lock
// of a sandbox, and reads every record: with ten thousand of them it takes some
// tenths of a second. It may be called at the same time as anything else, and
// then answers what it met.
//
// With an error, which is the file system's or the context's, the list holds what
// could be read.
func (p *Plugin) Attachments(ctx context.Context) ([]Attachment, error) {
	end, err := p.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	return p.records.attachments(ctx)
}

// Forget removes the records of a sandbox without a DEL, so that podcni knows
// nothing of it any more: the last resort for one that cannot be torn down, for
// example because a plugin is gone for good. Whatever its plugins hold, such as
// addresses, they keep. Unreadable records go as well where their names can
// hardly be those of another sandbox; the rest is listed by [Plugin.Attachments]
// with its path. It waits, under ctx, for other operations on the sandbox.
//
// A sandbox without records is fine. The error is a *FieldError for an ID that
// cannot be one, wraps ErrBusy when another process is at work on the sandbox for
// as long as ctx lasts, and is a *RecordError when a file cannot be removed.
func (p *Plugin) Forget(ctx context.Context, sandboxID string) error {
	end, err := p.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := checkContainerID(sandboxID); err != nil {
		return invalidField(ErrInvalidPod, "ID", sandboxID, err)
	}
	unlock, err := p.lockSandbox(ctx, sandboxID, false)
	if err != nil {
		return err
	}
	defer unlock()
	removed, err := p.records.forget(sandboxID)
	if removed > 0 {
		p.opts.log.Warn("records removed without DEL", "sandbox", sandboxID, "records", removed)
	}
	return err
}

// attachments lists what is in the store: see Plugin.Attachments.
func (s *recordStore) attachments(ctx context.Context) ([]Attachment, error) {
	var recs []*record
	var bad []*RecordError
	err := s.each(ctx, func(rec *record, unreadable *RecordError) {
		if unreadable != nil {
			bad = append(bad, unreadable)
			return
		}
		// What is large is not asked for.
		rec.Config, rec.Result, rec.CapabilityArgs = nil, nil, nil
		recs = append(recs, rec)
	})
	inOrder(recs)
	aside, asideErr := s.aside()
	for _, f := range aside {
		unreadable := badRecord(f.path, errSetAside)
		unreadable.guess(f.name)
		bad = append(bad, unreadable)
	}
	list := make([]Attachment, 0, len(recs)+len(bad))
	for _, rec := range recs {
		list = append(list, Attachment{
			ContainerID: rec.ContainerID, Network: rec.Network, IfName: rec.IfName, NetNS: rec.NetNS,
			State: AttachmentState(rec.State), Since: rec.Since, Owner: rec.Owner,
			PodNamespace: rec.Pod.Namespace, PodName: rec.Pod.Name, PodUID: rec.Pod.UID,
			Path: s.path(rec.fileName()),
		})
	}
	for _, e := range bad {
		list = append(list, Attachment{
			ContainerID: e.id, Network: e.network, IfName: e.ifName,
			State: AttachmentUnreadable, Path: e.Path, Err: e,
		})
	}
	return list, errors.Join(err, asideErr)
}

var errSetAside = errors.New("it was set aside")
