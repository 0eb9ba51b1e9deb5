package plugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/spec"
)

// eachPath runs the test for each way in which processes are run.
func eachPath(t *testing.T, test func(t *testing.T, with func(Options) *Runner)) {
	for name, pidfd := range map[string]bool{"pidfd": true, "command": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if pidfd && !newProcesses().pidfd {
				t.Skip("this kernel cannot wait on process descriptors")
			}
			test(t, func(o Options) *Runner {
				r := New(o)
				r.procs.pidfd = pidfd
				return r
			})
		})
	}
}

func countEntries(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	return len(entries)
}

// Two hundred plugins that are slow at the same time hold no thread each, and
// leave neither descriptors nor zombies. Not parallel: it counts what the whole
// process has.
func TestRunManyAtOnce(t *testing.T) {
	const many = 200
	r := New(shell())
	if !r.procs.pidfd {
		t.Skip("this kernel cannot wait on process descriptors")
	}
	c := script(t, `echo $$ >"$DIR/pids"; read x <"$DIR/go"; echo '{}'`)
	read := pidPipe(t, filepath.Dir(c.Path))
	goPath := filepath.Join(filepath.Dir(c.Path), "go")
	require.NoError(t, syscall.Mkfifo(goPath, 0o600))
	goPipe, err := os.OpenFile(goPath, os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { _ = goPipe.Close() }()
	fds, threads := countEntries(t, "/proc/self/fd"), countEntries(t, "/proc/self/task")

	results := make(chan error, many)
	for range many {
		go func() {
			out, err := r.Run(t.Context(), c)
			if err == nil && string(out.Stdout) != "{}\n" {
				err = fmt.Errorf("stdout is %q", out.Stdout)
			}
			results <- err
		}()
	}
	var pids []int
	for range many {
		pids = append(pids, read()...)
	}
	require.Less(t, countEntries(t, "/proc/self/task"), threads+many/2)
	_, err = goPipe.WriteString(strings.Repeat("\n", many))
	require.NoError(t, err)
	for range many {
		require.NoError(t, <-results)
	}
	require.Eventually(t, func() bool { return countEntries(t, "/proc/self/fd") <= fds }, patience, 5*time.Millisecond)
	for _, pid := range pids {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "a zombie is left")
	}
}

// Every way to fail gives back its descriptors. Not parallel: it counts what the
// whole process has.
func TestRunFailuresLeaveNoDescriptor(t *testing.T) {
	o := shell()
	o.Limits = map[string]time.Duration{spec.Del: 20 * time.Millisecond}
	r := New(o)
	hang, missing, large := script(t, `sleep 300`), script(t, ``), script(t, `cat /dev/zero`)
	missing.Path += "-missing"
	orphan := script(t, `sleep 1 & exit 1`)
	pidPipe(t, filepath.Dir(hang.Path)) // the runtime's poller is at work before descriptors are counted
	fds := countEntries(t, "/proc/self/fd")
	for range 3 {
		for _, c := range []Call{hang, missing, large, orphan} {
			_, err := r.Run(t.Context(), c)
			require.Error(t, err)
		}
	}
	require.Eventually(t, func() bool { return countEntries(t, "/proc/self/fd") <= fds }, patience, 5*time.Millisecond)
}

// What the poller cannot have is an error, and leaves no descriptor. Not
// parallel: it counts what the whole process has.
func TestWakerFails(t *testing.T) {
	fds := countEntries(t, "/proc/self/fd")
	_, err := newWaker([4]int{1 << 20, -1, -1, -1})
	require.ErrorIs(t, err, syscall.EBADF)
	require.Equal(t, fds, countEntries(t, "/proc/self/fd"))
}

