//go:build !linux

package testutils

import (
	"errors"
	"testing"
)

func rerun(t *testing.T) {
	t.Helper()
	t.Skip("no sandbox: this platform has no Linux namespaces")
}

func refuseSandbox(error) int { return 1 }

func enterSandbox() error { return errors.ErrUnsupported }
