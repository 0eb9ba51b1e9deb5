package proc_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/internal/proc"
)

// roleVar makes a process of this binary print what it is and wait for the end of
// its stdin.
const roleVar = "PROC_TEST_WAIT"

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) != "" {
		if json.NewEncoder(os.Stdout).Encode(proc.Self()) == nil {
			_, _ = io.Copy(io.Discard, os.Stdin)
		}
		syscall.Exit(0) // os.Exit takes a second under the race detector
	}
	goleak.VerifyTestMain(m)
}

// child is a process that runs until end is called.
type child struct {
	id   proc.ID // as it sees itself
	end  func()  // it has ended then, and is a zombie
	reap func()  // nothing is left of it then
}

func startChild(t *testing.T, name string) child {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	link := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.Symlink(exe, link))
	cmd := exec.Command(link)
	cmd.Env = append(os.Environ(), roleVar+"=1")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := child{
		end: func() {
			require.NoError(t, stdin.Close())
			for {
				err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
				if !errors.Is(err, unix.EINTR) {
					require.NoError(t, err)
					return
				}
			}
		},
		reap: func() { _ = stdin.Close(); _ = cmd.Wait() },
	}
	t.Cleanup(c.reap)
	require.NoError(t, json.NewDecoder(stdout).Decode(&c.id))
	require.Equal(t, cmd.Process.Pid, c.id.PID)
	return c
}

func TestAlive(t *testing.T) {
	t.Parallel()
	self := proc.Self()
	require.Equal(t, os.Getpid(), self.PID)
	require.NotZero(t, self.Start)
	require.NotEmpty(t, self.BootID)
	require.True(t, self.Alive())
	require.Equal(t, self, proc.Self())

	c := startChild(t, "child")
	require.True(t, c.id.Alive())
	for name, change := range map[string]func(id *proc.ID){
		"an earlier process had the number": func(id *proc.ID) { id.Start-- },
		"a later process has the number":    func(id *proc.ID) { id.Start++ },
		"no start time is known":            func(id *proc.ID) { id.Start = 0 },
		"another boot":                      func(id *proc.ID) { id.BootID = "other" },
		"no boot is known":                  func(id *proc.ID) { id.BootID = "" },
	} {
		other := c.id
		change(&other)
		require.False(t, other.Alive(), name)
	}

	c.end()
	c.reap()
	require.False(t, c.id.Alive())
}

func TestZombieIsNotAlive(t *testing.T) {
	t.Parallel()
	c := startChild(t, "child")
	c.end()
	require.False(t, c.id.Alive(), "a process that has ended does not run, although nobody has reaped it yet")
}

// A process chooses its name, and the kernel writes it before what is read.
func TestProcessesOfAnyName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "a b", "a) R 1 (b", ")", "((", "x) Z 0 0 0\n", ") 1 2 3 4 5 6 7"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startChild(t, name)
			require.True(t, c.id.Alive())
			require.GreaterOrEqual(t, c.id.Start, proc.Self().Start)
			require.LessOrEqual(t, c.id.Start, startChild(t, "later").id.Start)
		})
	}
}
