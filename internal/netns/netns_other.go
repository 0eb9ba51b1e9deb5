//go:build !linux

package netns

import (
	"context"
	"errors"
	"fmt"
)

// Create returns an error that wraps [errors.ErrUnsupported], or
// [io/fs.ErrInvalid] for a bad name.
func Create(dir, name string) (*NS, error) {
	if _, err := pinPath(dir, name); err != nil {
		return nil, err
	}
	return nil, unsupported()
}

// Open returns an error that wraps [errors.ErrUnsupported].
func Open(string) (*NS, error) { return nil, unsupported() }

// OpenPod returns a namespace that is only its name, and has no identity.
func OpenPod(_ context.Context, path string, _ bool) (*NS, error) { return &NS{path: path}, nil }

// StillAt reports true.
func (n *NS) StillAt(string) (bool, error) { return true, nil }

// Do, LoopbackUp, Interface and Remove return errors that wrap
// [errors.ErrUnsupported].
func (n *NS) Do(func() error) error { return unsupported() }

// LoopbackUp: see Do.
func (n *NS) LoopbackUp() error { return unsupported() }

// Interface: see Do.
func (n *NS) Interface(string) (Interface, error) { return Interface{}, unsupported() }

// Remove: see Do.
func (n *NS) Remove() error { return unsupported() }

func unsupported() error { return fmt.Errorf("network namespaces: %w", errors.ErrUnsupported) }