// A binary on a file system that does not answer holds nobody beyond the
// context, nothing is started, and the garbage collector goes on.
func TestRunGivesUpABinaryThatHangs(t *testing.T) {
	t.Parallel()
	path, asked, answer := fuseFile(t, fuseOpen)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		runtime.GC()
		cancel()
	}()
	r := New(Options{})
	began := time.Now()
	out, err := r.Run(ctx, Call{Verb: spec.Add, Plugin: "p", Path: path})
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, out.NotStarted)
	require.Less(t, time.Since(began), termGrace)
	require.EqualValues(t, 1, r.workers.Load())
	answer()
	require.Eventually(t, func() bool { return r.workers.Load() == 0 }, patience, time.Millisecond)
}

// inProcess runs the test again in a process of its own, where it may change
// what belongs to the process, and tells whether this is that process.
func inProcess(t *testing.T) bool {
	t.Helper()
	const key = "PLUGIN_TEST_ALONE"
	if os.Getenv(key) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), key+"="+t.Name())
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	require.Contains(t, string(printed), "--- PASS: "+t.Name()+" ", "%s", printed)
	return false
}

// A process that reaps all children, or ignores SIGCHLD, as an init does, takes
// the plugin's exit status from us.
func TestRunWhenOthersReap(t *testing.T) {
	t.Parallel()
	if !inProcess(t) {
		return
	}
	signal.Ignore(syscall.SIGCHLD)
	for name, pidfd := range map[string]bool{"pidfd": true, "command": false} {
		r := New(shell())
		r.procs.pidfd = pidfd && r.procs.pidfd
		for _, body := range []string{`echo '{}'`, `echo '{}'; sleep 0.05`} {
			out, err := r.Run(t.Context(), script(t, body))
			require.ErrorIs(t, err, syscall.ECHILD, name)
			require.ErrorContains(t, err, "it ran and ended", name)
			require.Equal(t, "{}\n", string(out.Stdout), name)
			require.Equal(t, -1, out.Exit, name)
			require.False(t, out.NotStarted)
		}
	}
}

// A plugin leads a group of its own in our session: a process that leads a
// session is a daemon.
func TestRunMakesAGroupAndNoSession(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		out, err := with(shell()).Run(t.Context(), script(t, `cut -d' ' -f1,5,6 /proc/$$/stat`))
		require.NoError(t, err)
		ours, err := syscall.Getpgid(0)
		require.NoError(t, err)
		var pid, group, session int
		_, err = fmt.Sscan(string(out.Stdout), &pid, &group, &session)
		require.NoError(t, err)
		require.Equal(t, pid, group)
		require.NotEqual(t, pid, session)
		require.NotEqual(t, ours, group)
	})
}

// Plugins run in the namespaces of the process, whatever thread calls.
func TestRunLeavesTheCallersThread(t *testing.T) {
	t.Parallel()
	if !inProcess(t) {
		return
	}
	var done sync.WaitGroup
	done.Go(func() {
		// Not unlocked: the thread goes with the goroutine.
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_FS); err != nil {
			t.Error(err)
			return
		}
		if err := syscall.Chdir("/proc"); err != nil {
			t.Error(err)
			return
		}
		out, err := New(shell()).Run(t.Context(), script(t, `pwd`))
		if err != nil || strings.TrimSpace(string(out.Stdout)) == "/proc" {
			t.Error(err, string(out.Stdout))
		}
	})
	done.Wait()
}

func BenchmarkRun(b *testing.B) {
	path := "/bin/true"
	for _, at := range []int{1, 32} {
		for name, set := range map[string]func(*Runner){
			"pidfd": func(*Runner) {}, "command": func(r *Runner) { r.procs.pidfd = false },
		} {
			b.Run(fmt.Sprintf("%s/%d", name, at), func(b *testing.B) {
				r := New(Options{})
				set(r)
				for b.Loop() {
					var group sync.WaitGroup
					for range at {
						group.Go(func() {
							if _, err := r.Run(b.Context(), Call{Verb: spec.Del, Path: path, Stdin: []byte("{}")}); err != nil {
								b.Error(err)
							}
						})
					}
					group.Wait()
				}
			})
		}
	}
}
