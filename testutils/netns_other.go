//go:build !linux

package testutils

import "testing"

// NewNetNS makes a network namespace that lasts as long as the test, and
// returns its path. Everything in it is down. It needs the privileges of a
// [Sandbox], and fails the test without them; on anything but Linux the test is
// skipped.
func NewNetNS(t testing.TB) string {
	t.Helper()
	t.Skip("network namespaces are of Linux")
	return ""
}
