package podcni

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// largestRecord bounds what is read and written as one record, in bytes.
const largestRecord = 16 << 20

// readRecord reads one record. All three are nil when there is no such file.
// bad is about a file that is no record, and wraps ErrBadRecord; err is about
// one that could not be read, which says nothing about what it is.
func readRecord(dir, name string) (rec *record, bad *RecordError, err error) {
	path := filepath.Join(dir, name)
	data, regular, err := readRegular(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, nil
	case err != nil:
		return nil, nil, &RecordError{Path: path, Err: err}
	case !regular:
		return nil, badRecord(path, errNoRegular), nil
	case len(data) > largestRecord:
		return nil, badRecord(path, errRecordSize), nil
	}
	rec, err = decodeRecord(name, data)
	if err != nil {
		return nil, badRecord(path, err), nil
	}
	return rec, nil, nil
}

func badRecord(path string, err error) *RecordError {
	return &RecordError{Path: path, Err: fmt.Errorf("%w: %w", ErrBadRecord, err)}
}

// readRegular reads a file of at most largestRecord bytes, and one byte more of
// a larger one. It opens nothing that is not a regular file: opening a device
// may have effects, and opening a FIFO may wait.
func readRegular(path string) (data []byte, regular bool, err error) {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil, false, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, err
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, false, err
	}
	size := min(info.Size(), largestRecord) + 1
	data = make([]byte, size)
	n, err := io.ReadFull(file, data)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = nil
	case err == nil && size <= largestRecord:
		// It grew meanwhile: it is being written in place, by somebody else.
		var more []byte
		more, err = io.ReadAll(io.LimitReader(file, largestRecord+1-size))
		return append(data, more...), true, err
	}
	return data[:n], true, err
}

// stagedFiles are the files that become records and that were records. They
// are called TOKEN.NUMBER, and are this store's alone: it holds a lock that is
// derived from its token while it lives.
type stagedFiles struct {
	dir   string
	token string

	mu sync.Mutex // guards what follows
	// spares are the paths of files that may be written over. They hold what
	// they held last, until then or until close.
	spares []string
	moving int    // files on their way to become spares
	last   uint64 // number
	closed bool
}

func newToken() string { return strings.ToLower(rand.Text()) }

// take gives the path of a spare, or of a file that does not exist yet. The last
// spare goes first: to write over blocks that are there and in memory costs a
// fraction of having new ones.
func (f *stagedFiles) take() (path string, exists bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.spares) - 1; n >= 0 {
		path = f.spares[n]
		f.spares = f.spares[:n]
		return path, true
	}
	return f.nextLocked(), false
}

func (f *stagedFiles) nextLocked() string {
	f.last++
	return f.dir + string(filepath.Separator) + f.token + "." + strconv.FormatUint(f.last, 10)
}

// room gives a path to move a removed record to, or "" when there are spares
// enough. The caller calls arrived or forgo with it.
func (f *stagedFiles) room() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fullLocked() {
		return ""
	}
	f.moving++
	return f.nextLocked()
}

func (f *stagedFiles) forgo() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moving--
}

// arrived makes a spare of the file that was moved to where room said.
func (f *stagedFiles) arrived(path string) {
	f.forgo()
	f.keep(path)
}

func (f *stagedFiles) fullLocked() bool {
	return f.closed || len(f.spares)+f.moving >= maxSpares
}

// keep makes a spare of a staged file that is not needed, or that has become
// the old version of a record.
func (f *stagedFiles) keep(path string) {
	f.mu.Lock()
	full := f.fullLocked()
	if !full {
		f.spares = append(f.spares, path)
	}
	f.mu.Unlock()
	if full {
		_ = os.Remove(path) // the next start removes it
	}
}

// close removes the spares and keeps none from now on.
func (f *stagedFiles) close() {
	f.mu.Lock()
	spares := f.spares
	f.spares, f.closed = nil, true
	f.mu.Unlock()
	for _, path := range spares {
		_ = os.Remove(path) // the next start removes it
	}
}

// stage writes data to a file that is ready to be renamed into place.
func (f *stagedFiles) stage(data []byte, sync bool) (path string, err error) {
	var file *os.File
	path, exists := f.take()
	before := int64(0)
	if exists {
		if file, before, err = openSpare(path); err != nil {
			_ = os.Remove(path) // whatever has become of it
		}
	}
	if file == nil {
		if file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return "", err
		}
	}
	_, err = file.Write(data)
	if err == nil && before > int64(len(data)) {
		err = file.Truncate(int64(len(data)))
	}
	if err == nil && sync {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(path) // the error is the one that counts
		return "", err
	}
	return path, nil
}

var errSpare = errors.New("it is no spare any more")

// openSpare opens a spare for writing over what is in it.
func openSpare(path string) (file *os.File, size int64, err error) {
	file, err = os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !reusable(info) {
		err = errSpare
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// abandonedAfter is how old a file must be before a store that did not make it
// removes it, whatever the locks say.
const abandonedAfter = time.Minute

// sweep removes what processes that were killed left in the directory. Their
// locks tell that they are gone; where there are no locks, the age must do.
func (f *stagedFiles) sweep(alive func(token string) bool) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return // the next store tries again
	}
	asked := map[string]bool{f.token: true}
	for _, entry := range entries {
		token, _, ok := strings.Cut(entry.Name(), ".")
		if !ok || len(token) != len(f.token) || !entry.Type().IsRegular() {
			continue
		}
		lives, known := asked[token]
		if !known {
			lives = alive(token)
			asked[token] = lives
		}
		if lives {
			continue
		}
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > abandonedAfter {
			_ = os.Remove(filepath.Join(f.dir, entry.Name()))
		}
	}
}

// linkNew renames a file unless there is one of the new name, where the kernel
// has no call for that.
func linkNew(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it has no such operation
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
