package podcni

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/spec"
)

// AttachmentState says how far an attachment has come.
type AttachmentState string

const (
	// AttachmentAttaching means that a set-up is under way, or was cut short by
	// the death of its process. Plugins may have run. TearDownPod detaches it.
	AttachmentAttaching AttachmentState = "attaching"
	// AttachmentAttached means that ADD succeeded.
	AttachmentAttached AttachmentState = "attached"
	// AttachmentDetaching means that a DEL is under way, was cut short, or failed,
	// or that the set-up failed and could not be undone. TearDownPod tries again.
	AttachmentDetaching AttachmentState = "detaching"
	// AttachmentUnreadable means that there is a file that cannot be read as a
	// record.
	AttachmentUnreadable AttachmentState = "unreadable"
)

// Attachment is what is recorded about one interface of one sandbox.
type Attachment struct {
	// ContainerID, Network and IfName are the sandbox, the network and the
	// interface. Of an unreadable record, at most ContainerID is known.
	ContainerID, Network, IfName string
	// NetNS is the path of the network namespace at the time of the set-up.
	NetNS string
	// State says how far the attachment has come.
	State AttachmentState
	// Since is when the set-up began. It is zero for those of other runtimes.
	Since time.Time
	// Owner is the runtime that attached it, as [WithOwner] names it. It is empty
	// without that option, and for other runtimes.
	Owner string
	// PodNamespace, PodName and PodUID are the pod's, as far as the caller gave
	// them. They are empty for other runtimes.
	PodNamespace, PodName, PodUID string
	// Path is the file that records it: the sandbox's journal, or libcni's result
	// for other runtimes.
	Path string
	// Err is the reason why the record is unreadable, a *RecordError.
	Err error
}

// Attachments lists all records in the cache directory, also those of other
// software. They are sorted by sandbox, then by order of attachment. Unreadable files
// come last, with those that were set aside. It runs no plugin. It takes no lock, so
// an operation may be unfinished. It reads two files for each pod: ten thousand pods
// take some tenths of a second.
//
// On an error, the file system's or the context's, the list holds what could be
// read.
func (c *CNI) Attachments(ctx context.Context) ([]Attachment, error) {
	if err := c.closed(); err != nil {
		return nil, err
	}
	all, bad, err := c.allRecords(ctx)
	var list []Attachment
	for _, s := range all {
		for i, a := range s.attachments {
			item := Attachment{
				ContainerID: s.id, Network: a.Network, IfName: a.IfName, NetNS: a.NetNS,
				State: AttachmentAttached, Since: a.Since, Path: s.path,
			}
			switch {
			case a.Detaching:
				item.State = AttachmentDetaching
			case !s.whole[i]:
				item.State = AttachmentAttaching
			}
			if j := s.journal; j != nil {
				item.Owner = j.Owner
				item.PodNamespace, item.PodName, item.PodUID = j.Pod.Namespace, j.Pod.Name, j.Pod.UID
			}
			list = append(list, item)
		}
	}
	aside, asideErr := c.journal.Aside()
	for _, path := range aside {
		bad = append(bad, &RecordError{Path: path, Err: errSetAside})
	}
	for _, b := range bad {
		item := Attachment{State: AttachmentUnreadable, Path: b.Path, Err: b}
		if name := filepath.Base(b.Path); filepath.Dir(b.Path) != c.journal.ResultsDir() && spec.CheckContainerID(name) == nil {
			item.ContainerID = name
		}
		list = append(list, item)
	}
	return list, errors.Join(err, recordError(asideErr))
}

var errSetAside = errors.New("it was set aside")

