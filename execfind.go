package podcni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

var (
	errPluginName    = errors.New("it cannot be a file's name")
	errNotRegular    = errors.New("it is not a regular file")
	errNotExecutable = errors.New("it is not executable")
)

// find is the binary of the plugin of that type. The error wraps
// ErrPluginNotFound.
func (r *runner) find(typ string) (string, error) {
	if r.opts.exec == nil {
		return findPlugin(r.opts.binDirs, typ)
	}
	path, err := r.opts.exec.FindInPath(typ, r.opts.binDirs)
	if err != nil && !errors.Is(err, ErrPluginNotFound) {
		err = fmt.Errorf("%w: %w", ErrPluginNotFound, err)
	}
	return path, err
}

// findPlugin is the first executable regular file of that name in the
// directories, of which those that are not absolute do not count. The error
// wraps ErrPluginNotFound, and names the directories and what is there but of
// no use.
func findPlugin(binDirs []string, typ string) (string, error) {
	if typ == "" || typ == "." || typ == ".." || strings.ContainsAny(typ, "/\\\x00") {
		return "", fmt.Errorf("%w: %q: %w", ErrPluginNotFound, cut(typ, longestValue), errPluginName)
	}
	var unusable []error
	for _, dir := range binDirs {
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
	err := fmt.Errorf("%w: %q in %s", ErrPluginNotFound, typ, strings.Join(binDirs, ", "))
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
			err = pathErr.Err // the path is named by the caller
		}
		return err
	}
	if !info.Mode().IsRegular() {
		return errNotRegular
	}
	return executable(path, info)
}
