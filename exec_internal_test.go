//go:build unix

package podcni

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"
)

// execPatience is for what ought to happen at once, on a machine that is busy.
const execPatience = time.Minute

func testRunner(t *testing.T, opts ...Option) *runner {
	t.Helper()
	o, err := newOptions(opts)
	require.NoError(t, err)
	return newRunner(o, nil)
}

// script makes a plugin of a shell script, which finds its directory in $DIR.
func script(t *testing.T, body string) *invocation {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "plugin")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
	return &invocation{
		verb: verbAdd, network: "net", plugin: "plugin", path: path, containerID: "c1", ifName: "eth0",
		env: []string{"PATH=" + os.Getenv("PATH"), "DIR=" + dir, "CNI_COMMAND=ADD"},
	}
}

// pidPipe is where a script tells its process numbers: "$DIR/pids".
func pidPipe(t *testing.T, inv *invocation) (read func() []int) {
	t.Helper()
	path := filepath.Join(filepath.Dir(inv.path), "pids")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	lines := bufio.NewReader(f)
	return func() []int {
		require.NoError(t, f.SetReadDeadline(time.Now().Add(execPatience)))
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		var pids []int
		for _, field := range strings.Fields(line) {
			pid, err := strconv.Atoi(field)
			require.NoError(t, err)
			pids = append(pids, pid)
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		}
		return pids
	}
}

// alive tells whether there is such a process, zombies apart.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH)
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return len(state) == 0 || state[0] != 'Z'
}

func requireGone(t *testing.T, pids []int) {
	t.Helper()
	require.NotEmpty(t, pids)
	for _, pid := range pids {
		require.Eventually(t, func() bool { return !alive(pid) }, execPatience, 5*time.Millisecond, "process %d", pid)
	}
}

func requirePluginError(t *testing.T, err error) *PluginError {
	t.Helper()
	var perr *PluginError
	require.ErrorAs(t, err, &perr)
	return perr
}

func TestRunPassesStdinAndEnvironment(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		r := with()
		inv := script(t, `cat; /usr/bin/env >&2`)
		for _, size := range []int{0, 1, 4096, 4097, 65536, 65537, 1 << 20} {
			inv.stdin = bytes.Repeat([]byte("x"), size)
			out, err := r.run(t.Context(), inv)
			require.NoError(t, err)
			require.Equal(t, len(inv.stdin), len(out.stdout))
			require.True(t, bytes.Equal(inv.stdin, out.stdout))
			require.Zero(t, out.exit)
			require.Contains(t, out.stderr, "CNI_COMMAND=ADD\n")
			require.NotContains(t, out.stderr, "HOME=")
		}
	})
}

func TestRunDoesNotWaitForStdinToBeRead(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		for name, body := range map[string]string{
			"never":  `echo '{}'`,
			"closed": `exec <&-; sleep 0.1; echo '{}'`,
			"partly": `head -c 10 >/dev/null; sleep 0.1; echo '{}'`,
			"orphan": `sleep 300 </dev/stdin >/dev/null 2>&1 & echo $! >"$DIR/pids"; echo '{}'`,
		} {
			t.Run(name, func(t *testing.T) {
				inv := script(t, body)
				inv.stdin = make([]byte, 8<<20)
				read := pidPipe(t, inv)
				out, err := with().run(t.Context(), inv)
				require.NoError(t, err)
				require.Equal(t, "{}\n", string(out.stdout))
				if name == "orphan" {
					require.True(t, alive(read()[0]), "a plugin's daemon is left alone")
				}
			})
		}
	})
}

