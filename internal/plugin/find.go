package plugin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/podcni/podcni/internal/spec"
)

var (
	errNotAbsolute   = errors.New("it must be an absolute path")
	errNotRegular    = errors.New("it is not a regular file")
	errNotExecutable = errors.New("it is not executable")
)

// Find returns the path of the plugin of that type: the first executable regular
// file of that name in the binary directories. The error wraps ErrNotFound, and
// names the directories and what is there but of no use. Find blocks as long as
// their file systems do.
func (r *Runner) Find(typ string) (string, error) {
	if err := spec.CheckPluginType(typ); err != nil {
		return "", fmt.Errorf("%w: type %.64q: %w", ErrNotFound, typ, err)
	}
	if r.opts.Exec != nil {
		path, err := r.opts.Exec.FindInPath(typ, r.opts.BinDirs)
		if err != nil && !errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return path, err
	}
	var unusable []error
	for _, dir := range r.opts.BinDirs {
		if !filepath.IsAbs(dir) {
			unusable = append(unusable, fmt.Errorf("%s: %w", dir, errNotAbsolute))
			continue
		}
		for _, name := range binaryNames(typ) {
			path := filepath.Join(dir, name)
			err := usable(path)
			if err == nil {
				return path, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				unusable = append(unusable, fmt.Errorf("%s: %w", path, err))
			}
		}
	}
	err := fmt.Errorf("%w: %q in %s", ErrNotFound, typ, strings.Join(r.opts.BinDirs, ", "))
	if len(unusable) > 0 {
		err = fmt.Errorf("%w: %w", err, errors.Join(unusable...))
	}
	return "", err
}

func usable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err // the caller names the path
		}
		return err
	}
	if !info.Mode().IsRegular() {
		return errNotRegular
	}
	return executable(path, info)
}

// startError tells a binary that is not there from one that does not start.
func startError(path string, err error) error {
	switch {
	case err == nil, isBusy(err):
		return err
	case errors.Is(err, fs.ErrNotExist):
		if _, statErr := os.Stat(path); statErr == nil {
			return fmt.Errorf("%w: %s is there, but not the interpreter that it names: %w", ErrNotFound, path, err)
		}
		return fmt.Errorf("%w: start %s: %w", ErrNotFound, path, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: start %s: %w", ErrNotFound, path, err)
	}
	return fmt.Errorf("start %s: %w", path, err)
}
