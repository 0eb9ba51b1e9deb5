package faults_test

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// failure is a plugin's answer that it failed.
func failure() testutils.Answer {
	return testutils.Answer{Error: types.NewError(100, "not now", "")}
}

// One DEL that hangs, and then goes on to its time limit, does not use up the
// grace of the pod's others.
func TestGraceIsShared(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b", "bad")
	n.bin.Plugin("bad").On("DEL", testutils.Answer{Hang: true})
	p := n.open(podcni.WithTeardownGrace(9 * time.Second))
	pod := n.pod("torn", "a", "bad", "b", "bad")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = p.TearDownPodWithContext(ctx, pod)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "bad", requirePluginError(t, err).Plugin)
	require.Equal(t, []string{"DEL bad", "DEL b", "DEL bad", "DEL a"}, n.verbs()[4:])
	require.ElementsMatch(t, []string{"bad-torn-eth1", "bad-torn-eth3"}, n.records())
}

// ... nor that of a set-up which is undone.
func TestUndoIsShared(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "bad")
	n.bin.Plugin("bad").On("DEL", testutils.Answer{Hang: true})
	n.bin.Plugin("bad").On("ADD", testutils.Answer{Exit: 1})
	p := n.open(podcni.WithTeardownGrace(6 * time.Second))
	_, err := p.SetUpPod(n.pod("sandbox", "a", "bad"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, []string{"ADD a", "ADD bad", "DEL bad", "DEL a"}, n.verbs())
	require.Equal(t, []string{"bad-sandbox-eth1"}, n.records())
}

// A plugin that is no program has done nothing: it does not keep those before it
// from being undone.
func TestPluginIsNoProgram(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.bin.Add("first", "second")
	n.bin.Plugin("first").Pool()
	n.conf.Write("net.conflist", testutils.List("net", "1.1.0", "first", "second"))
	p := n.open(podcni.WithoutWatch())
	path := n.bin.Plugin("second").Path()
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, []byte("\x7fELF, but cut"), 0o755))
	_, err := p.SetUpPod(n.pod("sandbox", "net"))
	require.ErrorIs(t, err, syscall.ENOEXEC)
	require.Equal(t, "second", requirePluginError(t, err).Plugin)
	require.Equal(t, []string{"ADD first", "DEL first"}, n.verbs())
	require.Empty(t, n.records())
	require.Empty(t, n.bin.Plugin("first").Held(t))
}

// A binary that is replaced between ADD and DEL, and between two pods, is taken
// as it is.
func TestBinaryReplaced(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open(podcni.WithoutWatch())
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	path := n.bin.Plugin("a").Path()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path+".new", content, 0o755))
	require.NoError(t, os.Rename(path+".new", path))
	require.NoError(t, p.TearDownPod(pod))
	_, err = p.SetUpPod(pod)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o644))
	require.ErrorIs(t, p.TearDownPod(pod), podcni.ErrPluginNotFound)
	require.Len(t, n.records(), 1)
	require.NoError(t, os.Chmod(path, 0o755))
	require.NoError(t, p.TearDownPod(pod))
	require.Equal(t, []string{"ADD a", "DEL a", "ADD a", "DEL a"}, n.verbs())
}

// The exit status says whether a DEL succeeded. Only the object that is the whole
// of a failed plugin's stdout is its error.
func TestDelAnswers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer testutils.Answer
		code   uint // 0: no error of the plugin's
		want   error
	}{
		"nothing":                     {answer: testutils.Answer{NoOutput: true}},
		"garbage":                     {answer: testutils.Answer{Result: "bye {"}},
		"null":                        {answer: testutils.Answer{Result: "null"}},
		"a result":                    {answer: testutils.Answer{Result: `{"cniVersion":"1.1.0"}`}},
		"an error and exit 0":         {answer: testutils.Answer{Result: `{"cniVersion":"1.1.0","code":7,"msg":"no"}`}},
		"a log, an error and exit 0":  {answer: testutils.Answer{StdoutBefore: "hm {\n", Result: `{"code":8,"msg":"no"}`}},
		"OK with a code and exit 0":   {answer: testutils.Answer{Result: `{"code":200,"msg":"OK"}`}},
		"unknown in a log on stdout":  {answer: testutils.Answer{StdoutBefore: `{"annotation":{"code":3,"msg":"x"}}` + "\n", Error: types.NewError(100, "no", "")}, want: podcni.ErrBadOutput},
		"unknown in a log on stderr":  {answer: testutils.Answer{Stderr: `{"code":3,"msg":"x"}` + "\n", Exit: 1}, want: errAny},
		"later in a log on stderr":    {answer: testutils.Answer{Stderr: `{"code":11,"msg":"x"}` + "\n", Exit: 1}, want: errAny},
		"an error":                    {answer: testutils.Answer{Error: types.NewError(100, "no", "")}, code: 100},
		"container unknown":           {answer: testutils.Answer{Error: types.NewError(types.ErrUnknownContainer, "who?", "")}},
		"unknown, with exit 0":        {answer: testutils.Answer{Result: `{"code":3,"msg":"who?"}`}},
		"exit 1":                      {answer: testutils.Answer{Exit: 1}, want: errAny},
		"killed":                      {answer: testutils.Answer{Signal: syscall.SIGKILL}, want: errAny},
		"2 GiB":                       {answer: testutils.Answer{StdoutFlood: 2 << 30}, want: podcni.ErrOutputTooLarge},
		"a flood and an error":        {answer: testutils.Answer{StderrFlood: 8 << 20, Error: types.NewError(101, "no", "")}, code: 101},
		"a child that holds its pipe": {answer: testutils.Answer{Child: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "bad")
			n.bin.Plugin("bad").Next("DEL", tc.answer)
			p := n.open()
			pod := n.pod("sandbox", "a", "bad")
			_, err := p.SetUpPod(pod)
			require.NoError(t, err)
			err = p.TearDownPod(pod)
			require.Equal(t, []string{"DEL bad", "DEL a"}, n.verbs()[2:])
			if tc.code == 0 && tc.want == nil {
				require.NoError(t, err)
				require.Empty(t, n.records())
				return
			}
			require.Equal(t, "DEL", requirePluginError(t, err).Verb)
			var answer *types.Error
			switch {
			case tc.code != 0:
				require.ErrorAs(t, err, &answer)
				require.Equal(t, tc.code, answer.Code)
			case !errors.Is(tc.want, errAny):
				require.ErrorIs(t, err, tc.want)
			}
			require.Equal(t, []string{"bad-sandbox-eth1"}, n.records())
			require.NoError(t, p.TearDownPod(pod))
			require.Empty(t, n.records())
		})
	}
}

