package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podcni/podcni/internal/proc"
	"github.com/podcni/podcni/internal/spec"
)

// Store finds journals and results in a cache directory. It holds nothing open,
// and creates the directory with the first journal. It is safe for concurrent
// use as far as the package's documentation says.
type Store struct {
	journals, results string
	fsync             bool
}

const (
	newPrefix = "~"
	asideDir  = ".unreadable"

	// maxSize bounds what is read of a file, in bytes. A result can have 4 MiB.
	maxSize = 32 << 20
	// compactAt is the size at which a journal is written anew instead of
	// appended to: a sandbox may be attached and detached for years.
	compactAt = 256 << 10
	// attempts bounds how often a directory is made again that somebody removes,
	// and how often a file is read again that is being changed.
	attempts = 4
)

// Open makes a Store. It touches nothing. With fsync, journals also survive a
// loss of power.
func Open(cacheDir string, fsync bool) *Store {
	return &Store{
		journals: filepath.Join(cacheDir, "podcni"),
		results:  filepath.Join(cacheDir, "results"),
		fsync:    fsync,
	}
}

// Dir is where the journals are.
func (s *Store) Dir() string { return s.journals }

// ResultsDir is where libcni's results are.
func (s *Store) ResultsDir() string { return s.results }

// ResultPath is where libcni keeps the result of an attachment.
func (s *Store) ResultPath(network, containerID, ifName string) string {
	return filepath.Join(s.results, network+"-"+containerID+"-"+ifName)
}

// Path is where the journal of a sandbox is.
func (s *Store) Path(id string) string { return filepath.Join(s.journals, id) }

// Read reads the journal of a sandbox; nil when there is none. The error is an
// *Error, which wraps ErrUnreadable when the file is there and is no journal.
func (s *Store) Read(id string) (*Journal, error) {
	if err := spec.CheckContainerID(id); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		data, err := readFile(s.Path(id))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, &Error{Path: s.Path(id), Err: err}
		}
		j, err := decode(id, data)
		if err == nil && !j.Torn {
			return j, nil
		}
		// Who reads without the sandbox's lock may have met half of a line.
		if try < attempts {
			continue
		}
		if err != nil {
			return nil, &Error{Path: s.Path(id), Err: fmt.Errorf("%w: %w", ErrUnreadable, err)}
		}
		return j, nil
	}
}

// Attach adds attachments to a sandbox's journal and writes them down before it
// returns. Of a journal that is not on disk yet, all is written.
func (s *Store) Attach(j *Journal, writer proc.ID, attachments []Attachment) error {
	l := &line{Writer: writer, Attach: attachments}
	var err error
	if len(j.Attachments) == 0 {
		err = s.rewrite(j, l)
	} else {
		err = s.append(j, l)
	}
	if err == nil {
		j.apply(l)
	}
	return err
}

// Detaching writes down that the attachments are being detached by writer.
func (s *Store) Detaching(j *Journal, writer proc.ID, keys []Key) error {
	l := &line{Writer: writer, Detaching: keys}
	j.apply(l)
	return s.append(j, l)
}

// Detached drops attachments, and the journal with the last one.
func (s *Store) Detached(j *Journal, keys []Key) error {
	l := &line{Detached: keys}
	j.apply(l)
	if len(j.Attachments) == 0 {
		return s.Remove(j.ContainerID)
	}
	return s.append(j, l)
}

// Remove removes a sandbox's journal. That there is none is fine.
func (s *Store) Remove(id string) error { return remove(s.Path(id)) }

// RemoveAside removes what was set aside of a sandbox. That there is none is fine.
func (s *Store) RemoveAside(id string) error {
	return remove(filepath.Join(s.journals, asideDir, id))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil {
		// A read-only file system says so before it looks for the file.
		if _, gone := os.Lstat(path); !errors.Is(gone, fs.ErrNotExist) {
			return &Error{Path: path, Err: err}
		}
	}
	return nil
}

// SetAside moves an unreadable journal out of the way, where Aside lists it.
func (s *Store) SetAside(id string) error {
	dir := filepath.Join(s.journals, asideDir)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.Rename(s.Path(id), filepath.Join(dir, id))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &Error{Path: s.Path(id), Err: err}
	}
	return nil
}

