package podcni

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// startPlugin is New for the length of the test.
func startPlugin(t testing.TB, opts ...Option) *Plugin {
	t.Helper()
	p, err := New(opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Shutdown()) })
	return p
}

// patientWithPlugins is for tests that run processes on a busy machine.
func patientWithPlugins() Option {
	return optionFunc(func(o *options) {
		o.timeouts[verbVersion], o.timeouts[verbStatus] = 3*time.Minute, 3*time.Minute
	})
}

// fakeExec is a WithExec that runs nothing.
type fakeExec struct {
	mu     sync.Mutex // guards what follows
	calls  map[string]int
	answer func(ctx context.Context, verb string) error
	hung   string // the plugin that never answers VERSION; set before use
}

func (e *fakeExec) ExecPlugin(ctx context.Context, path string, _ []byte, environ []string) ([]byte, error) {
	verb := ""
	for _, env := range environ {
		if v, ok := strings.CutPrefix(env, "CNI_COMMAND="); ok {
			verb = v
		}
	}
	e.mu.Lock()
	if e.calls == nil {
		e.calls = map[string]int{}
	}
	e.calls[verb]++
	e.calls[verb+" "+filepath.Base(path)]++
	answer := e.answer
	e.mu.Unlock()
	if verb == verbVersion && filepath.Base(path) == e.hung {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if verb == verbVersion {
		return []byte(`{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}`), nil
	}
	if answer == nil {
		return nil, nil
	}
	return nil, answer(ctx, verb)
}

func (e *fakeExec) FindInPath(plugin string, paths []string) (string, error) {
	return filepath.Join(paths[0], plugin), nil
}

func (e *fakeExec) Decode(b []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(b)
}

func (e *fakeExec) statuses() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls[verbStatus]
}

func (e *fakeExec) set(answer func(ctx context.Context, verb string) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = answer
}

func TestStatusSaysWhichReasonItIs(t *testing.T) {
	t.Parallel()
	good := testutils.List("good", "1.1.0", "noop")
	notDirectory := filepath.Join(t.TempDir(), "file")
	write(t, notDirectory, good)
	for name, c := range map[string]struct {
		files map[string]string // nil: the directory is missing
		opts  []Option
		want  []string // nil: ready
	}{
		"missing directory": {nil, nil, []string{"no such configuration directory", "net.d"}},
		"no directory":      {nil, []Option{WithConfDir(notDirectory)}, []string{"no such configuration directory", "not a directory"}},
		"no files":          {map[string]string{"README": "x"}, nil, []string{"no network configuration", "net.d"}},
		"all rejected": {
			map[string]string{"a.conf": "{", "b.conflist": "[]"},
			nil,
			[]string{"a.conf", "b.conflist"},
		},
		"named default absent": {
			map[string]string{"a.conflist": good, "b.conflist": testutils.List("fine", "1.1.0", "noop")},
			[]Option{WithDefaultNetwork("mine")},
			[]string{`"mine"`, "good", "fine"},
		},
		"named default there": {map[string]string{"a.conflist": good}, []Option{WithDefaultNetwork("good")}, nil},
		"ready":               {map[string]string{"a.conflist": good, "b.conf": "{"}, nil, nil},
		"no directory needed": {nil, []Option{WithConfList([]byte(good))}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := filepath.Join(t.TempDir(), "net.d")
			if c.files != nil {
				mkdirAll(t, conf)
			}
			for file, text := range c.files {
				write(t, filepath.Join(conf, file), text)
			}
			p := startPlugin(t, append([]Option{WithConfDir(conf), WithExec(&fakeExec{})}, c.opts...)...)
			err := p.Status()
			if c.want == nil {
				require.NoError(t, err)
				require.NotEmpty(t, p.GetDefaultNetworkName())
				return
			}
			require.ErrorIs(t, err, ErrNotReady)
			require.Empty(t, p.GetDefaultNetworkName())
			for _, word := range c.want {
				require.ErrorContains(t, err, word)
			}
		})
	}
}

func mkdirAll(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
}

