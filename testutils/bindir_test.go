package testutils_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// plugin is a run of a plugin as a runtime makes it.
func plugin(path, verb, stdin string) *exec.Cmd {
	cmd := exec.Command(path)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=pod", "CNI_IFNAME=eth0",
		"CNI_NETNS=/run/netns/pod", "CNI_PATH=" + filepath.Dir(path),
	}
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

type outcome struct {
	stdout, stderr string
	exit           int
}

func runPlugin(t *testing.T, path, verb, stdin string) outcome {
	t.Helper()
	cmd := plugin(path, verb, stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		exit := new(exec.ExitError)
		require.ErrorAs(t, err, &exit)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

const conf = `{"cniVersion":"1.0.0","name":"net","type":"bridge"}`

func TestDefaultsAreThoseOfAPluginThatWorks(t *testing.T) {
	t.Parallel()
	d := testutils.NewBinDir(t).Add("bridge", "tuning")

	require.Equal(t, "tuning", d.Plugin("tuning").Name())
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		stdin := `{"cniVersion":"` + version + `","name":"net","type":"bridge"}`
		out := runPlugin(t, d.Plugin("bridge").Path(), "ADD", stdin)
		require.Equal(t, 0, out.exit, out.stdout)
		require.Empty(t, out.stderr)
		result, err := create.Create(version, []byte(out.stdout))
		require.NoError(t, err)
		require.Equal(t, version, result.Version())
	}
	chained := `{"cniVersion":"1.0.0","name":"net","type":"tuning","prevResult":{"cniVersion":"1.0.0","x":1}}`
	require.Equal(t, outcome{stdout: `{"cniVersion":"1.0.0","x":1}`}, runPlugin(t, d.Plugin("tuning").Path(), "ADD", chained))
	for _, verb := range []string{"DEL", "CHECK", "GC", "STATUS"} {
		require.Equal(t, outcome{}, runPlugin(t, d.Plugin("bridge").Path(), verb, conf))
	}
	var versions struct{ SupportedVersions []string }
	out := runPlugin(t, d.Plugin("bridge").Path(), "VERSION", `{"cniVersion":"1.1.0"}`)
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &versions))
	require.Contains(t, versions.SupportedVersions, "0.1.0")
	require.Contains(t, versions.SupportedVersions, "1.1.0")

	d.Plugin("tuning").Versions("0.3.0", "0.4.0")
	out = runPlugin(t, d.Plugin("tuning").Path(), "VERSION", "{}")
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &versions))
	require.Equal(t, []string{"0.3.0", "0.4.0"}, versions.SupportedVersions)

	require.Equal(t, 1, runPlugin(t, d.Plugin("bridge").Path(), "NONSENSE", conf).exit)
	require.Equal(t, 1, runPlugin(t, d.Plugin("bridge").Path(), "ADD", `{"cniVersion":"9.9.9","name":"net"}`).exit)
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	again := types.NewError(types.ErrTryAgainLater, "busy", "for a while")
	object := `{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"for a while"}`
	tests := map[string]struct {
		answer testutils.Answer
		want   outcome
	}{
		"a result":                {testutils.Answer{Result: `{"a":1}`}, outcome{stdout: `{"a":1}`}},
		"an error":                {testutils.Answer{Error: again}, outcome{stdout: object, exit: 1}},
		"an error and a status":   {testutils.Answer{Error: again, Exit: 7}, outcome{stdout: object, exit: 7}},
		"a silent error":          {testutils.Answer{Error: again, NoOutput: true}, outcome{exit: 1}},
		"nothing":                 {testutils.Answer{NoOutput: true}, outcome{}},
		"a crash":                 {testutils.Answer{Exit: 2, Stderr: "panic"}, outcome{stderr: "panic", exit: 2}},
		"a result and a status":   {testutils.Answer{Result: "no JSON", Exit: 3}, outcome{stdout: "no JSON", exit: 3}},
		"text before the answer":  {testutils.Answer{StdoutBefore: "log\n", Result: "{}"}, outcome{stdout: "log\n{}"}},
		"blanks before the rest":  {testutils.Answer{StdoutFlood: 3, StdoutBefore: "log\n", Result: "{}"}, outcome{stdout: "   log\n{}"}},
		"much on stderr":          {testutils.Answer{StderrFlood: 4, Stderr: "end", NoOutput: true}, outcome{stderr: "fakeend"}},
		"an answer after a while": {testutils.Answer{Delay: 200 * time.Millisecond, Result: "{}"}, outcome{stdout: "{}"}},
		"versions": {
			testutils.Answer{Versions: []string{"0.4.0"}},
			outcome{stdout: `{"cniVersion":"1.1.0","supportedVersions":["0.4.0"]}`},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := testutils.NewBinDir(t).Plugin("bridge").On("VERSION", tt.answer)
			begin := time.Now()
			require.Equal(t, tt.want, runPlugin(t, p.Path(), "VERSION", conf))
			require.GreaterOrEqual(t, time.Since(begin), tt.answer.Delay)
		})
	}
}

