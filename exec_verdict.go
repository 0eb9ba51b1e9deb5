package podcni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// startError tells a binary that is not there from one that does not start.
func startError(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if _, statErr := os.Stat(path); statErr == nil {
			return fmt.Errorf("%w: %s is there, but not the interpreter that it names: %w", ErrPluginNotFound, path, err)
		}
		return fmt.Errorf("%w: start %s: %w", ErrPluginNotFound, path, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: start %s: %w", ErrPluginNotFound, path, err)
	}
	return fmt.Errorf("start %s: %w", path, err)
}

// verdict is nil when the plugin did what it was asked for, as far as its end
// and an error object tell. Whether ADD and VERSION answered is for those who
// read their answer.
func verdict(verb string, end ended) error {
	switch {
	case end.stopped != nil:
		err := stopCause(end.stopped)
		if end.lost != nil {
			err = fmt.Errorf("%w: %w", err, end.lost)
		}
		return err
	case end.lost != nil:
		return fmt.Errorf("it ran and ended, but its exit status is not known: %w", end.lost)
	case end.exit == 0:
		if verb == verbAdd || verb == verbVersion {
			return nil
		}
		if e := errorObject(end.stdout); e != nil {
			return withCode(e)
		}
		return nil
	}

	e := reportedError(end.stdout)
	if e == nil {
		e = reportedError([]byte(end.stderr))
	}
	switch {
	case e != nil && end.signal != "":
		return fmt.Errorf("%s: %w", end.signal, withCode(e))
	case e != nil:
		return withCode(e)
	case end.signal != "":
		return errors.New(end.signal)
	case len(end.stdout) > 0:
		return fmt.Errorf("%w: no error object in %q", ErrBadOutput, cut(string(end.stdout), stderrInError))
	}
	return errNoAnswer
}

// stopCause is what a caller sees of ended.stopped.
func stopCause(stopped error) error {
	if errors.Is(stopped, errTimeLimit) {
		return fmt.Errorf("%w: %w", errTimeLimit, context.DeadlineExceeded)
	}
	return stopped
}
