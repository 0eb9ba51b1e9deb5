package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/internal/proc"
	"github.com/podcni/podcni/internal/spec"
)

// left is what a runtime that died left at work.
type left struct {
	dir    string // of the binaries, and $DIR of the scripts
	writer proc.ID
	pids   []int // as a plugin told them
	run    Attachment
}

// start is what a runtime is to do.
type start struct {
	Dir, Verb, Plugin, NetNS string
	Env                      []string
}

const netNS = "/run/netns/of-the-pod"

// sandbox is the ID for the plugins of a directory: tests run at the same time.
func sandbox(dir string) string { return strings.ReplaceAll(dir[1:], "/", "-") }

// newBin makes a directory of plugins from scripts.
func newBin(t *testing.T, scripts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range scripts {
		writeScript(t, filepath.Join(dir, name), body)
	}
	return dir
}

// leave has a runtime start the plugin, waits until the plugin has told its
// numbers, and kills the runtime alone.
func leave(t *testing.T, s start) left {
	t.Helper()
	read := pidPipe(t, s.Dir)
	text, err := json.Marshal(s)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PLUGIN_TEST_ROLE=runtime", "PLUGIN_TEST_START="+string(text))
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	start, ok := proc.Start(cmd.Process.Pid)
	require.True(t, ok)
	l := left{
		dir:    s.Dir,
		writer: proc.ID{PID: cmd.Process.Pid, Start: start, BootID: proc.BootID()},
		run:    Attachment{ContainerID: sandbox(s.Dir), IfName: "eth0", NetNS: netNS, Plugins: []string{s.Plugin}},
	}
	l.pids = read()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	return l
}

// What the test binary does as a runtime and as a plugin.
var _ = func() bool {
	playRole = func(role string) {
		switch role {
		case "":
			return
		case "runtime":
			var s start
			if err := json.Unmarshal([]byte(os.Getenv("PLUGIN_TEST_START")), &s); err != nil {
				panic(err)
			}
			r := New(Options{BinDirs: []string{s.Dir}, Env: append(s.Env, "PATH")})
			_, err := r.Run(context.Background(), Call{
				Verb: s.Verb, Plugin: s.Plugin, ContainerID: sandbox(s.Dir), IfName: "eth0",
				NetNS: func(context.Context) (string, error) { return s.NetNS, nil },
			})
			fmt.Fprintln(os.Stderr, "the plugin came to its end:", err)
		case "hang":
			tell()
			<-time.After(10 * time.Minute)
		case "deaf":
			// The file is closed by the exec, which waits for its file system.
			if _, err := unix.Open(os.Getenv("PLUGIN_TEST_FILE"), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				panic(err)
			}
			tell()
			if err := os.Setenv("PLUGIN_TEST_ROLE", "linger"); err != nil {
				panic(err)
			}
			panic(unix.Exec(os.Args[0], os.Args, os.Environ()))
		case "linger":
			<-time.After(10 * time.Minute)
		}
		os.Exit(3)
	}
	return true
}()

// tell tells the number of a plugin that is a binary.
func tell() {
	exe, err := os.Executable()
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(exe), "pids"), fmt.Appendln(nil, os.Getpid()), 0)
	}
	if err != nil {
		panic(err)
	}
}

func runner(l left) *Runner { return New(Options{BinDirs: []string{l.dir}}) }

func end(t *testing.T, l left, runs ...Attachment) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return runner(l).EndOrphans(ctx, l.writer, append(runs, l.run))
}

const hangs = `echo $$ >"$DIR/pids"; sleep 300`

// binDir has the test binary as the plugin "binary".
func binDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	require.NoError(t, err)
	if os.Link(exe, filepath.Join(dir, "binary")) != nil {
		content, err := os.ReadFile(exe)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "binary"), content, 0o755))
	}
	return dir
}

