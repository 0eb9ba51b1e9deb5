package testutils_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// specimenVar names what TestSpecimen is to show to the test that runs it.
const specimenVar = "TESTUTILS_SPECIMEN"

// TestSpecimen is a test for other tests to look at from outside.
func TestSpecimen(t *testing.T) {
	what := os.Getenv(specimenVar)
	if what == "" {
		t.Skip("shown to other tests only")
	}
	testutils.Sandbox(t, func(t *testing.T) {
		switch what {
		case "fail":
			t.Error("for this reason")
		case "skip":
			t.Skip("for this reason")
		case "panic":
			panic("for this reason")
		case "exit":
			os.Exit(0)
		case "hang":
			fmt.Println("hanging:", os.Getpid())
			time.Sleep(10 * time.Minute)
		case "leak":
			go time.Sleep(10 * time.Minute)
		}
	})
}

func specimen(t *testing.T, what string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, append([]string{"-test.run=^TestSpecimen$", "-test.v"}, args...)...)
	cmd.Env = append(os.Environ(), specimenVar+"="+what)
	return cmd
}

// needSandbox skips the test where there are no sandboxes.
func needSandbox(t *testing.T) {
	t.Helper()
	out, err := specimen(t, "pass").CombinedOutput()
	if strings.Contains(string(out), "no sandbox: ") {
		t.Skipf("%s", out)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "\n--- PASS: TestSpecimen ")
}

func TestASandboxEndsAsItsTestDid(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	tests := map[string]struct {
		verdict string
		says    string
		args    []string
	}{
		"fail":  {"FAIL", "for this reason", nil},
		"skip":  {"SKIP", "for this reason", nil},
		"panic": {"FAIL", "for this reason", nil},
		"exit":  {"FAIL", "in the sandbox", nil},
		"leak":  {"FAIL", "found unexpected goroutines", nil},
		// On a busy machine the time of the outer run may be over first.
		"hang": {"", "test timed out after", []string{"-test.timeout=6s"}},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			out, err := specimen(t, what, tt.args...).CombinedOutput()
			require.Contains(t, string(out), tt.says)
			if tt.verdict != "" {
				require.Contains(t, string(out), "--- "+tt.verdict+": TestSpecimen ")
			}
			if tt.verdict == "SKIP" {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
			}
		})
	}
}

func TestASandboxDiesWithItsParent(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	cmd := specimen(t, "hang")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	child := 0
	for lines := bufio.NewScanner(stdout); child == 0 && lines.Scan(); {
		if _, pid, ok := strings.Cut(lines.Text(), "hanging: "); ok {
			child, err = strconv.Atoi(pid)
			require.NoError(t, err)
		}
	}
	require.NotZero(t, child)
	require.NotEqual(t, cmd.Process.Pid, child)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, time.Minute, 5*time.Millisecond)
}

func TestWithoutNamespacesASandboxedTestIsSkipped(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		forbid := func(what string) {
			require.NoError(t, os.WriteFile("/proc/sys/user/max_"+what+"_namespaces", []byte("0"), 0))
		}
		forbid("user")
		out, err := specimen(t, "pass").CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "\n--- PASS: TestSpecimen ", "root needs no user namespace")

		forbid("mnt")
		out, err = specimen(t, "fail").CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "no sandbox: ")
		require.Contains(t, string(out), "\n--- SKIP: TestSpecimen ")
	})
}
