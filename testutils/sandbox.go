package testutils

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Sandbox runs body, once, as root in user, mount and network namespaces of its
// own: there it may add interfaces, mount and remove what it likes, without
// being root outside and without touching the host. It needs [Main].
//
// The calling test is run a second time, in a process of its own that has been
// put into the new namespaces; body runs there, and only there. What it prints
// comes out of the calling test, which passes, fails or is skipped as it did
// there. The process ends with the calling one, and a little before the time
// limit of the tests. So the test's code before Sandbox runs in both, and the
// code after it too: leave it empty. Subtests, t.Parallel, and Sandbox within a
// sandbox, which just calls body, are all right.
//
// Inside, loopback is up. /run, /var/lib/cni, /etc/cni and /opt/cni are empty, but
// for an empty /run/netns, and vanish with the sandbox; everything else is the
// host's file system, as the calling user may use it, and processes are the
// host's. The test binary and the sources must not be below /run.
//
// Where such namespaces cannot be had the test is skipped, with the reason.
func Sandbox(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if marked(sandboxMark) {
		body(t)
		return
	}
	rerun(t)
}

// sandboxMark is the last argument of a process in a sandbox: not a variable of
// the environment, which plugins would inherit.
const sandboxMark = "cni-test-sandbox"

// packageMark is the same in the sandbox of [MainInSandbox], within which tests
// that ask for one get a sandbox of their own.
const packageMark = "cni-test-package-sandbox"

// mainFlag comes first, and is taken away by [Main]: without Main, which makes the
// sandbox ready, nothing may run there, and flag.Parse says so.
const mainFlag = "-TestMain-does-not-call-testutils.Main"

func marked(mark string) bool { return len(os.Args) > 1 && os.Args[len(os.Args)-1] == mark }

func inSandbox() bool { return marked(sandboxMark) || marked(packageMark) }

// runPattern is the -test.run that matches one test.
func runPattern(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

// verdict passes on what a test binary prints, line by line, and looks for what
// it says about one test.
type verdict struct {
	out     io.Writer
	test    string
	line    []byte // not complete yet
	passed  bool
	skipped bool
}

// Write passes complete lines on, marked: a tool that reads the calling test's
// output must not take them for its own.
func (v *verdict) Write(p []byte) (int, error) {
	v.line = append(v.line, p...)
	for {
		i := bytes.IndexByte(v.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		v.take(v.line[:i])
		v.line = v.line[i+1:]
	}
}

// flush passes on a last line that has no end.
func (v *verdict) flush() {
	if len(v.line) > 0 {
		v.take(v.line)
		v.line = nil
	}
}

func (v *verdict) take(line []byte) {
	text := strings.TrimSpace(string(line))
	v.passed = v.passed || strings.HasPrefix(text, "--- PASS: "+v.test+" (")
	v.skipped = v.skipped || strings.HasPrefix(text, "--- SKIP: "+v.test+" (")
	_, _ = io.WriteString(v.out, "| "+string(line)+"\n")
}