func TestOrphansAreEnded(t *testing.T) {
	t.Parallel()
	script := func(body string) func(t *testing.T) string {
		return func(t *testing.T) string { return newBin(t, map[string]string{"a-long-name-of-a-script": body}) }
	}
	const withChild = `sleep 300 & echo $$ $! >"$DIR/pids"; wait`
	for name, test := range map[string]struct {
		bin func(t *testing.T) string
		start
		prepare func(t *testing.T, l *left)
	}{
		"a binary": {binDir, start{Verb: spec.Add, Plugin: "binary", NetNS: netNS, Env: []string{"PLUGIN_TEST_ROLE=hang"}}, nil},
		"a binary that was replaced": {
			binDir,
			start{Verb: spec.Add, Plugin: "binary", NetNS: netNS, Env: []string{"PLUGIN_TEST_ROLE=hang"}},
			func(t *testing.T, l *left) {
				require.NoError(t, os.Remove(filepath.Join(l.dir, "binary")))
				l.run.Plugins = nil
			},
		},
		"a link to a binary elsewhere": {
			func(t *testing.T) string {
				dir := t.TempDir()
				require.NoError(t, os.Symlink(filepath.Join(binDir(t), "binary"), filepath.Join(dir, "link")))
				// It looks for the pipe beside itself.
				real, err := filepath.EvalSymlinks(filepath.Join(dir, "link"))
				require.NoError(t, err)
				require.NoError(t, os.Symlink(filepath.Join(dir, "pids"), filepath.Join(filepath.Dir(real), "pids")))
				return dir
			},
			start{Verb: spec.Add, Plugin: "link", NetNS: netNS, Env: []string{"PLUGIN_TEST_ROLE=hang"}},
			func(t *testing.T, l *left) {
				comm, err := os.ReadFile(procFile(l.pids[0], "comm"))
				require.NoError(t, err)
				require.Equal(t, "link\n", string(comm))
			},
		},
		"a script and its child": {script(withChild), start{Verb: spec.Add, Plugin: "a-long-name-of-a-script", NetNS: netNS}, nil},
		"a DEL":                  {script(withChild), start{Verb: spec.Del, Plugin: "a-long-name-of-a-script", NetNS: netNS}, nil},
		"a DEL without namespace": {
			script(withChild), start{Verb: spec.Del, Plugin: "a-long-name-of-a-script"}, nil,
		},
		"deaf to TERM": {
			script(`trap '' TERM; echo $$ >"$DIR/pids"; while :; do sleep 1; done`),
			start{Verb: spec.Add, Plugin: "a-long-name-of-a-script", NetNS: netNS},
			nil,
		},
		"a delegate": {
			func(t *testing.T) string {
				return newBin(t, map[string]string{"main": `"$DIR/ipam" & wait`, "ipam": `echo $PPID $$ >"$DIR/pids"; sleep 300`})
			},
			start{Verb: spec.Add, Plugin: "main", NetNS: netNS},
			func(t *testing.T, l *left) {
				require.NoError(t, syscall.Kill(l.pids[0], syscall.SIGKILL))
				requireGone(t, l.pids[0])
				l.run.Plugins = append(l.run.Plugins, "ipam")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.Dir = test.bin(t)
			l := leave(t, test.start)
			if test.prepare != nil {
				test.prepare(t, &l)
			}
			require.NoError(t, end(t, l, Attachment{ContainerID: l.run.ContainerID, IfName: "eth1"}))
			for _, pid := range l.pids {
				require.False(t, alive(pid), "it returns when they are gone")
			}
		})
	}
}