func TestFloodsAreAsLongAsAsked(t *testing.T) {
	t.Parallel()
	const size = 300_001
	p := testutils.NewBinDir(t).Plugin("bridge").On("ADD", testutils.Answer{StdoutFlood: size, StderrFlood: size, Result: "{}"})
	out := runPlugin(t, p.Path(), "ADD", conf)
	require.Equal(t, strings.Repeat(" ", size)+"{}", out.stdout)
	require.Len(t, out.stderr, size)
}

func TestQueuedAnswersComeFirstAndOnce(t *testing.T) {
	t.Parallel()
	p := testutils.NewBinDir(t).Plugin("bridge").
		On("DEL", testutils.Answer{Result: "usual"}).
		Next("DEL", testutils.Answer{Result: "first"}, testutils.Answer{Result: "second"})
	p.Next("DEL", testutils.Answer{Result: "third"})

	require.Equal(t, outcome{}, runPlugin(t, p.Path(), "CHECK", conf))
	for _, want := range []string{"first", "second", "third", "usual", "usual"} {
		require.Equal(t, outcome{stdout: want}, runPlugin(t, p.Path(), "DEL", conf))
	}
}

func TestRunsAtTheSameTimeTakeDifferentAnswers(t *testing.T) {
	t.Parallel()
	p := testutils.NewBinDir(t).Plugin("bridge").On("DEL", testutils.Answer{Result: "usual"})
	for _, answer := range []string{"a", "b", "c", "d"} {
		p.Next("DEL", testutils.Answer{Result: answer})
	}
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			out, err := plugin(p.Path(), "DEL", conf).Output()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out = []byte(err.Error())
			}
			got = append(got, string(out))
		})
	}
	wg.Wait()
	require.ElementsMatch(t, []string{"a", "b", "c", "d", "usual", "usual"}, got)
	require.Len(t, p.Calls(t), 6)
}

func TestCallsAreRecordedAsTheyWere(t *testing.T) {
	t.Parallel()
	d := testutils.NewBinDir(t).Add("a", "b")
	cmd := plugin(d.Plugin("a").Path(), "ADD", conf+"\x00\xff")
	cmd.Env = append(cmd.Env, "EMPTY=", "LINES=1\n2")
	require.NoError(t, cmd.Run())
	runPlugin(t, d.Plugin("b").Path(), "VERSION", "")
	runPlugin(t, d.Plugin("b").Path(), "DEL", conf)

	calls := d.Calls(t)
	require.Equal(t, []string{"ADD a", "DEL b"}, testutils.Verbs(calls))
	require.Len(t, calls, 3)
	add := calls[0]
	require.Equal(t, "a", add.Plugin)
	require.Equal(t, d.Plugin("a").Path(), add.Path)
	require.Equal(t, conf+"\x00\xff", string(add.Stdin))
	require.Equal(t, cmd.Process.Pid, add.PID)
	require.Equal(t, "/run/netns/pod", add.Env["CNI_NETNS"])
	require.True(t, add.Done)
	require.Less(t, add.EndSeq, calls[1].Seq)
	require.Equal(t, cmd.Env, add.Environ)
	require.Len(t, d.Plugin("b").Calls(t), 2)
	require.Len(t, d.Plugin("b").Calls(t, "DEL"), 1)
}

func TestAKilledRunIsRecordedAndNotDone(t *testing.T) {
	t.Parallel()
	p := testutils.NewBinDir(t).Plugin("bridge").On("ADD", testutils.Answer{Hang: true, IgnoreTERM: true})
	cmd := plugin(p.Path(), "ADD", conf)
	require.NoError(t, cmd.Start())
	calls := p.WaitCalls(t, "ADD", 1)
	require.False(t, calls[0].Done)
	require.Zero(t, calls[0].EndSeq)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.False(t, p.Calls(t)[0].Done)
}

func TestAnExecutableIsAFileOfItsOwn(t *testing.T) {
	t.Parallel()
	d := testutils.NewBinDir(t)
	a, b := d.Plugin("a"), d.Plugin("b")
	require.Same(t, a, d.Plugin("a"))
	infoA, err := os.Lstat(a.Path())
	require.NoError(t, err)
	infoB, err := os.Lstat(b.Path())
	require.NoError(t, err)
	require.True(t, infoA.Mode().IsRegular())
	require.False(t, os.SameFile(infoA, infoB))

	moved := filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.Rename(a.Path(), moved))
	runPlugin(t, moved, "DEL", conf)
	require.Len(t, a.Calls(t), 1)
	a.Install()
	runPlugin(t, a.Path(), "DEL", conf)
	require.Len(t, a.Calls(t), 2)
	a.Remove()
	require.NoFileExists(t, a.Path())

	entries, err := os.ReadDir(d.Path())
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestAGateHoldsRunsUp(t *testing.T) {
	t.Parallel()
	p := testutils.NewBinDir(t).Plugin("bridge")
	g := p.Gate("ADD")
	cmds := make(map[int]*exec.Cmd)
	start := func() {
		cmd := plugin(p.Path(), "ADD", conf)
		require.NoError(t, cmd.Start())
		cmds[cmd.Process.Pid] = cmd
	}
	start()
	start()
	first, second := g.Wait(t), g.Wait(t)
	require.NotEqual(t, first.PID, second.PID)
	require.Contains(t, cmds, first.PID)
	require.Contains(t, cmds, second.PID)
	require.Equal(t, outcome{}, runPlugin(t, p.Path(), "DEL", conf)) // is not held up

	// One that is killed takes nobody's turn.
	require.NoError(t, cmds[first.PID].Process.Kill())
	require.Error(t, cmds[first.PID].Wait())
	g.Release()
	require.NoError(t, cmds[second.PID].Wait())

	g.Release() // ahead
	start()
	last := g.Wait(t)
	require.NoError(t, cmds[last.PID].Wait())

	start()
	last = g.Wait(t)
	g.Open()
	g.Open()
	require.NoError(t, cmds[last.PID].Wait())
	start()
	for _, c := range p.WaitCalls(t, "ADD", 5)[4:] {
		require.NoError(t, cmds[c.PID].Wait())
	}
	p.Gate("ADD").Open() // there may be another one
}

