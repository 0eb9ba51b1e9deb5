//go:build unix

package plugin

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/spec"
)

// script makes a plugin of a shell script, which finds its directory in $DIR,
// and a run of it.
func script(t *testing.T, body string) Call {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin")
	writeScript(t, path, body)
	return Call{Verb: spec.Del, Plugin: "plugin", Path: path, ContainerID: "c1", IfName: "eth0"}
}

func writeScript(t *testing.T, path, body string) {
	t.Helper()
	// A process that another test is forking may hold the file for a moment: who
	// starts it sees to that.
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nDIR=${0%/*}\n"+body+"\n"), 0o755))
}

// pidPipe is where a script tells its process numbers: "$DIR/pids".
func pidPipe(t *testing.T, dir string) (read func() []int) {
	t.Helper()
	path := filepath.Join(dir, "pids")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	lines := bufio.NewReader(f)
	return func() []int {
		require.NoError(t, f.SetReadDeadline(time.Now().Add(patience)))
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

func requireGone(t *testing.T, pids ...int) {
	t.Helper()
	require.NotEmpty(t, pids)
	for _, pid := range pids {
		require.Eventually(t, func() bool { return !alive(pid) }, patience, 5*time.Millisecond, "process %d", pid)
	}
}

func shell() Options { return Options{Env: []string{"PATH"}} }

func TestRunPassesStdinAndEnvironment(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		r := with(shell())
		c := script(t, `cat; /usr/bin/env >&2`)
		for _, size := range []int{0, 1, 4096, 65536, 65537, 1 << 20} {
			c.Stdin = bytes.Repeat([]byte("x"), size)
			out, err := r.Run(t.Context(), c)
			require.NoError(t, err)
			require.True(t, bytes.Equal(c.Stdin, out.Stdout), "%d", size)
			require.Zero(t, out.Exit)
			require.Contains(t, out.Stderr, "CNI_COMMAND=DEL\n")
			require.NotContains(t, out.Stderr, "HOME=")
		}
	})
}

func TestRunDoesNotWaitForStdinToBeRead(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		for name, body := range map[string]string{
			"never":  `echo '{}'`,
			"closed": `exec <&-; sleep 0.1; echo '{}'`,
			"partly": `head -c 10 >/dev/null; sleep 0.1; echo '{}'`,
			"orphan": `sleep 300 </dev/stdin >/dev/null 2>&1 & echo $! >"$DIR/pids"; echo '{}'`,
		} {
			t.Run(name, func(t *testing.T) {
				c := script(t, body)
				c.Stdin = make([]byte, 8<<20)
				read := pidPipe(t, filepath.Dir(c.Path))
				out, err := with(shell()).Run(t.Context(), c)
				require.NoError(t, err)
				require.Equal(t, "{}\n", string(out.Stdout))
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
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		for name, body := range hangs {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := script(t, body)
				read := pidPipe(t, filepath.Dir(c.Path))
				why := errors.New("the pod is not wanted any more")
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				type result struct {
					out Outcome
					err error
				}
				failed := make(chan result, 1)
				go func() {
					out, err := with(shell()).Run(ctx, c)
					failed <- result{out, err}
				}()
				pids := read()
				cancel(why)
				res := <-failed
				require.ErrorIs(t, res.err, context.Canceled)
				require.ErrorIs(t, res.err, why)
				require.False(t, res.out.TimedOut)
				require.False(t, res.out.NotStarted)
				require.Equal(t, -1, res.out.Exit)
				requireGone(t, pids...)
			})
		}
	})
}

func TestRunLetsAPluginHeedTERM(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		c := script(t, `trap 'echo bye >&2; kill $!; exit 9' TERM; sleep 300 & echo $$ $! >"$DIR/pids"; wait`)
		read := pidPipe(t, filepath.Dir(c.Path))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		outcomes := make(chan Outcome, 1)
		go func() {
			out, _ := with(shell()).Run(ctx, c)
			outcomes <- out
		}()
		pids := read()
		cancel()
		out := <-outcomes
		require.Equal(t, 9, out.Exit)
		require.Contains(t, out.Stderr, "bye")
		requireGone(t, pids...)
	})
}

func TestRunTimesOut(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		c := script(t, `sleep 300 & sleep 300`)
		t.Run("verb", func(t *testing.T) {
			t.Parallel()
			o := shell()
			o.Limits = map[string]time.Duration{spec.Del: 50 * time.Millisecond}
			out, err := with(o).Run(t.Context(), c)
			require.True(t, out.TimedOut)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "50ms")
		})
		t.Run("context", func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			out, err := with(shell()).Run(ctx, c)
			require.False(t, out.TimedOut)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		t.Run("another verb's limit", func(t *testing.T) {
			t.Parallel()
			o := shell()
			o.Limits = map[string]time.Duration{spec.Add: time.Millisecond, spec.Del: 0}
			out, err := with(o).Run(t.Context(), script(t, `sleep 0.1; echo done`))
			require.NoError(t, err)
			require.Equal(t, "done\n", string(out.Stdout))
		})
	})
}

func TestRunLeavesADaemonBehind(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		for name, body := range map[string]string{
			"quick":  `sleep 300 & echo $! >"$DIR/pids"; echo '{}'; echo note >&2`,
			"slow":   `sleep 300 & echo $! >"$DIR/pids"; echo '{}'; echo note >&2; sleep 0.1`,
			"stderr": `sleep 300 >/dev/null & echo $! >"$DIR/pids"; echo '{}'; echo note >&2`,
			"floods": `(trap '' PIPE; cat /dev/zero) >&2 & echo $! >"$DIR/pids"; echo '{}'; echo note >&2`,
		} {
			t.Run(name, func(t *testing.T) {
				c := script(t, body)
				read := pidPipe(t, filepath.Dir(c.Path))
				out, err := with(shell()).Run(t.Context(), c)
				require.NoError(t, err)
				require.Equal(t, "{}\n", string(out.Stdout))
				pid := read()[0]
				if name != "floods" {
					require.Equal(t, "note\n", out.Stderr)
					require.True(t, alive(pid), "a plugin's daemon is left alone")
				}
				require.LessOrEqual(t, len(out.Stderr), maxStderr)
			})
		}
	})
}

func TestRunBoundsOutput(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		t.Run("endless stdout", func(t *testing.T) {
			t.Parallel()
			c := script(t, `trap '' TERM; echo $$ >"$DIR/pids"; cat /dev/zero`)
			read := pidPipe(t, filepath.Dir(c.Path))
			began := time.Now()
			out, err := with(shell()).Run(t.Context(), c)
			require.ErrorIs(t, err, ErrOutputTooLarge)
			require.NotErrorIs(t, err, context.Canceled)
			require.Less(t, time.Since(began), patience)
			require.Empty(t, out.Stdout)
			requireGone(t, read()...)
		})
		t.Run("just allowed", func(t *testing.T) {
			t.Parallel()
			out, err := with(shell()).Run(t.Context(), script(t, fmt.Sprintf(`head -c %d /dev/zero`, maxStdout)))
			require.NoError(t, err)
			require.Len(t, out.Stdout, maxStdout)
		})
		t.Run("one too many", func(t *testing.T) {
			t.Parallel()
			_, err := with(shell()).Run(t.Context(), script(t, fmt.Sprintf(`head -c %d /dev/zero`, maxStdout+1)))
			require.ErrorIs(t, err, ErrOutputTooLarge)
		})
		t.Run("stderr flood", func(t *testing.T) {
			t.Parallel()
			out, err := with(shell()).Run(t.Context(), script(t, `head -c 20000000 /dev/zero >&2; echo the end >&2; exit 3`))
			require.Error(t, err)
			require.Equal(t, 3, out.Exit)
			require.Len(t, out.Stderr, maxStderr)
			require.True(t, strings.HasSuffix(out.Stderr, "\x00the end\n"))
		})
	})
}

func TestRunWaitsForABusyBinary(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		c := script(t, `echo '{}'`)
		writer, err := os.OpenFile(c.Path, os.O_WRONLY, 0)
		require.NoError(t, err)
		defer func() { _ = writer.Close() }()

		o := shell()
		o.Limits = map[string]time.Duration{spec.Del: 400 * time.Millisecond}
		out, err := with(o).Run(t.Context(), c)
		if err == nil {
			t.Skip("this system runs files that are being written")
		}
		require.ErrorIs(t, err, syscall.ETXTBSY)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, out.TimedOut)
		require.True(t, out.NotStarted)

		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		out, err = with(shell()).Run(ctx, c)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.False(t, out.TimedOut)

		closing := time.AfterFunc(120*time.Millisecond, func() { _ = writer.Close() })
		defer closing.Stop()
		asked := 0
		c.NetNS = func(context.Context) (string, error) { asked++; return "/ns", nil }
		out, err = with(shell()).Run(t.Context(), c)
		require.NoError(t, err)
		require.Equal(t, "{}\n", string(out.Stdout))
		require.Greater(t, asked, 1, "the namespace is looked at after every wait")
	})
}

func TestRunSaysWhyItDidNotStart(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		dir := t.TempDir()
		write := func(name, content string, mode os.FileMode) string {
			path := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(path, []byte(content), mode))
			return path
		}
		fifo := filepath.Join(dir, "fifo")
		require.NoError(t, syscall.Mkfifo(fifo, 0o600))
		for name, test := range map[string]struct {
			path     string
			is       error
			notFound bool
		}{
			"missing":        {filepath.Join(dir, "none"), fs.ErrNotExist, true},
			"not executable": {write("plain", "#!/bin/sh\n", 0o644), fs.ErrPermission, true},
			"directory":      {dir, fs.ErrPermission, true},
			"fifo":           {fifo, fs.ErrPermission, true},
			"below a file":   {filepath.Join(write("file", "", 0o644), "x"), syscall.ENOTDIR, true},
			"no interpreter": {write("lost", "#!/nonexistent/sh\n", 0o755), fs.ErrNotExist, true},
			"not a program":  {write("junk", "\x00\x01\x02", 0o755), syscall.ENOEXEC, false},
		} {
			out, err := with(shell()).Run(t.Context(), Call{Verb: spec.Add, Plugin: "p", Path: test.path, Stdin: []byte("{}")})
			require.ErrorIs(t, err, test.is, name)
			require.Equal(t, test.notFound, errors.Is(err, ErrNotFound), name)
			require.True(t, out.NotStarted, name)
			require.Equal(t, -1, out.Exit, name)
			require.Contains(t, err.Error(), test.path, name)
		}
	})
}

// Whatever hangs before the start holds nobody beyond the context, and then
// nothing is started.
func TestRunGivesUpWhatHangsBeforeTheStart(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		c := script(t, `: >"$DIR/ran"`)
		hang := make(chan struct{})
		var entered atomic.Bool
		c.NetNS = func(context.Context) (string, error) {
			entered.Store(true)
			<-hang
			return "/ns", nil
		}
		// On a busy machine the time may be over before it gets there.
		var r *Runner
		for limit := 20 * time.Millisecond; !entered.Load(); limit *= 2 {
			o := shell()
			o.Limits = map[string]time.Duration{spec.Del: limit}
			r = with(o)
			out, err := r.Run(t.Context(), c)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.True(t, out.NotStarted)
			require.True(t, out.TimedOut)
		}
		close(hang)
		require.Eventually(t, func() bool { return r.workers.Load() == 0 }, patience, time.Millisecond)
		require.NoFileExists(t, filepath.Join(filepath.Dir(c.Path), "ran"))
	})
}

func TestRunStartsNothing(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		c := script(t, `: >"$DIR/ran"`)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		swapped := errors.New("the namespace is another one")
		for name, test := range map[string]struct {
			ctx   context.Context
			netNS func(context.Context) (string, error)
			is    error
		}{
			"the context is over":         {over, nil, context.Canceled},
			"it ends at the namespace":    {ctx, func(context.Context) (string, error) { cancel(); return "", nil }, context.Canceled},
			"the namespace is not usable": {t.Context(), func(context.Context) (string, error) { return "", swapped }, swapped},
		} {
			c.NetNS = test.netNS
			out, err := with(shell()).Run(test.ctx, c)
			require.ErrorIs(t, err, test.is, name)
			require.True(t, out.NotStarted, name)
			require.Equal(t, -1, out.Exit, name)
		}
		require.NoFileExists(t, filepath.Join(filepath.Dir(c.Path), "ran"))
	})
}

// No more runs may hang than there can be threads.
func TestRunBoundsWhatHangs(t *testing.T) {
	t.Parallel()
	r := New(shell())
	r.workers.Store(maxWorkers)
	out, err := r.Run(t.Context(), script(t, `:`))
	require.ErrorIs(t, err, errStuck)
	require.True(t, out.NotStarted)
	r.workers.Store(maxWorkers - 1)
	_, err = r.Run(t.Context(), script(t, `:`))
	require.NoError(t, err)
}

func TestRunFindsThePlugin(t *testing.T) {
	t.Parallel()
	c := script(t, `echo "$CNI_NETNS" "$CNI_PATH"`)
	dir, want := filepath.Dir(c.Path), c.Path
	c.Path = ""
	c.NetNS = func(context.Context) (string, error) { return "/run/netns/x", nil }
	o := shell()
	o.BinDirs = []string{"/nonexistent", dir}
	r := New(o)
	out, err := r.Run(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, want, out.Path)
	require.Equal(t, "/run/netns/x /nonexistent:"+dir+"\n", string(out.Stdout))
	c.Plugin = "other"
	out, err = r.Run(t.Context(), c)
	require.ErrorIs(t, err, ErrNotFound)
	require.True(t, out.NotStarted)
}
