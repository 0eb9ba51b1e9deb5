//go:build unix && !linux

package podcni

import "testing"

// eachPath runs a test with each way of running a process that the platform has.
func eachPath(t *testing.T, test func(t *testing.T, with func(opts ...Option) *runner)) {
	t.Helper()
	test(t, func(opts ...Option) *runner { return testRunner(t, opts...) })
}