// Nobody else is ended: what is not certainly a plugin's run for the attachment.
func TestOrphansOthersLive(t *testing.T) {
	t.Parallel()
	plugin := func(body string) map[string]string { return map[string]string{"plugin": body} }
	const simple = `sleep 300 & echo $$ $! >"$DIR/pids"; wait`
	for name, test := range map[string]struct {
		scripts map[string]string
		verb    string
		netNS   string
		other   func(t *testing.T, l *left)
	}{
		"a daemon": {
			scripts: map[string]string{
				"plugin": `setsid "$DIR/daemon" & wait`, "daemon": `sleep 300 & echo $$ $! >"$DIR/pids"; wait`,
			},
			other: func(_ *testing.T, l *left) { l.run.Plugins = append(l.run.Plugins, "daemon") },
		},
		"another sandbox":   {plugin(simple), spec.Add, netNS, func(_ *testing.T, l *left) { l.run.ContainerID = "other" }},
		"another interface": {plugin(simple), spec.Add, netNS, func(_ *testing.T, l *left) { l.run.IfName = "eth1" }},
		"another namespace": {plugin(simple), spec.Add, netNS, func(_ *testing.T, l *left) { l.run.NetNS = "/other" }},
		"another verb":      {plugin(simple), spec.Check, netNS, nil},
		"an ADD without":    {plugin(simple), spec.Add, "", nil},
		"another CNI_PATH": {plugin(simple), spec.Del, "", func(t *testing.T, l *left) {
			l.dir = t.TempDir() // the script is still known by its name
		}},
		"a writer that came later": {plugin(simple), spec.Add, netNS, func(_ *testing.T, l *left) { l.writer.Start += 1e6 }},
		"a writer of another boot": {plugin(simple), spec.Add, netNS, func(_ *testing.T, l *left) { l.writer.BootID = "x" }},
		"no writer":                {plugin(simple), spec.Add, netNS, func(_ *testing.T, l *left) { l.writer = proc.ID{} }},
		"another PID namespace": {
			scripts: map[string]string{
				"plugin": `unshare --user --map-root-user --pid --fork "$DIR/inner" &
					while kill -0 $! && [ -z "$c" ]; do read c </proc/$!/task/$!/children; done 2>/dev/null
					echo $c >"$DIR/pids"; wait`,
				"inner": `sleep 300`,
			},
			other: func(t *testing.T, l *left) {
				if len(l.pids) == 0 {
					t.Skip("no PID namespace is to be had")
				}
				l.run.Plugins = append(l.run.Plugins, "unshare", "inner", "sleep")
			},
		},
		"another mount namespace": {
			scripts: map[string]string{
				"plugin": `unshare --user --map-root-user --mount "$DIR/inner" || echo $$ >"$DIR/pids"; sleep 3`,
				"inner":  `echo $$ >"$DIR/pids"; exec sleep 300`,
			},
			other: func(t *testing.T, l *left) {
				ours, err := os.Readlink("/proc/self/ns/mnt")
				require.NoError(t, err)
				ns, err := os.Readlink(procFile(l.pids[0], "ns/mnt"))
				require.NoError(t, err)
				if ours == ns {
					t.Skip("no mount namespace is to be had")
				}
				l.run.Plugins = append(l.run.Plugins, "sleep", "inner")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start{Dir: newBin(t, test.scripts), Verb: test.verb, Plugin: "plugin", NetNS: test.netNS}
			if s.Verb == "" {
				s.Verb, s.NetNS = spec.Add, netNS
			}
			l := leave(t, s)
			if test.other != nil {
				test.other(t, &l)
			}
			require.NoError(t, end(t, l))
			for _, pid := range l.pids {
				require.True(t, alive(pid), "process %d", pid)
			}
		})
	}
}

// Whoever only has a plugin's environment is not even asked for it, so that it
// can hold up nobody.
func TestOrphansImitatedEnvironment(t *testing.T) {
	t.Parallel()
	dir := newBin(t, map[string]string{"plugin": hangs})
	l := left{dir: dir, run: Attachment{ContainerID: sandbox(dir), IfName: "eth0", NetNS: netNS, Plugins: []string{"plugin"}}}
	l.writer = oldWriter(t)
	read := pidPipe(t, dir)
	cmd := exec.Command("/bin/sh", "-c", `sleep 300 & first=$!; sleep 300 & echo $first $! >"$DIR/pids"`)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "DIR=" + dir, "CNI_COMMAND=ADD", "CNI_CONTAINERID=" + sandbox(dir), "CNI_IFNAME=eth0",
		"CNI_NETNS=" + netNS, "CNI_PATH=" + dir,
	}
	cmd.SysProcAttr = groupAttr()
	require.NoError(t, cmd.Run())
	pids := read()
	require.Len(t, pids, 2)

	r := runner(l)
	var asked atomic.Int32
	r.procs.environ = func(pid int) ([]byte, error) {
		if slices.Contains(pids, pid) {
			asked.Add(1)
		}
		return readEnviron(pid)
	}
	require.NoError(t, r.EndOrphans(t.Context(), l.writer, []Attachment{l.run}))
	require.Zero(t, asked.Load())
	for _, pid := range pids {
		require.True(t, alive(pid))
	}
	// They would be ended if they were plugins.
	l.run.Plugins = append(l.run.Plugins, "sleep")
	require.NoError(t, r.EndOrphans(t.Context(), l.writer, []Attachment{l.run}))
	requireGone(t, pids...)
}

