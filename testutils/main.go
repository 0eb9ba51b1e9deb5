package testutils

import (
	"fmt"
	"os"
	"slices"
	"strings"
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
	playPart()
	runTests(m, after)
}

// MainInSandbox is Main that runs all tests of the package in one [Sandbox], so
// that each may make network namespaces and be root. Where there can be no
// sandbox the tests run without, and [NewNetNS] skips those that need one. A run
// with -test.fuzz stays outside.
func MainInSandbox(m *testing.M, after ...func() error) {
	playPart()
	if !inSandbox() && !fuzzing() {
		if code, ok := rerunAll(); ok {
			os.Exit(code)
		}
	}
	runTests(m, after)
}

// fuzzing says whether the test binary fuzzes, or works for one that does: it
// then has descriptors that a sandbox would not pass on.
func fuzzing() bool {
	for _, arg := range os.Args[1:] {
		name := strings.TrimLeft(arg, "-")
		if strings.HasPrefix(name, "test.fuzz=") || strings.HasPrefix(name, "test.fuzzworker") {
			return true
		}
	}
	return false
}

// playPart is what a process does that was not started to test, and its end.
func playPart() {
	if dir, ok := asChild(); ok {
		linger(dir)
		quit(0)
	}
	if dir, path, ok := asPlugin(); ok {
		quit(play(dir, path))
	}
	if len(os.Args) > 1 && os.Args[1] == mainFlag {
		os.Args = slices.Delete(os.Args, 1, 2)
	}
}

func runTests(m *testing.M, after []func() error) {
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