func TestRunEndsTheWholeGroup(t *testing.T) {
	t.Parallel()
	hangs := map[string]string{
		"alone":            `echo $$ >"$DIR/pids"; exec sleep 300`,
		"with children":    `sleep 300 & echo $$ $! >"$DIR/pids"; sleep 300`,
		"ignores TERM":     `trap '' TERM; sleep 300 & echo $$ $! >"$DIR/pids"; while :; do sleep 300; done`,
		"child ignores":    `(trap '' TERM; exec sleep 300) & echo $$ $! >"$DIR/pids"; wait`,
		"pipes are closed": `exec >/dev/null 2>&1 <&1; sleep 300 & echo $$ $! >"$DIR/pids"; wait`,
		"is stopped":       `echo $$ >"$DIR/pids"; kill -STOP $$; sleep 300`,
	}
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		for name, body := range hangs {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				inv := script(t, body)
				read := pidPipe(t, inv)
				why := errors.New("the pod is not wanted any more")
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				failed := make(chan error, 1)
				go func() {
					_, err := with().run(ctx, inv)
					failed <- err
				}()
				pids := read()
				cancel(why)
				perr := requirePluginError(t, <-failed)
				require.ErrorIs(t, perr, context.Canceled)
				require.ErrorIs(t, perr, why)
				require.False(t, perr.TimedOut)
				require.Equal(t, -1, perr.Exit)
				requireGone(t, pids)
			})
		}
	})
}

func TestRunLetsAPluginHeedTERM(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		inv := script(t, `trap 'echo bye >&2; kill $!; exit 9' TERM; sleep 300 & echo $$ $! >"$DIR/pids"; wait`)
		read := pidPipe(t, inv)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		failed := make(chan error, 1)
		go func() {
			_, err := with().run(ctx, inv)
			failed <- err
		}()
		pids := read()
		cancel()
		perr := requirePluginError(t, <-failed)
		require.ErrorIs(t, perr, context.Canceled)
		require.Equal(t, 9, perr.Exit)
		require.Contains(t, perr.Stderr, "bye")
		requireGone(t, pids)
	})
}

func TestRunTimesOut(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		inv := script(t, `sleep 300 & sleep 300`)
		t.Run("verb", func(t *testing.T) {
			t.Parallel()
			_, err := with(WithPluginTimeout(verbAdd, 50*time.Millisecond)).run(t.Context(), inv)
			perr := requirePluginError(t, err)
			require.True(t, perr.TimedOut)
			require.ErrorIs(t, perr, context.DeadlineExceeded)
		})
		t.Run("context", func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := with().run(ctx, inv)
			perr := requirePluginError(t, err)
			require.False(t, perr.TimedOut)
			require.ErrorIs(t, perr, context.DeadlineExceeded)
		})
		t.Run("no limit", func(t *testing.T) {
			t.Parallel()
			out, err := with(WithPluginTimeout(verbAdd, 0)).run(t.Context(), script(t, `sleep 0.1; echo done`))
			require.NoError(t, err)
			require.Equal(t, "done\n", string(out.stdout))
		})
	})
}

func TestRunDoesNotStartWhenTheContextIsOver(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		inv := script(t, `: >"$DIR/ran"`)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := with().run(ctx, inv)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, -1, requirePluginError(t, err).Exit)
		require.NoFileExists(t, filepath.Join(filepath.Dir(inv.path), "ran"))
	})
}

func TestRunLeavesADaemonBehind(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		for name, body := range map[string]string{
			"quick":  `sleep 300 & echo $! >"$DIR/pids"; echo '{}'; echo note >&2`,
			"slow":   `sleep 300 & echo $! >"$DIR/pids"; echo '{}'; echo note >&2; sleep 0.1`,
			"stderr": `sleep 300 >/dev/null & echo $! >"$DIR/pids"; echo '{}'; echo note >&2`,
			"floods": `(trap '' PIPE; cat /dev/zero) >&2 & echo $! >"$DIR/pids"; echo '{}'; echo note >&2`,
		} {
			t.Run(name, func(t *testing.T) {
				inv := script(t, body)
				read := pidPipe(t, inv)
				out, err := with().run(t.Context(), inv)
				require.NoError(t, err)
				require.Equal(t, "{}\n", string(out.stdout))
				pid := read()[0]
				if name != "floods" {
					require.Equal(t, "note\n", out.stderr)
					require.True(t, alive(pid), "a plugin's daemon is left alone")
				}
				require.LessOrEqual(t, len(out.stderr), maxStderr)
			})
		}
	})
}