func TestStatusTellsWhatPluginsAnswer(t *testing.T) {
	t.Parallel()
	bin := testutils.NewBinDir(t).Add("first")
	second := bin.Plugin("second")
	conf := testutils.NewConfDir(t).Write("a.conflist", testutils.List("mine", "1.1.0", "first", "second"))
	p := startPlugin(t, WithConfDir(conf.Path()), WithBinDirs(bin.Path()), patientWithPlugins())
	require.NoError(t, p.Status())
	require.Equal(t, []string{"STATUS first", "STATUS second"}, testutils.Verbs(bin.Calls(t)))

	texts := map[uint]string{}
	for _, code := range []uint{50, 51, 120} {
		second.On(verbStatus, testutils.Answer{Error: &types.Error{Code: code, Msg: "out of addresses"}})
		err := p.Status()
		require.ErrorIs(t, err, ErrNotReady)
		var plugin *PluginError
		require.ErrorAs(t, err, &plugin)
		require.Equal(t, "second", plugin.Plugin)
		require.Equal(t, "mine", plugin.Network)
		var answer *types.Error
		require.ErrorAs(t, err, &answer)
		require.Equal(t, code, answer.Code)
		require.ErrorContains(t, err, "out of addresses")
		texts[code], _, _ = strings.Cut(err.Error(), ": plugin")
	}
	require.Contains(t, texts[51], "cut off")
	require.NotEqual(t, texts[50], texts[51])
	require.NotEqual(t, texts[50], texts[120])
}

func TestStatusAsksOnlyPluginsOfVersionsThatHaveIt(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	p := startPlugin(t, WithConfDir(t.TempDir()), WithExec(exec),
		WithConfList([]byte(testutils.List("old", "1.0.0", "noop"))))
	require.NoError(t, p.Status())
	require.Zero(t, exec.statuses())
}

func TestStatusIsSharedAndLeftAlone(t *testing.T) {
	t.Parallel()
	conf := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		p := startPlugin(t, WithConfDir(conf), WithoutWatch(), WithExec(exec),
			WithConfList([]byte(testutils.List("net", "1.1.0", "noop"))))
		release := make(chan struct{})
		exec.set(func(ctx context.Context, _ string) error {
			select {
			case <-release:
				return &types.Error{Code: 50, Msg: "no"}
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		answers := make(chan error, 10)
		for range cap(answers) {
			go func() { answers <- p.StatusWithContext(context.Background()) }()
		}
		ctx, cancel := context.WithCancel(context.Background())
		left := make(chan error, 1)
		go func() { left <- p.StatusWithContext(ctx) }()
		synctest.Wait()
		require.Equal(t, 1, exec.statuses())
		cancel()
		require.ErrorIs(t, <-left, context.Canceled)
		synctest.Wait()
		require.Empty(t, answers, "the run went on")
		close(release)
		for range cap(answers) {
			require.ErrorIs(t, <-answers, ErrNotReady)
		}
		require.Equal(t, 1, exec.statuses())
		require.ErrorIs(t, p.Status(), ErrNotReady)
		require.Equal(t, 2, exec.statuses(), "nothing is kept")

		require.ErrorIs(t, p.StatusWithContext(ctx), context.Canceled)
		require.Equal(t, 2, exec.statuses(), "nothing is run for who has gone")
	})
}

func TestStatusEndsAtItsTimeLimitAndOnShutdown(t *testing.T) {
	t.Parallel()
	conf := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		p := startPlugin(t, WithConfDir(conf), WithoutWatch(), WithExec(exec),
			WithConfList([]byte(testutils.List("net", "1.1.0", "noop"))))
		exec.set(func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		start := time.Now()
		err := p.Status()
		require.ErrorIs(t, err, ErrNotReady)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, quickTimeout, time.Since(start))

		waiting := make(chan error, 2)
		go func() { waiting <- p.Status() }()
		go func() { waiting <- p.WaitReady(context.Background()) }()
		synctest.Wait()
		require.NoError(t, p.Shutdown())
		require.ErrorIs(t, <-waiting, ErrShutdown)
		require.ErrorIs(t, <-waiting, ErrShutdown)
	})
}

func TestAfterShutdown(t *testing.T) {
	t.Parallel()
	p := startPlugin(t, WithConfDir(t.TempDir()), WithExec(&fakeExec{}),
		WithConfTemplate("{{.PodCIDR}}"),
		WithConfList([]byte(testutils.List("net", "1.1.0", "noop"))))
	require.NoError(t, p.Shutdown())
	require.NoError(t, p.Shutdown())
	require.ErrorIs(t, p.Status(), ErrShutdown)
	require.ErrorIs(t, p.Reload(t.Context()), ErrShutdown)
	require.ErrorIs(t, p.WaitReady(t.Context()), ErrShutdown)
	require.ErrorIs(t, p.UpdatePodCIDRs(nil), ErrShutdown)
	require.Nil(t, p.Networks())
	require.Nil(t, p.Rejected())
	require.Empty(t, p.GetDefaultNetworkName())
	_, open := <-p.Updates(t.Context())
	require.False(t, open)
}