var errAny = errors.New("whatever it is")

// A plugin that prints 2 GiB to ADD is ended, and undone.
func TestAddPrints2GiB(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	n.bin.Plugin("a").On("ADD", testutils.Answer{StdoutFlood: 2 << 30})
	p := n.open()
	_, err := p.SetUpPod(n.pod("sandbox", "a"))
	require.ErrorIs(t, err, podcni.ErrOutputTooLarge)
	require.Equal(t, []string{"ADD a", "DEL a"}, n.verbs())
	require.False(t, n.calls()[0].Done, "it was not read to its end")
	require.Empty(t, n.records())
	n.requireNoPlugins()
}

// What a failed set-up had attached and could not detach is half done, and not
// attached: the next set-up detaches it first.
func TestSetUpAfterAFailedUndo(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "bad")
	n.bin.Plugin("a").Next("DEL", failure())
	n.bin.Plugin("bad").Next("ADD", failure())
	p := n.open()
	pod := n.pod("sandbox", "a", "bad")
	_, err := p.SetUpPod(pod)
	require.Contains(t, err.Error(), "what is left stays recorded: plugin \"a\" of network \"a\": DEL of sandbox sandbox (eth0)")
	require.Equal(t, []string{"a-sandbox-eth0"}, n.records())
	_, err = p.GetPodNetworkStatus(podcni.PodNetwork{ID: "sandbox"})
	require.ErrorIs(t, err, podcni.ErrNotAttached)
	attachments, err := p.Attachments(t.Context())
	require.NoError(t, err)
	require.Equal(t, podcni.AttachmentDetaching, attachments[0].State)

	_, err = p.SetUpPod(pod)
	require.NoError(t, err)
	require.Equal(t, []string{"ADD a", "ADD bad", "DEL bad", "DEL a", "DEL a", "ADD a", "ADD bad"}, n.verbs())
	require.Contains(t, string(n.calls()[4].Stdin), `"prevResult"`)
	require.NoError(t, p.TearDownPod(pod))
	require.Empty(t, n.records())
}

// The runtime dies between two networks of a pod: neither counts as attached.
func TestRuntimeDiesBetweenNetworks(t *testing.T) {
	t.Parallel()
	n := newNode(t, "first", "a", "b")
	n.bin.Plugin("a").Next("DEL", failure())
	gate := n.bin.Plugin("b").Gate("ADD")
	p := n.open()
	pod := n.pod("sandbox", "first")
	pod.Networks[0].Ifname = "net0"
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)

	pod.Networks = []podcni.NetAttachment{{Name: "a"}, {Name: "b"}}
	cmd := n.runtime("setup", pod)
	gate.Wait(t)
	kill(t, cmd)
	_, err = p.SetUpPod(pod)
	require.Equal(t, "DEL", requirePluginError(t, err).Verb)
	added := make(chan error, 1)
	go func() {
		_, err := p.SetUpPod(pod)
		added <- err
	}()
	n.waitForVerbs("ADD b", 2)
	gate.Open()
	require.NoError(t, <-added)
	require.Equal(t, []string{"ADD first", "ADD a", "ADD b", "DEL b", "DEL a", "DEL a", "ADD a", "ADD b"}, n.verbs())
	require.NoError(t, p.TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	require.Equal(t, []string{"DEL b", "DEL a", "DEL first"}, n.verbs()[8:])
	require.Empty(t, n.records())
}

// A GC that hangs holds up its own network only, and nobody there for longer than
// the caller's time.
func TestHungGCHoldsUpItsNetworkOnly(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	gate := n.bin.Plugin("a").Gate("GC")
	p := n.open(podcni.WithTeardownGrace(time.Second))
	pod := n.pod("sandbox", "a")
	_, err := p.SetUpPod(pod)
	require.NoError(t, err)
	collected := make(chan error, 1)
	go func() { collected <- p.GC(context.Background(), []*podcni.PodNetwork{&pod}) }()
	gate.Wait(t)

	require.NoError(t, p.Status())
	other := n.pod("other", "b")
	_, err = p.SetUpPod(other)
	require.NoError(t, err)
	require.NoError(t, p.TearDownPod(other))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = p.SetUpPodWithContext(ctx, n.pod("waiting", "a"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, []string{"a-sandbox-eth0"}, n.records(), "nothing ran")
	<-ctx.Done()
	require.ErrorIs(t, p.TearDownPodWithContext(ctx, pod), podcni.ErrBusy)
	require.Len(t, n.records(), 1)

	gate.Open()
	require.NoError(t, <-collected)
	require.NoError(t, p.TearDownPod(pod))
	require.Empty(t, n.records())
}
