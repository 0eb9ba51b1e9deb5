package podcni

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// hang answers when ctx ends, or with err when release is closed.
func hang(release <-chan struct{}, err error) func(ctx context.Context, _ fakeCall) error {
	return func(ctx context.Context, _ fakeCall) error {
		select {
		case <-release:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestStatusSaysWhichReasonItIs(t *testing.T) {
	t.Parallel()
	good := testutils.List("good", "1.1.0", "noop")
	for name, tc := range map[string]struct {
		files map[string]string // nil: the directory is missing
		opts  []Option
		want  []string // nil: ready
	}{
		"missing directory": {nil, nil, []string{"No CNI configuration file in", "net.d"}},
		"no files":          {map[string]string{"README": "x"}, nil, []string{"No CNI configuration file in", "net.d"}},
		"all rejected":      {map[string]string{"a.conf": "{", "b.conflist": "[]"}, nil, []string{"a.conf", "b.conflist"}},
		"plugin missing": {
			map[string]string{"a.conflist": testutils.List("mine", "1.1.0", "gone")},
			nil,
			[]string{"a.conflist", `"mine"`, errNotInstalled.Error()},
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
			if tc.files != nil {
				dir := testutils.NewConfDir(t)
				for file, text := range tc.files {
					dir.Write(file, text)
				}
				conf = dir.Path()
			}
			for i, word := range tc.want {
				if word == "net.d" {
					tc.want[i] = conf
				}
			}
			exec := &fakeExec{missing: "gone"}
			c := exec.open(t, append([]Option{WithConfDir(conf)}, tc.opts...)...)
			err := c.Status()
			if tc.want == nil {
				require.NoError(t, err)
				require.Equal(t, 1, exec.count(VerbStatus))
				return
			}
			require.ErrorIs(t, err, ErrNotReady)
			require.Zero(t, exec.count(VerbStatus))
			for _, word := range tc.want {
				require.ErrorContains(t, err, word)
			}
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

// The plugins of the default network are asked, in order, up to the first that
// says no. The codes say what that means.
func TestStatusTellsWhatPluginsAnswer(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	c := exec.open(t, WithConfList([]byte(testutils.List("mine", "1.1.0", "first", "second", "third"))), withNets("1.1.0", "other"))
	require.NoError(t, c.Status())
	require.Equal(t, 3, exec.count(VerbStatus))

	for code, text := range map[uint]string{
		50:  `network "mine" cannot take new pods: `,
		51:  `network "mine" cannot take new pods, and running pods may be cut off: `,
		120: `network "mine" does not say that it can take pods: `,
	} {
		exec.set(func(_ context.Context, call fakeCall) error {
			if call.plugin == "second" {
				return &types.Error{Code: code, Msg: "out of addresses"}
			}
			return nil
		})
		before := exec.count(VerbStatus)
		err := c.Status()
		require.ErrorIs(t, err, ErrNotReady)
		require.ErrorContains(t, err, text)
		require.ErrorContains(t, err, "out of addresses")
		var plugin *PluginError
		require.ErrorAs(t, err, &plugin)
		require.Equal(t, []string{"STATUS", "mine", "second", "", ""},
			[]string{plugin.Verb, plugin.Network, plugin.Plugin, plugin.ContainerID, plugin.IfName})
		var answer *types.Error
		require.ErrorAs(t, err, &answer)
		require.Equal(t, code, answer.Code)
		require.Equal(t, before+2, exec.count(VerbStatus))
	}
}

func TestStatusIsSentFromVersion110On(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	c := exec.open(t, withNets("1.0.0", "old"), withNets("1.1.0", "new"))
	require.NoError(t, c.Status())
	require.Zero(t, exec.count(VerbStatus))
	require.NoError(t, c.WaitReady(t.Context(), "old"))
	require.Zero(t, exec.count(VerbStatus))
	require.NoError(t, c.WaitReady(t.Context(), "old", "new"))
	require.Equal(t, 1, exec.count(VerbStatus))
}

// Calls at the same time share one run, which goes on when one of them leaves.
// Nothing is kept for later calls.
func TestStatusIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		c := exec.open(t, withNets("1.1.0", "net"))
		release := make(chan struct{})
		exec.set(hang(release, &types.Error{Code: 50, Msg: "no"}))

		// The one that starts the run is the one that leaves.
		ctx, cancel := context.WithCancelCause(t.Context())
		left := make(chan error, 1)
		go func() { left <- c.StatusWithContext(ctx) }()
		synctest.Wait()
		answers := make(chan error, 10)
		for range cap(answers) - 1 {
			go func() { answers <- c.StatusWithContext(t.Context()) }()
		}
		go func() { answers <- c.Status() }()
		synctest.Wait()
		require.Equal(t, 1, exec.count(VerbStatus))

		enough := errors.New("enough")
		cancel(enough)
		require.ErrorIs(t, <-left, enough)
		synctest.Wait()
		require.Empty(t, answers, "the run went on")
		close(release)
		for range cap(answers) {
			require.ErrorIs(t, <-answers, ErrNotReady)
		}
		require.Equal(t, 1, exec.count(VerbStatus))

		require.ErrorIs(t, c.Status(), ErrNotReady)
		require.Equal(t, 2, exec.count(VerbStatus), "nothing is kept")
		require.ErrorIs(t, c.StatusWithContext(ctx), enough)
		require.Equal(t, 2, exec.count(VerbStatus), "nothing is run for who has gone")
	})
}

// A change of the network gets a run of its own, beside one that hangs. Networks
// do not wait for each other.
func TestStatusOfChangedAndOtherNetworks(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t).Write("a.conflist", testutils.List("net", "1.1.0", "noop"))
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		c := exec.open(t, WithConfDir(conf.Path()), WithDefaultNetwork("net"), withNets("1.1.0", "other"))
		release := make(chan struct{})
		exec.set(func(ctx context.Context, call fakeCall) error {
			if strings.Contains(call.stdin, `"net"`) && !strings.Contains(call.stdin, "changed") {
				return hang(release, nil)(ctx, call)
			}
			return nil
		})
		before := make(chan error, 1)
		go func() { before <- c.Status() }()
		synctest.Wait()
		require.NoError(t, c.WaitReady(t.Context(), "other"))

		conf.Write("a.conflist", testutils.ListJSON("net", "1.1.0", map[string]any{"type": "noop", "note": "changed"}))
		require.NoError(t, c.Reload(t.Context()))
		require.NoError(t, c.Status())
		require.Empty(t, before)
		close(release)
		require.NoError(t, <-before)
	})
}

func TestStatusEndsAtItsTimeLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		c := exec.open(t, withNets("1.1.0", "net"))
		exec.set(hang(nil, nil))
		start := time.Now()
		err := c.Status()
		require.ErrorIs(t, err, ErrNotReady)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var plugin *PluginError
		require.ErrorAs(t, err, &plugin)
		require.True(t, plugin.TimedOut)
		require.Equal(t, quickTimeout, time.Since(start))
	})
}

// Shutdown ends every wait for a STATUS that hangs, and the run itself: a
// goroutine that were left would keep the bubble from ending.
func TestShutdownEndsStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		c := exec.open(t, withNets("1.1.0", "a", "b"), WithPluginTimeout(VerbStatus, NoLimit))
		ended := make(chan struct{}, 2)
		exec.set(func(ctx context.Context, _ fakeCall) error {
			<-ctx.Done()
			ended <- struct{}{}
			return ctx.Err()
		})
		waiting := make(chan error, 4)
		go func() { waiting <- c.Status() }()
		go func() { waiting <- c.StatusWithContext(t.Context()) }()
		go func() { waiting <- c.WaitReady(t.Context()) }()
		go func() { waiting <- c.WaitReady(t.Context(), "b", "a") }()
		synctest.Wait()
		require.Equal(t, 2, exec.count(VerbStatus))
		require.Empty(t, waiting)

		start := time.Now()
		require.NoError(t, c.Shutdown())
		for range cap(waiting) {
			err := <-waiting
			require.ErrorIs(t, err, ErrShutdown)
			require.NotErrorIs(t, err, ErrNotReady)
		}
		<-ended
		<-ended
		require.Zero(t, time.Since(start))
		require.Equal(t, 2, exec.count(VerbStatus), "nobody asks again")
	})
}

// Nobody waits for a plugin that does not even heed its end.
func TestShutdownLeavesAHungStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		c := exec.open(t, withNets("1.1.0", "net"))
		release := make(chan struct{})
		exec.set(func(context.Context, fakeCall) error { <-release; return nil })
		waiting := make(chan error, 2)
		go func() { waiting <- c.Status() }()
		go func() { waiting <- c.WaitReady(t.Context()) }()
		synctest.Wait()
		start := time.Now()
		require.NoError(t, c.Shutdown())
		require.ErrorIs(t, <-waiting, ErrShutdown)
		require.ErrorIs(t, <-waiting, ErrShutdown)
		require.Zero(t, time.Since(start))
		close(release)
	})
}

func TestWaitReadySaysWhyNot(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t)
	exec := &fakeExec{}
	c := exec.open(t, WithConfDir(conf.Path()))
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	for _, networks := range [][]string{nil, {"net"}} {
		err := c.WaitReady(ctx, networks...)
		require.ErrorIs(t, err, enough)
		require.ErrorIs(t, err, ErrNotReady)
		require.NotContains(t, err.Error(), "\n")
	}
	require.ErrorContains(t, c.WaitReady(ctx), conf.Path(), "the reason")
	require.ErrorIs(t, c.WaitReady(ctx, "net"), ErrNetworkNotFound)
	require.ErrorContains(t, c.WaitReady(ctx, "net"), `"net"`)

	conf.Write("a.conflist", testutils.List("net", "1.1.0", "noop"))
	require.NoError(t, c.Reload(t.Context()))
	err := c.WaitReady(ctx)
	require.ErrorIs(t, err, enough)
	require.ErrorIs(t, err, ErrNotReady, "also when no plugin has answered")
	require.Zero(t, exec.count(VerbStatus))
	require.NoError(t, c.WaitReady(t.Context()))
}

