package podcni

import (
	"context"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// TestProbesOfRealPlugins starts cold with plugins that are processes.
func TestProbesOfRealPlugins(t *testing.T) {
	t.Parallel()
	bins, confs := testutils.NewBinDir(t), testutils.NewConfDir(t)
	good := bins.Plugin("good").Versions("0.4.0", "1.0.0")
	ancient := bins.Plugin("ancient").On("VERSION", testutils.Answer{Error: &types.Error{Code: 4, Msg: "unknown CNI_COMMAND: VERSION"}})
	crash := bins.Plugin("crash").On("VERSION", testutils.Answer{Exit: 3, Stderr: "no such luck"})
	garbage := bins.Plugin("garbage").On("VERSION", testutils.Answer{Result: "1.0.0"})
	hung := bins.Plugin("hung").On("VERSION", testutils.Answer{Hang: true})
	confs.Write("0.conflist", testutils.List("hangs", "1.0.0", "good", "hung"))
	confs.Write("1.conflist", testutils.List("works", "1.0.0", "good", "good"))
	confs.Write("2.conflist", testutils.List("old", "", "ancient"))
	confs.Write("3.conflist", testutils.List("crashes", "1.0.0", "good", "crash"))
	confs.Write("4.conflist", testutils.List("babbles", "1.0.0", "garbage"))
	confs.Write("5.conflist", testutils.List("newer", "1.1.0", "good"))

	o, err := newOptions([]Option{WithConfDir(confs.Path()), WithBinDirs(bins.Path()), WithPluginTimeout("VERSION", 0)})
	require.NoError(t, err)
	done := make(chan struct{}, 1)
	p := newProber(context.Background(), newRunner(o, nil), o.log, func() {
		select {
		case done <- struct{}{}:
		default:
		}
	})
	defer p.close()
	l, err := newLoader(o, p)
	require.NoError(t, err)
	s := l.load(nil)
	for s.pending > 1 {
		select {
		case <-done:
		case <-time.After(2 * time.Minute):
			require.FailNow(t, "plugins do not answer", "%v", s.rejected)
		}
		s = l.load(s)
	}
	require.Equal(t, []string{"works", "old"}, names(s))
	require.Equal(t, "works", s.def.name)
	reason := make(map[string]error)
	for _, r := range s.rejected {
		reason[r.Network] = r.Err
	}
	require.ErrorIs(t, reason["hangs"], errProbing)
	require.ErrorIs(t, reason["newer"], ErrVersion)
	require.ErrorIs(t, reason["babbles"], ErrBadOutput)
	var failed *PluginError
	require.ErrorAs(t, reason["crashes"], &failed)
	require.Equal(t, 3, failed.Exit)
	require.Equal(t, "crash", failed.Plugin)
	require.Contains(t, failed.Stderr, "no such luck")
	hung.WaitCalls(t, "VERSION", 1)
	p.close()
	for _, plugin := range []*testutils.Plugin{good, ancient, crash, garbage, hung} {
		calls := plugin.Calls(t)
		require.Len(t, calls, 1)
		require.Equal(t, "VERSION", calls[0].Verb)
		require.JSONEq(t, `{"cniVersion":"1.1.0"}`, string(calls[0].Stdin))
		require.Equal(t, bins.Path(), calls[0].Env["CNI_PATH"])
		require.NotContains(t, calls[0].Env, "CNI_CONTAINERID")
	}
	require.Empty(t, testutils.Processes(t, bins.Path()))
}