// oldWriter is a process that is dead and not older than what comes now.
func oldWriter(t *testing.T) proc.ID {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	require.NoError(t, cmd.Start())
	start, ok := proc.Start(cmd.Process.Pid)
	require.True(t, ok)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	return proc.ID{PID: cmd.Process.Pid, Start: start, BootID: proc.BootID()}
}

// A plugin whose parent lives is no orphan.
func TestOrphansLiveParent(t *testing.T) {
	t.Parallel()
	dir := newBin(t, map[string]string{"plugin": hangs})
	read := pidPipe(t, dir)
	writer := oldWriter(t)
	text, err := json.Marshal(start{Dir: dir, Verb: spec.Add, Plugin: "plugin", NetNS: netNS})
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PLUGIN_TEST_ROLE=runtime", "PLUGIN_TEST_START="+string(text))
	require.NoError(t, cmd.Start())
	pid := read()[0]
	l := left{dir: dir, writer: writer, run: Attachment{ContainerID: sandbox(dir), IfName: "eth0", NetNS: netNS, Plugins: []string{"plugin", "sleep"}}}
	require.NoError(t, end(t, l))
	require.True(t, alive(pid))

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	require.NoError(t, end(t, l))
	require.False(t, alive(pid))
}

// What cannot be decided is named, and not signalled; what is certain is ended
// all the same.
func TestOrphansUndecided(t *testing.T) {
	t.Parallel()
	l := leave(t, start{
		Dir:  newBin(t, map[string]string{"undecided": `mkfifo "$DIR/never"; sleep 300 & echo $$ $! >"$DIR/pids"; read x <"$DIR/never"`}),
		Verb: spec.Add, Plugin: "undecided", NetNS: netNS,
	})
	hung, other := l.pids[0], l.pids[1]
	r := runner(l)
	r.procs.environWait = 2 * time.Second
	release, asked := make(chan struct{}), make(chan struct{}, 10)
	r.procs.environ = func(pid int) ([]byte, error) {
		if pid == hung {
			asked <- struct{}{}
			<-release
		}
		return readEnviron(pid)
	}
	began := time.Now()
	err := r.EndOrphans(t.Context(), l.writer, []Attachment{l.run})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, fmt.Sprintf("process %d ", hung))
	require.NotContains(t, err.Error(), fmt.Sprint(other))
	require.GreaterOrEqual(t, time.Since(began), r.procs.environWait)
	require.True(t, alive(hung))
	require.False(t, alive(other))

	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.EndOrphans(ctx, l.writer, []Attachment{l.run}) }()
	<-asked
	cancel()
	began = time.Now()
	err = <-ended
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, fmt.Sprintf("process %d ", hung))
	require.Less(t, time.Since(began), r.procs.environWait, "the context is the bound")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.EndOrphans(over, l.writer, []Attachment{l.run}), context.Canceled)
	close(release)
	require.Eventually(t, func() bool { return r.looks.Load() == 0 }, patience, time.Millisecond)

	r.procs.environ = func(int) ([]byte, error) { return nil, os.ErrPermission }
	require.ErrorIs(t, r.EndOrphans(t.Context(), l.writer, []Attachment{l.run}), os.ErrPermission)
	r.procs.environ = func(int) ([]byte, error) { return nil, os.ErrNotExist }
	require.NoError(t, r.EndOrphans(t.Context(), l.writer, []Attachment{l.run}), "it is gone")
	r.procs.environ, r.procs.openPidfd = readEnviron, func(int, int) (int, error) { return -1, unix.ENOSYS }
	err = r.EndOrphans(t.Context(), l.writer, []Attachment{l.run})
	require.ErrorIs(t, err, unix.ENOSYS)
	require.ErrorContains(t, err, fmt.Sprintf("process %d ", hung))
	require.True(t, alive(hung), "without a descriptor nobody is signalled")
	r.looks.Store(maxLooks)
	require.ErrorIs(t, r.EndOrphans(t.Context(), l.writer, []Attachment{l.run}), context.DeadlineExceeded)
}