// WaitReady waits for all of the networks that are named, and for no other.
func TestWaitReadyForNamedNetworks(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t).Write("a.conflist", testutils.List("a", "1.1.0", "plugin-a"))
	synctest.Test(t, func(t *testing.T) {
		exec := &fakeExec{}
		c := exec.open(t, WithConfDir(conf.Path()), WithDefaultNetwork("default"))
		require.NoError(t, c.WaitReady(t.Context(), "a"), "the default network is not among them")
		require.Equal(t, 1, exec.count(VerbStatus))

		exec.set(func(_ context.Context, call fakeCall) error {
			if call.plugin == "plugin-b" {
				return &types.Error{Code: 51, Msg: "no"}
			}
			return nil
		})
		ready := make(chan error, 1)
		go func() { ready <- c.WaitReady(t.Context(), "a", "b") }()
		synctest.Wait()
		require.Empty(t, ready)
		require.Equal(t, 1, exec.count(VerbStatus), "nothing is asked while one of them is not loaded")

		conf.Write("b.conflist", testutils.List("b", "1.1.0", "plugin-b"))
		require.NoError(t, c.Reload(t.Context()))
		synctest.Wait()
		require.Empty(t, ready, "its plugin says no")
		require.Greater(t, exec.count(VerbStatus), 1)

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := c.WaitReady(ctx, "a", "b")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, `network "b" cannot take new pods, and running pods may be cut off`)
		require.Empty(t, ready)
		exec.set(nil)
		require.NoError(t, <-ready)
		require.ErrorIs(t, c.Status(), ErrNotReady, "the default network is still away")
	})
}

// The directory is watched, so that this is about real time.
func TestWaitReadyActsOnChanges(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t)
	c, err := New(WithConfDir(conf.Path()), WithExec(&fakeExec{}))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Shutdown()) }()
	ready := make(chan error, 2)
	go func() { ready <- c.WaitReady(t.Context()) }()
	go func() { ready <- c.WaitReady(t.Context(), "net") }()
	conf.Write("a.conflist", testutils.List("net", "1.1.0", "noop"))
	require.NoError(t, <-ready)
	require.NoError(t, <-ready)
}

func TestWaitReadyAsksPluginsAgainMoreAndMoreSlowly(t *testing.T) {
	t.Parallel()
	for _, networks := range [][]string{nil, {"net"}} {
		synctest.Test(t, func(t *testing.T) {
			exec := &fakeExec{}
			c := exec.open(t, withNets("1.1.0", "net"))
			start := time.Now()
			var at []time.Duration
			exec.set(func(context.Context, fakeCall) error {
				at = append(at, time.Since(start))
				if len(at) < 7 {
					return &types.Error{Code: 50, Msg: "no"}
				}
				return nil
			})
			require.NoError(t, c.WaitReady(t.Context(), networks...))
			for i := range at {
				at[i] /= time.Second
			}
			require.Equal(t, []time.Duration{0, 1, 3, 7, 15, 25, 35}, at)

			// A plugin that never answers holds up nobody who leaves.
			exec.set(hang(nil, nil))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := c.WaitReady(ctx, networks...)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, ErrNotReady)
		})
	}
}

func TestAfterShutdown(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	c := exec.open(t, withNets("1.1.0", "net"), WithConfTemplate("{{.PodCIDR}}"))
	updates := c.Updates(t.Context())
	require.NoError(t, c.Shutdown())
	require.NoError(t, c.Shutdown())
	ctx, pod := t.Context(), PodNetwork{}
	for name, call := range map[string]func() error{
		"Status":         c.Status,
		"Reload":         func() error { return c.Reload(ctx) },
		"WaitReady":      func() error { return c.WaitReady(ctx) },
		"WaitReady(net)": func() error { return c.WaitReady(ctx, "net") },
		"UpdatePodCIDRs": func() error { return c.UpdatePodCIDRs(ctx, nil) },
		"SetUpPod":       func() error { _, err := c.SetUpPod(pod); return err },
		"TearDownPod":    func() error { return c.TearDownPod(pod) },
		"GetPodNetworkStatus": func() error {
			_, err := c.GetPodNetworkStatus(pod)
			return err
		},
		"CheckPod":    func() error { return c.CheckPod(ctx, pod) },
		"GC":          func() error { return c.GC(ctx, nil) },
		"Forget":      func() error { return c.Forget(ctx, "id") },
		"Attachments": func() error { _, err := c.Attachments(ctx); return err },
	} {
		require.ErrorIs(t, call(), ErrShutdown, name)
	}
	require.Nil(t, c.Networks())
	require.Nil(t, c.Rejected())
	require.Empty(t, c.GetDefaultNetworkName())
	require.Equal(t, CNIPluginName, c.Name())
	for range updates { // ends: the channel is closed
	}
	_, open := <-c.Updates(ctx)
	require.False(t, open)
	require.Zero(t, exec.count(VerbStatus))
}