func TestRunBoundsOutput(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		t.Run("endless stdout", func(t *testing.T) {
			t.Parallel()
			inv := script(t, `echo $$ >"$DIR/pids"; cat /dev/zero`)
			read := pidPipe(t, inv)
			out, err := with().run(t.Context(), inv)
			require.ErrorIs(t, err, ErrOutputTooLarge)
			require.Empty(t, out.stdout)
			requireGone(t, read())
		})
		t.Run("just allowed", func(t *testing.T) {
			t.Parallel()
			out, err := with().run(t.Context(), script(t, fmt.Sprintf(`head -c %d /dev/zero`, maxStdout)))
			require.NoError(t, err)
			require.Len(t, out.stdout, maxStdout)
		})
		t.Run("one too many", func(t *testing.T) {
			t.Parallel()
			_, err := with().run(t.Context(), script(t, fmt.Sprintf(`head -c %d /dev/zero`, maxStdout+1)))
			require.ErrorIs(t, err, ErrOutputTooLarge)
		})
		t.Run("stderr flood", func(t *testing.T) {
			t.Parallel()
			out, err := with().run(t.Context(), script(t, `head -c 50000000 /dev/zero >&2; echo the end >&2; exit 3`))
			perr := requirePluginError(t, err)
			require.Equal(t, 3, perr.Exit)
			require.Len(t, perr.Stderr, maxStderr)
			require.True(t, strings.HasSuffix(perr.Stderr, "\x00the end\n"))
			require.Equal(t, perr.Stderr, out.stderr)
		})
	})
}

func TestRunWaitsForABusyBinary(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		inv := script(t, `echo '{}'`)
		writer, err := os.OpenFile(inv.path, os.O_WRONLY, 0)
		require.NoError(t, err)
		defer func() { _ = writer.Close() }()

		_, err = with(WithPluginTimeout(verbAdd, 120*time.Millisecond)).run(t.Context(), inv)
		if err == nil {
			t.Skip("this system runs files that are being written")
		}
		perr := requirePluginError(t, err)
		require.ErrorIs(t, perr, syscall.ETXTBSY)
		require.ErrorIs(t, perr, context.DeadlineExceeded)
		require.True(t, perr.TimedOut)

		ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
		defer cancel()
		_, err = with().run(ctx, inv)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.False(t, requirePluginError(t, err).TimedOut)

		closing := time.AfterFunc(120*time.Millisecond, func() { _ = writer.Close() })
		defer closing.Stop()
		out, err := with().run(t.Context(), inv)
		require.NoError(t, err)
		require.Equal(t, "{}\n", string(out.stdout))
	})
}

func TestRunSaysWhyItDidNotStart(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		dir := t.TempDir()
		write := func(name, content string, mode os.FileMode) string {
			path := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(path, []byte(content), mode))
			return path
		}
		for name, test := range map[string]struct {
			path     string
			is       error
			notFound bool
		}{
			"missing":        {filepath.Join(dir, "none"), fs.ErrNotExist, true},
			"not executable": {write("plain", "#!/bin/sh\n", 0o644), fs.ErrPermission, true},
			"directory":      {dir, fs.ErrPermission, true},
			"below a file":   {filepath.Join(write("file", "", 0o644), "x"), syscall.ENOTDIR, true},
			"no interpreter": {write("lost", "#!/nonexistent/sh\n", 0o755), fs.ErrNotExist, true},
			"not a program":  {write("junk", "\x00\x01\x02", 0o755), syscall.ENOEXEC, false},
		} {
			inv := &invocation{verb: verbAdd, plugin: "p", path: test.path, env: []string{"A=b"}, stdin: []byte("{}")}
			_, err := with().run(t.Context(), inv)
			require.ErrorIs(t, err, test.is, name)
			require.Equal(t, test.notFound, errors.Is(err, ErrPluginNotFound), name)
			require.Equal(t, -1, requirePluginError(t, err).Exit, name)
			require.Contains(t, err.Error(), test.path, name)
		}
	})
}

