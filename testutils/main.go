package testutils

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// Main is what TestMain calls, and all that it does: it does not return. In a
// process that was started as a fake plugin it plays that plugin; in one that
// [Sandbox] started it first makes the sandbox ready. Otherwise, and in a
// sandbox, it runs the tests and exits with their status.
//
// Each of after runs, in order, when every test has passed, and makes the run
// fail if it returns an error: the place for a check such as goleak.Find.
//
//	func TestMain(m *testing.M) {
//		testutils.Main(m, func() error { return goleak.Find() })
//	}
func Main(m *testing.M, after ...func() error) {
	if dir, ok := asChild(); ok {
		linger(dir)
		quit(0)
	}
	if dir, path, ok := asPlugin(); ok {
		quit(play(dir, path))
	}
	if inSandbox() {
		if err := enterSandbox(); err != nil {
			os.Exit(refuseSandbox(err))
		}
	}
	code := m.Run()
	for _, check := range after {
		if code != 0 {
			break
		}
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// quit ends a process without what a test binary does at its end when it was
// built to measure coverage, which is to complain on stderr, or to find races,
// which is to wait for a second.
func quit(status int) { syscall.Exit(status) }