func TestWaitReady(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t)
	p := startPlugin(t, WithConfDir(conf.Path()), WithExec(&fakeExec{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := p.WaitReady(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, ErrNotReady)
	require.ErrorContains(t, err, conf.Path(), "the reason")
	require.NotContains(t, err.Error(), "\n")

	ready := make(chan error, 1)
	go func() { ready <- p.WaitReady(context.Background()) }()
	conf.Write("a.conflist", testutils.List("net", "1.1.0", "noop"))
	require.NoError(t, <-ready)
	require.NoError(t, p.WaitReady(t.Context()))
}

func TestWaitReadyAsksPluginsAgainMoreAndMoreSlowly(t *testing.T) {
	t.Parallel()
	conf := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		p := startPlugin(t, WithConfDir(conf), WithoutWatch(), WithExec(exec),
			WithConfList([]byte(testutils.List("net", "1.1.0", "noop"))))
		start := time.Now()
		var at []time.Duration
		exec.set(func(context.Context, string) error {
			at = append(at, time.Since(start))
			if len(at) < 7 {
				return &types.Error{Code: 50, Msg: "no"}
			}
			return nil
		})
		require.NoError(t, p.WaitReady(context.Background()))
		for i := range at {
			at[i] /= time.Second
		}
		require.Equal(t, []time.Duration{0, 1, 3, 7, 15, 25, 35}, at)

		// A plugin that never answers holds only its own run up.
		exec.set(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := p.WaitReady(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, ErrNotReady)
		require.NoError(t, p.Shutdown()) // which ends that run
	})
}

func TestNetworksAndRejectedAreTheCallers(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t).
		Write("a.conflist", testutils.List("one", "1.1.0", "noop", "more")).
		Write("b.conflist", testutils.List("two", "1.0.0", "noop")).
		Write("c.conf", "{").
		Write("d.conflist", testutils.List("one", "1.0.0", "noop"))
	p := startPlugin(t, WithConfDir(conf.Path()), WithExec(&fakeExec{}), WithDefaultNetwork("two"))
	want := []Network{
		{Name: "one", Path: conf.File("a.conflist"), CNIVersion: "1.1.0", Plugins: []string{"noop", "more"}},
		{Name: "two", Path: conf.File("b.conflist"), CNIVersion: "1.0.0", Plugins: []string{"noop"}, Default: true},
	}
	require.Equal(t, want, p.Networks())
	clear(p.Networks()[0].Plugins)
	clear(p.Networks())
	require.Equal(t, want, p.Networks())
	require.Equal(t, "two", p.GetDefaultNetworkName())

	rejected := p.Rejected()
	require.Len(t, rejected, 2)
	require.Equal(t, conf.File("c.conf"), rejected[0].Path)
	require.Equal(t, "one", rejected[1].Network)
	clear(rejected)
	require.NotEmpty(t, p.Rejected()[0].Path)
}

