package podcni

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ofSandbox gives the records of a sandbox in the order of attachment. bad are
// the files that are no records but whose names fit this sandbox, with the
// parts that the names have for it. An error is one of the file system, and says
// that there may be more than is answered; it comes beside what could be read.
// It costs as much as the sandbox has records, however many others there are,
// unless somebody else has changed the directory since the last call.
func (s *recordStore) ofSandbox(id string) (recs []*record, bad []*RecordError, err error) {
	s.mu.Lock()
	err = s.refreshLocked()
	names := s.index.of(id)
	s.mu.Unlock()
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	for _, name := range names {
		rec, unreadable, err := s.read(name)
		switch {
		case err != nil:
			errs = append(errs, err)
		case unreadable != nil:
			if own, fits, certain := ownSplit(name, id); fits {
				unreadable.network, unreadable.id, unreadable.ifName = own.network, own.id, own.ifName
				unreadable.certain = certain
				bad = append(bad, unreadable)
			}
		case rec != nil && rec.ContainerID == id:
			recs = append(recs, rec)
		}
	}
	inOrder(recs)
	sortBad(bad)
	return recs, bad, joinSome(errs)
}

func sortBad(bad []*RecordError) {
	slices.SortFunc(bad, func(a, b *RecordError) int { return strings.Compare(a.Path, b.Path) })
}

// each calls yield with every record, and every file that is none, one at a
// time and in no order that matters. It keeps nothing in memory. The error is
// the file system's, or the context's.
func (s *recordStore) each(ctx context.Context, yield func(*record, *RecordError)) error {
	s.mu.Lock()
	err := s.refreshLocked()
	names := s.index.all()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if ctx.Err() != nil {
			return errors.Join(joinSome(errs), context.Cause(ctx))
		}
		rec, bad, err := s.read(name)
		switch {
		case err != nil:
			errs = append(errs, err)
		case bad != nil:
			bad.guess(name)
			yield(nil, bad)
		case rec != nil:
			yield(rec, nil)
		}
	}
	return joinSome(errs)
}

// guess fills in the parts of a name that can be read in one way only.
func (e *RecordError) guess(name string) {
	if splits := splitName(name, 2); len(splits) == 1 {
		e.network, e.id, e.ifName, e.certain = splits[0].network, splits[0].id, splits[0].ifName, true
	}
}

// all gives every record, by sandbox and in the order of attachment, and every
// file that is none. With an error, there may be more.
func (s *recordStore) all(ctx context.Context) (recs []*record, bad []*RecordError, err error) {
	err = s.each(ctx, func(rec *record, unreadable *RecordError) {
		if unreadable != nil {
			bad = append(bad, unreadable)
		} else {
			recs = append(recs, rec)
		}
	})
	inOrder(recs)
	return recs, bad, err
}

// setAside moves a file that is no record to a place of its own, where it is
// kept until Forget or a person removes it, and logs it. A file that is gone, or
// that is a record by now, is left alone. Until then every ofSandbox finds it
// again: set it aside when its DEL has succeeded, or cannot be had.
func (s *recordStore) setAside(bad *RecordError) error {
	name := filepath.Base(bad.Path)
	if _, still, err := s.read(name); err != nil || still == nil {
		return err
	}
	dir := s.badDir()
	if err := s.mkdir(dir); err != nil {
		return &RecordError{Path: dir, Err: err}
	}
	var to string
	err := s.change(func() error {
		for n := 1; ; n++ {
			suffix := "." + strconv.Itoa(n)
			to = filepath.Join(dir, name[:min(len(name), longestName-len(suffix))]+suffix)
			if _, err := os.Lstat(to); err == nil {
				continue
			}
			if err := os.Rename(bad.Path, to); err != nil {
				return err
			}
			s.index.remove(name)
			return nil
		}
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &RecordError{Path: bad.Path, Err: err}
	}
	s.log.Warn("unreadable record set aside", "path", bad.Path, "to", to, "error", bad.Err)
	return nil
}

func (s *recordStore) badDir() string { return filepath.Join(s.extras, "bad") }

// asideFile is a file that was set aside.
type asideFile struct{ path, name string } // name is the one that it had

// aside lists the files that were set aside, by name.
func (s *recordStore) aside() ([]asideFile, error) {
	dir := s.badDir()
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, &RecordError{Path: dir, Err: err}
	}
	files := make([]asideFile, 0, len(entries))
	for _, entry := range entries {
		name := entry.Name()
		if i := strings.LastIndexByte(name, '.'); i > 0 {
			name = name[:i]
		}
		files = append(files, asideFile{filepath.Join(dir, entry.Name()), name})
	}
	return files, nil
}

// forget removes every record of a sandbox without any DEL, and the files that
// are no records, or that cannot be read, but whose names can hardly be those of
// another sandbox's; also those that were set aside. It says how many it
// removed, and goes on past what it cannot.
func (s *recordStore) forget(id string) (removed int, err error) {
	s.mu.Lock()
	err = s.refreshLocked()
	names := s.index.of(id)
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	var errs []error
	did := func(err error) {
		if err != nil {
			errs = append(errs, err)
		} else {
			removed++
		}
	}
	for _, name := range names {
		rec, bad, err := s.read(name)
		switch {
		case rec != nil && rec.ContainerID == id:
			did(s.drop(name))
		case rec != nil || bad == nil && err == nil: // another's, or gone
		default:
			if _, _, certain := ownSplit(name, id); certain {
				did(s.drop(name))
			} else if err != nil {
				errs = append(errs, err)
			}
		}
	}
	files, err := s.aside()
	if err != nil {
		errs = append(errs, err)
	}
	for _, f := range files {
		if _, _, certain := ownSplit(f.name, id); certain {
			did(os.RemoveAll(f.path))
		}
	}
	return removed, joinSome(errs)
}