// List lists the sandboxes that have a journal, sorted. A directory that is missing has
// none.
func (s *Store) List() ([]string, error) {
	names, err := readNames(s.journals)
	if err != nil {
		return nil, err
	}
	ids := slices.DeleteFunc(names, func(name string) bool { return spec.CheckContainerID(name) != nil })
	slices.Sort(ids)
	return ids, nil
}

// Aside lists the paths of journals that were set aside.
func (s *Store) Aside() ([]string, error) {
	names, err := readNames(filepath.Join(s.journals, asideDir))
	for i, name := range names {
		names[i] = filepath.Join(s.journals, asideDir, name)
	}
	return names, err
}

// abandoned is how old a journal must be that is being written, to be one whose
// writer has died.
const abandoned = time.Minute

// Sweep removes what runtimes that died left half written a minute ago or more:
// nobody takes that long.
func (s *Store) Sweep(ctx context.Context) error {
	names, err := readNames(s.journals)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, newPrefix) || ctx.Err() != nil {
			continue
		}
		path := filepath.Join(s.journals, name)
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(path) // the next one will
		}
	}
	return ctx.Err()
}

// append adds a line to the journal on disk.
func (s *Store) append(j *Journal, l *line) (err error) {
	path := s.Path(j.ContainerID)
	defer func() {
		if err != nil {
			err = &Error{Path: path, Err: err}
		}
	}()
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|noFollow, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return s.rewrite(j, l) // somebody has removed it, or the directory
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size()+int64(len(data)) > compactAt {
		return s.rewrite(j, l)
	}
	// The line break comes first, so that a line that was cut off cannot spoil
	// this one.
	if _, err := f.Write(append([]byte("\n"), data...)); err != nil {
		return errors.Join(err, f.Truncate(info.Size()))
	}
	if s.fsync && len(l.Attach) > 0 {
		return f.Sync()
	}
	return nil
}

// rewrite writes the journal anew with the line applied.
func (s *Store) rewrite(j *Journal, l *line) error {
	now := *j
	now.Attachments = append([]Attachment(nil), j.Attachments...)
	now.apply(l)
	return s.replace(&now)
}

// replace writes the whole journal to a new file and moves it to its place.
func (s *Store) replace(j *Journal) error {
	path := s.Path(j.ContainerID)
	data, err := json.Marshal(j.first())
	if err != nil {
		return &Error{Path: path, Err: err}
	}
	for range attempts {
		if err = s.replaceOnce(path, j.ContainerID, data); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		// It is the first journal, or somebody has removed the directory.
		if mkErr := s.mkdir(); mkErr != nil {
			return &Error{Path: path, Err: mkErr}
		}
	}
	if err != nil {
		return &Error{Path: path, Err: err}
	}
	return nil
}

func (s *Store) replaceOnce(path, id string, data []byte) error {
	temp := filepath.Join(s.journals, newPrefix+id)
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(temp, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		// A runtime that died left it; the lock is ours.
		if err := os.Remove(temp); err != nil {
			return err
		}
		f, err = os.OpenFile(temp, flags, 0o600)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && s.fsync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if s.fsync {
		return syncDir(s.journals)
	}
	return nil
}

func (s *Store) mkdir() error {
	if err := os.MkdirAll(s.journals, 0o700); err != nil {
		return err
	}
	if !s.fsync {
		return nil
	}
	cache := filepath.Dir(s.journals)
	return errors.Join(syncDir(cache), syncDir(filepath.Dir(cache)))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

var (
	errIrregular = errors.New("it is not a regular file")
	errSize      = fmt.Errorf("it is larger than %d bytes", maxSize)
)

// readFile reads a regular file. Another kind of file at its place is neither
// followed nor waited for.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			if info, statErr := os.Lstat(path); statErr == nil && !info.Mode().IsRegular() {
				err = fmt.Errorf("%w: %w", ErrUnreadable, errIrregular)
			}
		}
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, errIrregular)
	case info.Size() > maxSize:
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, errSize)
	}
	data := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = data.ReadFrom(io.LimitReader(f, maxSize))
	return data.Bytes(), err
}

// readNames lists a directory, in no order. One that is missing is empty.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Path: dir, Err: err}
	}
	names, err := f.Readdirnames(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return names, &Error{Path: dir, Err: err}
	}
	return names, nil
}