func TestUpdatePodCIDRsIsInForceWhenItReturns(t *testing.T) {
	t.Parallel()
	p := startPlugin(t, WithConfDir(t.TempDir()), WithoutWatch(), WithExec(&fakeExec{}), WithConfTemplate(
		`{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"noop","subnet":"{{.PodCIDR}}"}]}`))
	require.ErrorIs(t, p.Status(), ErrNotReady)
	require.NoError(t, p.UpdatePodCIDRs([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}))
	require.Contains(t, string(p.snap.Load().def.config), "10.1.0.0/24")
	require.NoError(t, p.UpdatePodCIDRs([]netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")}))
	require.Contains(t, string(p.snap.Load().def.config), "10.2.0.0/24")
}

// Many networks: a change reaches pods without a plugin being run, and each
// binary is asked once however often configurations change.
func TestManyNetworksChangeWithoutRunningPlugins(t *testing.T) {
	t.Parallel()
	bin := testutils.NewBinDir(t).Add("one", "two", "three")
	conf := testutils.NewConfDir(t)
	list := func(i int, note string) string {
		return testutils.ListJSON(fmt.Sprintf("net%02d", i), "1.1.0",
			map[string]any{"type": "one", "note": note}, map[string]any{"type": "two"}, map[string]any{"type": "three"})
	}
	file := func(i int) string { return fmt.Sprintf("%02d.conflist", i) }
	for i := range 50 {
		conf.Write(file(i), list(i, "first"))
	}
	p := startPlugin(t, WithConfDir(conf.Path()), WithBinDirs(bin.Path()), patientWithPlugins())
	require.Len(t, p.Networks(), 50)
	probes := func() []string {
		var asked []string
		for _, call := range bin.Calls(t) {
			asked = append(asked, call.Verb+" "+call.Plugin)
		}
		slices.Sort(asked)
		return asked
	}
	want := []string{"VERSION one", "VERSION three", "VERSION two"}
	require.Equal(t, want, probes())

	updates := p.Updates(t.Context())
	limit := time.After(patience)
	for i := range 500 {
		conf.Rename(file(7), list(7, fmt.Sprint("version ", i)))
	}
	for !strings.Contains(string(p.snap.Load().byName["net07"].config), "version 499") {
		select {
		case <-updates:
		case <-limit:
			t.Fatal("the last change is not in force")
		}
	}
	require.Len(t, p.Networks(), 50)
	require.Equal(t, want, probes())
}

func TestPluginsThatComeAndGo(t *testing.T) {
	t.Parallel()
	bin := testutils.NewBinDir(t).Add("there")
	conf := testutils.NewConfDir(t).
		Write("a.conflist", testutils.List("first", "1.1.0", "late")).
		Write("b.conflist", testutils.List("second", "1.1.0", "there"))
	p := startPlugin(t, WithConfDir(conf.Path()), WithBinDirs(bin.Path()), patientWithPlugins())
	require.Equal(t, "second", p.GetDefaultNetworkName())
	require.Len(t, p.Rejected(), 1)
	require.ErrorIs(t, p.Rejected()[0].Err, ErrPluginNotFound)
	require.ErrorContains(t, p.Rejected()[0].Err, bin.Path())

	updates := p.Updates(t.Context())
	limit := time.After(patience)
	becomes := func(def string) {
		t.Helper()
		for p.GetDefaultNetworkName() != def {
			select {
			case <-updates:
			case <-limit:
				require.Equal(t, def, p.GetDefaultNetworkName())
			}
		}
	}
	late := bin.Plugin("late")
	becomes("first")
	late.Remove()
	becomes("second")
	late.Install()
	becomes("first")
}

func TestHungVersionRejectsItsOwnNetworkAlone(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t).
		Write("a.conflist", testutils.List("bad", "1.1.0", "hung")).
		Write("b.conflist", testutils.List("good", "1.1.0", "fine"))
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := startPlugin(t, WithConfDir(conf.Path()), WithoutWatch(), WithExec(&fakeExec{hung: "hung"}))
		require.LessOrEqual(t, time.Since(start), quickTimeout)
		require.Equal(t, "good", p.GetDefaultNetworkName())
		require.NoError(t, p.Reload(t.Context()))
		require.LessOrEqual(t, time.Since(start), quickTimeout+time.Second)
		require.Len(t, p.Rejected(), 1)
		require.Equal(t, "bad", p.Rejected()[0].Network)
		var plugin *PluginError
		require.ErrorAs(t, p.Rejected()[0].Err, &plugin)
		require.True(t, plugin.TimedOut)
		require.NoError(t, p.Status())
		require.NoError(t, p.Shutdown())
	})
}

// What a change of one network among many costs, beside the waiting.
func BenchmarkChangeOfOneNetwork(b *testing.B) {
	conf := testutils.NewConfDir(b)
	list := func(i, version int) string {
		return testutils.ListJSON(fmt.Sprintf("net%02d", i), "1.1.0",
			map[string]any{"type": "one", "version": version}, map[string]any{"type": "two"}, map[string]any{"type": "three"})
	}
	for i := range 50 {
		conf.Write(fmt.Sprintf("%02d.conflist", i), list(i, 0))
	}
	p := startPlugin(b, WithConfDir(conf.Path()), WithExec(&fakeExec{}))
	for i := 0; b.Loop(); i++ {
		conf.Rename("07.conflist", list(7, i))
		require.NoError(b, p.reloads.reload(b.Context(), false))
	}
}
