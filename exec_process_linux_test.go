package podcni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

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
	r := testRunner(t)
	if !r.procs.pidfd {
		t.Skip("this kernel cannot wait on process descriptors")
	}
	inv := script(t, `echo $$ >"$DIR/pids"; read x <"$DIR/go"; echo '{}'`)
	read := pidPipe(t, inv)
	goPath := filepath.Join(filepath.Dir(inv.path), "go")
	require.NoError(t, syscall.Mkfifo(goPath, 0o600))
	goPipe, err := os.OpenFile(goPath, os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { _ = goPipe.Close() }()
	fds, threads := countEntries(t, "/proc/self/fd"), countEntries(t, "/proc/self/task")

	results := make(chan error, many)
	for range many {
		go func() {
			out, err := r.run(t.Context(), inv)
			if err == nil && string(out.stdout) != "{}\n" {
				err = fmt.Errorf("stdout is %q", out.stdout)
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
	require.Eventually(t, func() bool { return countEntries(t, "/proc/self/fd") <= fds }, execPatience, 5*time.Millisecond)
	for _, pid := range pids {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "a zombie is left")
	}
}

// Every way to fail gives back its descriptors. Not parallel: it counts what the
// whole process has.
func TestRunFailuresLeaveNoDescriptor(t *testing.T) {
	r := testRunner(t, WithPluginTimeout(verbAdd, 10*time.Millisecond))
	hang := script(t, `sleep 300`)
	missing := script(t, ``)
	missing.path += "-missing"
	large := script(t, `cat /dev/zero`)
	orphan := script(t, `echo $$ >/dev/null; sleep 1 & exit 1`)
	pidPipe(t, hang) // the runtime's poller is at work before descriptors are counted
	fds := countEntries(t, "/proc/self/fd")
	for range 3 {
		for _, inv := range []*invocation{hang, missing, large, orphan} {
			_, err := r.run(t.Context(), inv)
			require.Error(t, err)
		}
	}
	require.Eventually(t, func() bool { return countEntries(t, "/proc/self/fd") <= fds }, execPatience, 5*time.Millisecond)
}

// What the poller cannot have is waited for without it.
func TestSuperviseWithoutEpoll(t *testing.T) {
	t.Parallel()
	if !pidfdWorks() {
		t.Skip("this kernel cannot wait on process descriptors")
	}
	attr := groupAttr()
	c, err := startChild(script(t, `sleep 0.05; echo '{}'`), &attr)
	require.NoError(t, err)
	end := c.supervise(t.Context(), time.Time{}, &waker{})
	require.Equal(t, ended{stdout: []byte("{}\n")}, end)

	attr = groupAttr()
	c, err = startChild(script(t, `sleep 300`), &attr)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	end = c.supervise(ctx, time.Time{}, &waker{})
	require.ErrorIs(t, end.stopped, context.Canceled)
	require.Equal(t, -1, end.exit)
}

// A child that does not end although it was killed is reaped when it does.
func TestAbandonedChildIsReaped(t *testing.T) {
	t.Parallel()
	if !pidfdWorks() {
		t.Skip("this kernel cannot wait on process descriptors")
	}
	inv := script(t, `trap '' TERM; echo $$ >"$DIR/pids"; while :; do sleep 300; done`)
	read := pidPipe(t, inv)
	attr := groupAttr()
	c, err := startChild(inv, &attr)
	require.NoError(t, err)
	pid := read()[0]
	c.end.stopped = errTimeLimit
	end := c.abandon(newWaker(c))
	require.ErrorIs(t, end.lost, errUnkilled)
	require.ErrorIs(t, verdict(verbAdd, end), errUnkilled)
	require.ErrorIs(t, verdict(verbAdd, end), context.DeadlineExceeded)
	require.NoError(t, syscall.Kill(-pid, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) // not even a zombie
	}, execPatience, 5*time.Millisecond)
}

// inProcess runs the test again in a process of its own, where it may change
// what belongs to the process, and tells whether this is that process.
func inProcess(t *testing.T, prepare func(cmd *exec.Cmd)) bool {
	t.Helper()
	const key = "PODCNI_TEST_ALONE"
	if os.Getenv(key) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), key+"="+t.Name())
	if prepare != nil {
		prepare(cmd)
	}
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	require.Contains(t, string(printed), "--- PASS: "+t.Name()+" ", "%s", printed)
	return false
}

// A process that reaps all children, or ignores SIGCHLD, as an init does, takes
// the plugin's exit status from us.
func TestRunWhenOthersReap(t *testing.T) {
	t.Parallel()
	if !inProcess(t, nil) {
		return
	}
	signal.Ignore(syscall.SIGCHLD)
	for name, pidfd := range map[string]bool{"pidfd": true, "command": false} {
		r := testRunner(t)
		r.procs.pidfd = pidfd && r.procs.pidfd
		for _, body := range []string{`echo '{}'`, `echo '{}'; sleep 0.05`} {
			out, err := r.run(t.Context(), script(t, body))
			require.ErrorIs(t, err, syscall.ECHILD, name)
			require.Contains(t, err.Error(), "it ran and ended", name)
			require.Equal(t, "{}\n", string(out.stdout), name)
			require.Equal(t, -1, requirePluginError(t, err).Exit, name)
		}
	}
}

// A plugin must not talk to our terminal, if we have one.
func TestRunWithoutOurTerminal(t *testing.T) {
	t.Parallel()
	const body = `if (: </dev/tty) 2>/dev/null; then echo terminal; else echo none; fi; cut -d' ' -f5 /proc/$$/stat; echo $$`
	check := func() {
		out, err := testRunner(t).run(t.Context(), script(t, body))
		require.NoError(t, err)
		fields := strings.Fields(string(out.stdout))
		require.Len(t, fields, 3)
		require.Equal(t, "none", fields[0])
		require.Equal(t, fields[2], fields[1], "it leads a group of its own")
	}
	check()

	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminal is to be had: ", err)
	}
	defer func() { _ = master.Close() }()
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminal is to be had: ", err)
	}
	defer func() { _ = slave.Close() }()
	if !inProcess(t, func(cmd *exec.Cmd) {
		cmd.Stdin = slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	}) {
		return
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	require.NoError(t, err, "the test itself has no terminal")
	require.NoError(t, tty.Close())
	require.True(t, groupAttr().Setsid)
}