func TestRunTellsHowAPluginFailed(t *testing.T) {
	t.Parallel()
	const object = `{"cniVersion":"1.1.0","code":11,"msg":"pool is empty","details":"10.0.0.0/24"}`
	eachPath(t, func(t *testing.T, with func(...Option) *runner) {
		for name, test := range map[string]struct {
			body string
			exit int
			code int // -1: no error object
			is   error
		}{
			"error on stdout":   {`echo '` + object + `'; exit 1`, 1, 11, nil},
			"error on stderr":   {`echo '` + object + `' >&2; exit 2`, 2, 11, nil},
			"after log lines":   {`echo 'I am {here}'; echo '{"level":"info","msg":"x"}'; echo '` + object + `'; exit 1`, 1, 11, nil},
			"stdout wins":       {`echo '` + object + `'; echo '{"code":5,"msg":"other"}' >&2; exit 1`, 1, 11, nil},
			"code 0":            {`echo '{"code":0,"msg":"odd"}'; exit 1`, 1, 0, nil},
			"nothing":           {`exit 7`, 7, -1, errNoAnswer},
			"garbage":           {`echo oops; exit 1`, 1, -1, ErrBadOutput},
			"cut off":           {`printf '{"code":11,"ms'; exit 1`, 1, -1, ErrBadOutput},
			"killed":            {`kill -KILL $$`, -1, -1, nil},
			"killed with error": {`echo '` + object + `'; kill -KILL $$`, -1, 11, nil},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := with().run(t.Context(), script(t, test.body))
				perr := requirePluginError(t, err)
				require.Equal(t, test.exit, perr.Exit)
				require.False(t, perr.TimedOut)
				require.Equal(t, "plugin", perr.Plugin)
				require.Equal(t, "net", perr.Network)
				var cniErr *types.Error
				require.Equal(t, test.code >= 0, errors.As(err, &cniErr))
				if test.code >= 0 {
					require.Equal(t, uint(test.code), cniErr.Code)
				}
				if test.is != nil {
					require.ErrorIs(t, err, test.is)
				}
				if test.exit < 0 {
					require.Contains(t, err.Error(), "signal: killed")
				}
			})
		}
	})
}

func TestRunFindsAnErrorInASuccess(t *testing.T) {
	t.Parallel()
	r := testRunner(t)
	inv := script(t, `echo '{"code":11,"msg":"later"}'`)
	for verb, isError := range map[string]bool{
		verbAdd: false, verbVersion: false, // their answers are read elsewhere
		verbDel: true, verbCheck: true, verbGC: true, verbStatus: true,
	} {
		inv.verb = verb
		_, err := r.run(t.Context(), inv)
		var cniErr *types.Error
		require.Equal(t, isError, errors.As(err, &cniErr), verb)
		if isError {
			require.Equal(t, 0, requirePluginError(t, err).Exit)
		}
	}
	inv = script(t, `echo all is well`)
	inv.verb = verbDel
	_, err := r.run(t.Context(), inv)
	require.NoError(t, err)
}

func TestRunLogsStderr(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r := testRunner(t, WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	_, err := r.run(t.Context(), script(t, `echo careful >&2; echo '{}'`))
	require.NoError(t, err)
	require.Contains(t, log.String(), "level=DEBUG")
	require.Contains(t, log.String(), "stderr=careful")
	require.Contains(t, log.String(), "sandbox=c1")
}

type countingSlots struct {
	refuse         error
	taken, maximum int
}

func (s *countingSlots) acquire(context.Context, string) error {
	if s.refuse != nil {
		return s.refuse
	}
	s.taken++
	s.maximum = max(s.maximum, s.taken)
	return nil
}

func (s *countingSlots) release() { s.taken-- }

func TestRunTakesASlot(t *testing.T) {
	t.Parallel()
	r := testRunner(t)
	slots := &countingSlots{}
	r.slots = slots
	inv := script(t, `: >"$DIR/ran"; exit 1`)
	_, err := r.run(t.Context(), inv)
	require.Error(t, err)
	require.Equal(t, 1, slots.maximum)
	require.Zero(t, slots.taken)

	ran := filepath.Join(filepath.Dir(inv.path), "ran")
	require.NoError(t, os.Remove(ran))
	slots.refuse = context.Canceled
	_, err = r.run(t.Context(), inv)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, -1, requirePluginError(t, err).Exit)
	require.NoFileExists(t, ran)
}
