package podcni

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"
)

// funcRunner runs plugins by calling a function.
type funcRunner func(ctx context.Context, inv *invocation) (output, error)

func (f funcRunner) find(typ string) (string, error)       { return "/bin/" + typ, nil }
func (f funcRunner) environ(_, _, _, _, _ string) []string { return nil }
func (f funcRunner) run(ctx context.Context, inv *invocation) (output, error) {
	return f(ctx, inv)
}

func quietProber(f funcRunner, onDone func()) *prober {
	return newProber(context.Background(), f, slog.New(slog.DiscardHandler), onDone)
}

func TestProbeOncePerBinary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs, told atomic.Int32
		p := quietProber(func(_ context.Context, inv *invocation) (output, error) {
			runs.Add(1)
			require.Equal(t, verbVersion, inv.verb)
			require.JSONEq(t, `{"cniVersion":"1.1.0"}`, string(inv.stdin))
			time.Sleep(time.Second)
			return output{stdout: []byte(allVersions)}, nil
		}, func() { told.Add(1) })
		defer p.close()
		want := []binary{{typ: "a", path: "/bin/a"}, {typ: "b", path: "/bin/b"}}
		for range 10 {
			for _, r := range p.ask(want) {
				require.True(t, r.pending)
			}
		}
		require.Equal(t, 2, p.pending())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, int32(1), told.Load(), "all answers make one load")
		require.Zero(t, p.pending())
		for range 10 {
			for _, r := range p.ask(want) {
				require.Contains(t, r.versions, "1.1.0")
			}
			p.ask(nil)
		}
		require.Equal(t, int32(2), runs.Load())
		exchanged := binary{typ: "a", path: "/bin/a", id: fileID{mtime: 1}}
		require.True(t, p.ask([]binary{exchanged})[0].pending)
		time.Sleep(2 * time.Second)
		require.NotEmpty(t, p.ask([]binary{exchanged})[0].versions)
		require.Equal(t, int32(3), runs.Load())
	})
}

func TestProbeDoesNotHoldOthersBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		p := quietProber(func(ctx context.Context, inv *invocation) (output, error) {
			if inv.plugin == "hung" {
				ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				defer cancel()
				<-ctx.Done()
				return output{exit: -1}, inv.fail(output{exit: -1}, ctx.Err())
			}
			return output{stdout: []byte(allVersions)}, nil
		}, func() { told.Add(1) })
		defer p.close()
		want := []binary{{typ: "hung"}, {typ: "a"}}
		p.ask(want)
		time.Sleep(time.Second)
		require.Equal(t, int32(1), told.Load())
		r := p.ask(want)
		require.True(t, r[0].pending)
		require.NotEmpty(t, r[1].versions)
		time.Sleep(10 * time.Second)
		require.Equal(t, int32(2), told.Load())
		require.ErrorIs(t, p.ask(want)[0].err, context.DeadlineExceeded)
	})
}

func TestFailedProbeIsRetriedSlowly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs, told atomic.Int32
		var well atomic.Bool
		p := quietProber(func(_ context.Context, inv *invocation) (output, error) {
			runs.Add(1)
			if well.Load() {
				return output{stdout: []byte(allVersions)}, nil
			}
			return output{exit: 1}, inv.fail(output{exit: 1}, errors.New("crashed"))
		}, func() { told.Add(1) })
		defer p.close()
		want := []binary{{typ: "a"}}
		p.ask(want)
		time.Sleep(time.Second)
		for i, wait := range []time.Duration{30, 60, 120, 240, 300, 300} {
			require.Equal(t, int32(i+1), runs.Load())
			require.Error(t, p.ask(want)[0].err)
			time.Sleep(wait*time.Second - time.Millisecond)
			p.ask(want)
		}
		require.Equal(t, int32(1), told.Load(), "the same failure is no news")
		p.ask(nil)
		before := runs.Load()
		time.Sleep(time.Hour)
		require.Equal(t, before, runs.Load(), "nobody uses it")
		well.Store(true)
		require.Error(t, p.ask(want)[0].err)
		time.Sleep(6 * time.Minute)
		require.NotEmpty(t, p.ask(want)[0].versions)
		require.Equal(t, int32(2), told.Load())
	})
}

func TestProberCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int32
		p := quietProber(func(ctx context.Context, inv *invocation) (output, error) {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended.Add(1)
			return output{exit: -1}, inv.fail(output{exit: -1}, ctx.Err())
		}, func() { t.Error("it told of something that it ended itself") })
		p.ask([]binary{{typ: "a"}, {typ: "b"}})
		time.Sleep(time.Second)
		p.ask([]binary{{typ: "b"}})
		synctest.Wait()
		require.Equal(t, 1, p.pending())
		time.Sleep(2 * time.Second)
		require.Equal(t, int32(1), ended.Load(), "a binary that is not used is not asked on")
		p.close()
		require.Equal(t, int32(2), ended.Load())
		p.close()
		require.True(t, p.ask([]binary{{typ: "c"}})[0].pending)
		time.Sleep(time.Hour)
	})
}

func TestVersionAnswers(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string][]string{
		`{"cniVersion":"1.0.0","supportedVersions":["0.4.0",null,"1.0.0","1.0.0",""]}`: {"0.4.0", "1.0.0"},
		`{"cniVersion":"0.2.0"}`:                          {"0.1.0", "0.2.0"},
		`{"cniVersion":"0.2.0","supportedVersions":null}`: {"0.1.0", "0.2.0"},
		`{"supportedVersions":["1.0.0"]}`:                 {"1.0.0"},
	} {
		got, err := decodeVersions([]byte(answer))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{`{}`, `{"cniVersion":"1.0.0"}`, `null`, `[]`, `x`, `{"cniVersion":"1.0.0","supportedVersions":"1.0.0"}`} {
		_, err := decodeVersions([]byte(bad))
		require.ErrorIs(t, err, ErrBadOutput, bad)
	}
	_, err := decodeVersions([]byte(" \n"))
	require.ErrorIs(t, err, ErrNoOutput)

	for _, test := range []struct {
		err *types.Error
		old bool
	}{
		{&types.Error{Code: 4, Msg: "unknown CNI_COMMAND: VERSION"}, true},
		{&types.Error{Code: 100, Msg: "unknown CNI_COMMAND: VERSION"}, true},
		{&types.Error{Code: 100, Msg: "required env variables missing"}, true},
		{&types.Error{Code: 100, Msg: "the daemon does not answer"}, false},
		{&types.Error{Code: 11, Msg: "unknown CNI_COMMAND: VERSION"}, false},
	} {
		p := quietProber(func(_ context.Context, inv *invocation) (output, error) {
			return output{exit: 1}, inv.fail(output{exit: 1}, test.err)
		}, func() {})
		versions, err := p.probe(context.Background(), binary{typ: "a"})
		if test.old {
			require.NoError(t, err)
			require.Equal(t, []string{"0.1.0"}, versions)
		} else {
			require.ErrorIs(t, err, test.err)
		}
		p.close()
	}
}

func FuzzVersionAnswer(f *testing.F) {
	f.Add([]byte(allVersions))
	f.Add([]byte(`{"cniVersion":"0.2.0","supportedVersions":[null]}`))
	f.Fuzz(func(t *testing.T, stdout []byte) {
		versions, err := decodeVersions(stdout)
		require.Equal(t, err == nil, len(versions) > 0)
		require.LessOrEqual(t, len(versions), maxVersions)
		for _, v := range versions {
			require.NotEmpty(t, v)
			require.LessOrEqual(t, len(v), longestVersion)
		}
	})
}
