package podcni

import "testing"

// eachPath runs a test with each way of running a process that the platform has.
func eachPath(t *testing.T, test func(t *testing.T, with func(opts ...Option) *runner)) {
	t.Helper()
	for name, pidfd := range map[string]bool{"pidfd": true, "command": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if pidfd && !pidfdWorks() {
				t.Skip("this kernel cannot wait on process descriptors")
			}
			test(t, func(opts ...Option) *runner {
				r := testRunner(t, opts...)
				r.procs.pidfd = pidfd
				return r
			})
		})
	}
}
