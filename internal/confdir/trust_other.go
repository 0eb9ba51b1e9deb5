//go:build !unix

package confdir

import (
	"errors"
	"fmt"
)

// trust would tell whether others could have put something else at a path.
// Owners and modes do not say that here: nothing is trusted.
type trust struct{}

func newTrust() *trust { return &trust{} }

func (t *trust) file(string) error { return fmt.Errorf("%w: %w", errUntrusted, errors.ErrUnsupported) }

func (t *trust) dir(path string) error { return t.file(path) }