// Process numbers begin anew: a child can be listed before its parent, and the
// parent be gone when it is its turn. What the child does can be read all the same.
func TestOrphansParentDiesMeanwhile(t *testing.T) {
	t.Parallel()
	gone := exec.Command("true")
	require.NoError(t, gone.Run())
	child := exec.Command("sleep", "300")
	require.NoError(t, child.Start())
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	pid := child.Process.Pid
	listed := process{pid: pid, parent: gone.Process.Pid, group: pid, session: 1}
	groups := New(Options{}).leftBehind(t.Context(), map[int]process{pid: listed}, proc.ID{})
	require.Len(t, groups[pid], 1)
	require.True(t, groups[pid][0].known)

	listed.parent = os.Getppid() // not listed either, but alive
	groups = New(Options{}).leftBehind(t.Context(), map[int]process{pid: listed}, proc.ID{})
	require.Len(t, groups[pid], 1)
	require.False(t, groups[pid][0].known)
}

// The context ends the wait for what does not end.
func TestOrphansContext(t *testing.T) {
	t.Parallel()
	l := leave(t, start{
		Dir:  newBin(t, map[string]string{"plugin": `trap '' TERM; echo $$ >"$DIR/pids"; while :; do sleep 1; done`}),
		Verb: spec.Add, Plugin: "plugin", NetNS: netNS,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	r := runner(l)
	r.procs.identityWait = 300 * time.Millisecond
	err := r.EndOrphans(ctx, l.writer, []Attachment{l.run})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, fmt.Sprintf("process %d ", l.pids[0]))
}

// A number that became another's is not signalled.
func TestOrphansReusedNumber(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "300")
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	start, ok := proc.Start(cmd.Process.Pid)
	require.True(t, ok)
	p := process{pid: cmd.Process.Pid, identity: identity{start: start - 1}}
	require.NoError(t, New(Options{}).endAll(t.Context(), []process{p}))
	require.True(t, alive(cmd.Process.Pid))
}

// The environment of a process whose exec hangs, here on a file system that does
// not answer, can be read by nobody until that goes on.
func TestOrphansHungEnvironment(t *testing.T) {
	t.Parallel()
	path, asked, answer := fuseFile(t, fuseFlush)
	dir := binDir(t)
	require.NoError(t, os.Rename(filepath.Join(dir, "binary"), filepath.Join(dir, "hung")))
	l := leave(t, start{
		Dir: dir, Verb: spec.Add, Plugin: "hung", NetNS: netNS,
		Env: []string{"PLUGIN_TEST_ROLE=deaf", "PLUGIN_TEST_FILE=" + path},
	})
	<-asked
	pid := l.pids[0]
	r := runner(l)
	r.procs.identityWait, r.procs.environWait = 300*time.Millisecond, time.Second
	began := time.Now()
	err := r.EndOrphans(t.Context(), l.writer, []Attachment{l.run})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, fmt.Sprintf("process %d ", pid))
	require.Less(t, time.Since(began), environWait)
	// For a process that is not ours, only its identity is waited for.
	l.run.Plugins = []string{"other"}
	began = time.Now()
	require.NoError(t, r.EndOrphans(t.Context(), l.writer, []Attachment{l.run}))
	require.Less(t, time.Since(began), environWait)
	r.procs.identityWait, r.procs.environWait = identityWait, environWait
	answer()
	require.Eventually(t, func() bool { return r.looks.Load() == 0 }, patience, time.Millisecond)
	require.True(t, alive(pid))
	require.NoError(t, r.EndOrphans(t.Context(), l.writer, []Attachment{l.run}))
	require.False(t, alive(pid))
}