// Forget removes the records of a sandbox without a DEL, also those that were set
// aside. podcni then knows nothing
// of it any more. It is the last resort for a sandbox that cannot be torn down, for
// example because a plugin is gone for good. What its plugins hold, such as
// addresses, stays held. It blocks, under ctx, until other operations on the
// sandbox are done.
//
// A sandbox without records is fine. The error is a *FieldError for an ID that
// cannot be one, wraps ErrBusy when another process is at work on the sandbox until
// ctx ends, and is a *RecordError when a file cannot be removed.
func (c *CNI) Forget(ctx context.Context, containerID string) error {
	if err := c.closed(); err != nil {
		return err
	}
	if err := spec.CheckContainerID(containerID); err != nil {
		return invalidField(ErrInvalidPod, "ID", containerID, err)
	}
	lock, err := c.locks.Sandbox(ctx, containerID, false)
	if err != nil {
		return err
	}
	defer lock.Release()
	var paths []string
	j, err := c.journal.Read(containerID)
	if err != nil && !errors.Is(err, journal.ErrUnreadable) {
		return recordError(err)
	}
	found := j != nil || err != nil
	if j != nil {
		for _, a := range j.Attachments {
			paths = append(paths, c.journal.ResultPath(a.Network, containerID, a.IfName))
		}
	}
	results, _, err := c.journal.Results(ctx, containerID)
	errs := []error{recordError(err)}
	for _, r := range results {
		paths = append(paths, r.Path)
	}
	for _, path := range paths {
		errs = append(errs, recordError(c.journal.RemoveResult(path)))
	}
	errs = append(errs, recordError(c.journal.Remove(containerID)), recordError(c.journal.RemoveAside(containerID)))
	if found || len(paths) > 0 {
		c.opts.log.Warn("records removed without DEL", "sandbox", containerID)
	}
	return errors.Join(errs...)
}

// sandboxRecords is what is recorded of a sandbox.
type sandboxRecords struct {
	id, path    string
	journal     *journal.Journal // nil for what another runtime attached
	attachments []journal.Attachment
	whole       []bool // whether libcni has a result of each
	// doubtful says that there is a journal of the sandbox which cannot be read.
	doubtful bool
}

// allRecords reads every journal, and those results of libcni that no journal
// knows. What cannot be read is in bad. With an error, the rest is what could be
// read.
func (c *CNI) allRecords(ctx context.Context) (all []*sandboxRecords, bad []*RecordError, err error) {
	// A journal is there before its results: those that are found first have theirs.
	names, namesErr := c.journal.ResultNames()
	ids, err := c.journal.List()
	errs := []error{recordError(err), recordError(namesErr)}
	unknown := make(map[string]bool, len(names))
	for _, name := range names {
		unknown[name] = true
	}
	note := func(err error) {
		if unreadable := (*journal.Error)(nil); errors.As(err, &unreadable) {
			bad = append(bad, &RecordError{Path: unreadable.Path, Err: unreadable.Err})
		}
	}
	doubtful := make(map[string]bool)
	for _, id := range ids {
		if ctx.Err() != nil {
			return all, bad, context.Cause(ctx)
		}
		j, err := c.journal.Read(id)
		if note(err); j == nil {
			doubtful[id] = err != nil
			continue
		}
		s := &sandboxRecords{id: id, path: c.journal.Path(id), journal: j, attachments: j.Attachments, whole: make([]bool, len(j.Attachments))}
		for i, a := range j.Attachments {
			name := filepath.Base(c.journal.ResultPath(a.Network, id, a.IfName))
			if !unknown[name] {
				continue
			}
			kept, err := c.journal.Result(a.Network, id, a.IfName)
			s.whole[i] = err == nil && kept != nil
			if !errors.Is(err, ErrNameTaken) { // then it is another's
				delete(unknown, name)
			}
		}
		all = append(all, s)
	}
	for _, name := range names {
		if !unknown[name] {
			continue
		}
		if ctx.Err() != nil {
			return all, bad, context.Cause(ctx)
		}
		r, err := c.journal.ReadResult(name)
		note(err)
		if r != nil {
			all = append(all, &sandboxRecords{
				id: r.ContainerID, path: r.Path, doubtful: doubtful[r.ContainerID],
				attachments: []journal.Attachment{foreignRecord(r)}, whole: []bool{true},
			})
		}
	}
	slices.SortStableFunc(all, func(a, b *sandboxRecords) int { return strings.Compare(a.id, b.id) })
	return all, bad, errors.Join(errs...)
}