func TestAPoolKeepsAccount(t *testing.T) {
	t.Parallel()
	p := testutils.NewBinDir(t).Plugin("ipam").Pool()
	require.Empty(t, p.Held(t))
	require.Equal(t, 1, runPlugin(t, p.Path(), "CHECK", conf).exit)

	p.Next("ADD", testutils.Answer{Exit: 1})
	require.Equal(t, 1, runPlugin(t, p.Path(), "ADD", conf).exit)
	require.Equal(t, []string{"net pod eth0"}, p.Held(t))
	require.Equal(t, outcome{}, runPlugin(t, p.Path(), "CHECK", conf))
	require.Contains(t, runPlugin(t, p.Path(), "ADD", conf).stdout, "duplicate allocation")

	p.Next("DEL", testutils.Answer{Error: types.NewError(100, "no", "")})
	require.Equal(t, 1, runPlugin(t, p.Path(), "DEL", conf).exit)
	require.NotEmpty(t, p.Held(t))
	require.Equal(t, outcome{}, runPlugin(t, p.Path(), "DEL", conf))
	require.Equal(t, outcome{}, runPlugin(t, p.Path(), "DEL", conf))
	require.Empty(t, p.Held(t))
}

func TestSignalsAndChildren(t *testing.T) {
	t.Parallel()
	d := testutils.NewBinDir(t)
	p := d.Plugin("bridge").Next("ADD", testutils.Answer{Signal: syscall.SIGKILL})
	require.Equal(t, -1, runPlugin(t, p.Path(), "ADD", conf).exit)
	require.Empty(t, testutils.Processes(t, d.Path()))

	for _, setsid := range []bool{false, true} {
		p.Next("ADD", testutils.Answer{Child: true, ChildSetsid: setsid, Result: "{}"})
		cmd := plugin(p.Path(), "ADD", conf)
		var stdout bytes.Buffer
		cmd.Stdout = &stdout
		cmd.WaitDelay = time.Millisecond
		cmd.SysProcAttr = ownGroup()
		require.ErrorIs(t, cmd.Run(), exec.ErrWaitDelay)
		require.Len(t, testutils.Processes(t, d.Path()), 1)
		err := killGroup(cmd.Process.Pid)
		if setsid {
			require.Error(t, err) // nobody is left in it
			require.NoError(t, killGroup(testutils.Processes(t, d.Path())[0]))
		} else {
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool { return len(testutils.Processes(t, d.Path())) == 0 },
			time.Minute, 5*time.Millisecond)
	}
}

func TestResultPanicsOnNonsense(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { testutils.Result("1.0.0", "eth0", "", "no address") })
	require.Panics(t, func() { testutils.Result("7.0.0", "eth0", "", "10.0.0.1/8") })
	_, err := create.Create("0.2.0", []byte(testutils.Result("0.2.0", "eth0", "", "10.0.0.5/8", "fd00::5/64")))
	require.NoError(t, err)
}

func TestPluginsWorkWhereverTemporaryFilesAre(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	content, err := os.ReadFile(exe)
	require.NoError(t, err)
	// A test binary whose path no script can name: with a blank, and long.
	copied := filepath.Join(dir, strings.Repeat("long ", 40)+".exe")
	require.NoError(t, os.WriteFile(copied, content, 0o755))
	temp := filepath.Join(dir, "with blank")
	require.NoError(t, os.Mkdir(temp, 0o755))

	cmd := exec.Command(copied, "-test.run=^Test(QueuedAnswers|SignalsAndChildren|AKilledRun|Example)")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "PASS")
}

func TestARunMayIgnoreTERM(t *testing.T) {
	t.Parallel()
	p := testutils.NewBinDir(t).Plugin("bridge")
	g := p.Gate("DEL")
	for _, ignore := range []bool{true, false} {
		p.On("DEL", testutils.Answer{IgnoreTERM: ignore})
		cmd := plugin(p.Path(), "DEL", conf)
		require.NoError(t, cmd.Start())
		g.Wait(t)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		if ignore {
			g.Release()
			require.NoError(t, cmd.Wait())
		} else {
			require.Error(t, cmd.Wait())
		}
	}
}
