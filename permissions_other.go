//go:build !unix

package podcni

import "fmt"

// trust would tell whether others could have put something else at a path.
// Owners and modes do not say that here, so that nothing is trusted.
type trust struct{}

func newTrust() *trust { return &trust{} }

var errNoPermissions = fmt.Errorf("WithStrictPermissions: %w", ErrUnsupported)

func checkBinary(string) error { return errNoPermissions }

func (t *trust) file(string) error { return errNoPermissions }

func (t *trust) dir(string) error { return errNoPermissions }
