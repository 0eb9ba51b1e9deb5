package podcni

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"
)

func TestBaseEnv(t *testing.T) {
	t.Parallel()
	ours := []string{"PATH=/bin", "HOME=/root", "SECRET=x", "LC_ALL=C", "LC_TIME=de", "CNI_ARGS=a=b", "EMPTY=", "=C:=odd", "NONSENSE"}
	dirs := []string{"/a", "/b"}
	path := "CNI_PATH=/a" + string(os.PathListSeparator) + "/b"
	for name, test := range map[string]struct{ let, want []string }{
		"default":       {[]string{"PATH", "HOME", "TMPDIR"}, []string{"PATH=/bin", "HOME=/root", path}},
		"nothing":       {nil, []string{path}},
		"prefix":        {[]string{"LC_*", "EMPTY"}, []string{"LC_ALL=C", "LC_TIME=de", "EMPTY=", path}},
		"all":           {[]string{"*"}, []string{"PATH=/bin", "HOME=/root", "SECRET=x", "LC_ALL=C", "LC_TIME=de", "EMPTY=", path}},
		"set":           {[]string{"HOME", "HOME=/tmp", "NEW=a=b*"}, []string{"HOME=/tmp", "NEW=a=b*", path}},
		"never CNI":     {[]string{"CNI_*", "CNI_ARGS", "CNI_PATH=/c"}, []string{path}},
		"no part names": {[]string{"PAT", "LC_"}, []string{path}},
	} {
		require.Equal(t, test.want, baseEnv(test.let, dirs, ours), name)
	}
}

func TestEnviron(t *testing.T) {
	t.Parallel()
	o, err := newOptions([]Option{WithPluginEnv("A=b"), WithBinDirs("/x")})
	require.NoError(t, err)
	r := newRunner(o, nil)
	for verb, want := range map[string]string{
		verbAdd:     "CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_NETNS=/n CNI_IFNAME=eth0 CNI_ARGS=K=V",
		verbDel:     "CNI_COMMAND=DEL CNI_CONTAINERID=c CNI_NETNS=/n CNI_IFNAME=eth0 CNI_ARGS=K=V",
		verbCheck:   "CNI_COMMAND=CHECK CNI_CONTAINERID=c CNI_NETNS=/n CNI_IFNAME=eth0 CNI_ARGS=K=V",
		verbGC:      "CNI_COMMAND=GC",
		verbStatus:  "CNI_COMMAND=STATUS",
		verbVersion: "CNI_COMMAND=VERSION",
	} {
		require.Equal(t, "A=b CNI_PATH=/x "+want, strings.Join(r.environ(verb, "c", "/n", "eth0", "K=V"), " "))
	}
	require.Equal(t, "A=b CNI_PATH=/x CNI_COMMAND=DEL CNI_CONTAINERID=c CNI_NETNS= CNI_IFNAME=eth0",
		strings.Join(r.environ(verbDel, "c", "", "eth0", ""), " "))
	require.Len(t, r.env, 2, "what is shared stays as it is")
}

func TestErrorObject(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]*types.Error{
		`{"code":7,"msg":"no"}`:                                   types.NewError(7, "no", ""),
		` {"code":7.0,"msg":"no","details":"d","cniVersion":"1"}`: types.NewError(7, "no", "d"),
		`{"code":7,"msg":"no","details":{"a":1}}`:                 types.NewError(7, "no", `{"a":1}`),
		"log {x}\n{\"code\":7,\"msg\":\"no\"}\nbye\n":             types.NewError(7, "no", ""),
		`{"code":1,"msg":"first"}{"code":7,"msg":"last"}`:         types.NewError(7, "last", ""),
		`{"level":"info","msg":"x"} {"code":7,"msg":"no"}`:        types.NewError(7, "no", ""),
		`{"code":100,"msg":"{\"code\":3,\"msg\":\"inner\"}"}`:     types.NewError(100, `{"code":3,"msg":"inner"}`, ""),
		`x {"code":100,"msg":"{\"code\":3,\"msg\":\"inner\"}"}`:   types.NewError(100, `{"code":3,"msg":"inner"}`, ""),
		`x {"ips":[{"code":3,"msg":"inner"}]}`:                    nil,
		`{"code":0,"msg":"fine"}`:                                 nil,
		`{"code":7}`:                                              nil,
		`{"msg":"no"}`:                                            nil,
		`{"code":"7","msg":"no"}`:                                 nil,
		`{"code":-1,"msg":"no"}`:                                  nil,
		`{"code":1.5,"msg":"no"}`:                                 nil,
		`{"code":1e300,"msg":"no"}`:                               nil,
		`{"code":7,"msg":["no"]}`:                                 nil,
		`{"cniVersion":"1.0.0","ips":[]}`:                         nil,
		`[{"code":7,"msg":"no"}`:                                  types.NewError(7, "no", ""),
		`{"code":7,"msg":"n`:                                      nil,
		``:                                                        nil,
		`null`:                                                    nil,
	} {
		require.Equal(t, want, errorObject([]byte(in)), in)
	}
	long := errorObject([]byte(`{"code":7,"msg":"` + strings.Repeat("m", 1<<20) + `"}`))
	require.Less(t, len(long.Msg), maxErrorText+10)
	require.Equal(t, uint(0), reportedError([]byte(`{"code":0,"msg":""}`)).Code)
	require.EqualError(t, withCode(&types.Error{Code: 7}), "code 7, without a message")
}

func FuzzErrorObject(f *testing.F) {
	for _, seed := range []string{
		`{"code":7,"msg":"no","details":"d"}`, "log\n{\"code\":7,\"msg\":\"no\"}", `{{{{`, `{"code":1e999}`,
		`{"a":`, `null`, `[{"code":7,"msg":"x"}]`, `{"code":7,"msg":"\ud800"}`, "\x00{",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		reported := reportedError(in)
		e := errorObject(in)
		if e == nil {
			return
		}
		require.Equal(t, reported, e)
		require.NotZero(t, e.Code)
		require.NotEmpty(t, e.Msg)
		require.LessOrEqual(t, len(e.Msg), maxErrorText+3)
		require.LessOrEqual(t, len(e.Details), maxErrorText+3)
		again, err := json.Marshal(e)
		require.NoError(t, err)
		require.Equal(t, e.Code, errorObject(again).Code)
	})
}

func TestCaptureIsBounded(t *testing.T) {
	t.Parallel()
	chunk := make([]byte, 1000)
	var c capture
	for range maxStdout / len(chunk) {
		fill(&c, chunk)
	}
	require.Len(t, c.bytes(), maxStdout/len(chunk)*len(chunk))
	for range 10_000 {
		fill(&c, chunk)
		require.LessOrEqual(t, cap(c.buf), maxStdout+1)
	}
	require.True(t, c.over)
	require.Nil(t, c.bytes())

	var e tail
	for range 10_000 {
		fill(&e, chunk)
	}
	fill(&e, []byte("end"))
	require.Len(t, e.String(), maxStderr)
	require.True(t, strings.HasSuffix(e.String(), "end"))
	require.LessOrEqual(t, cap(e.buf), 4*maxStderr)
}

// scriptedExec is an invoke.Exec that tests script.
type scriptedExec struct {
	version.PluginDecoder
	run func(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error)
}

func (e *scriptedExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	return e.run(ctx, path, stdin, env)
}

func (*scriptedExec) FindInPath(plugin string, paths []string) (string, error) {
	if plugin == "lost" {
		return "", errors.New("no such plugin")
	}
	return paths[0] + "/" + plugin, nil
}

func TestRunThroughWithExec(t *testing.T) {
	t.Parallel()
	exec := &scriptedExec{}
	var _ invoke.Exec = exec
	bin := t.TempDir()
	o, err := newOptions([]Option{WithExec(exec), WithBinDirs(bin), WithPluginTimeout(verbDel, 20*time.Millisecond)})
	require.NoError(t, err)
	r := newRunner(o, nil)

	path, err := r.find("bridge")
	require.NoError(t, err)
	require.Equal(t, bin+"/bridge", path)
	_, err = r.find("lost")
	require.ErrorIs(t, err, ErrPluginNotFound)

	inv := &invocation{verb: verbAdd, plugin: "bridge", path: path, env: []string{"A=b"}, stdin: []byte("in")}
	exec.run = func(ctx context.Context, gotPath string, stdin []byte, env []string) ([]byte, error) {
		_, limited := ctx.Deadline()
		require.True(t, limited)
		require.Equal(t, path, gotPath)
		require.Equal(t, "in", string(stdin))
		require.Equal(t, []string{"A=b"}, env)
		return []byte("{}"), nil
	}
	out, err := r.run(t.Context(), inv)
	require.NoError(t, err)
	require.Equal(t, output{stdout: []byte("{}")}, out)

	own := types.NewError(11, "later", "")
	exec.run = func(context.Context, string, []byte, []string) ([]byte, error) { return nil, own }
	_, err = r.run(t.Context(), inv)
	var got *types.Error
	require.ErrorAs(t, err, &got)
	require.Same(t, own, got)

	exec.run = func(context.Context, string, []byte, []string) ([]byte, error) { return make([]byte, maxStdout+1), nil }
	_, err = r.run(t.Context(), inv)
	require.ErrorIs(t, err, ErrOutputTooLarge)

	// libcni's own Exec flattens the context's error into text.
	exec.run = func(ctx context.Context, _ string, _ []byte, _ []string) ([]byte, error) {
		<-ctx.Done()
		return nil, types.NewError(0, "signal: killed", "")
	}
	inv.verb = verbDel
	_, err = r.run(t.Context(), inv)
	var perr *PluginError
	require.ErrorAs(t, err, &perr)
	require.True(t, perr.TimedOut)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	inv.verb = verbAdd
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = r.run(ctx, inv)
	require.ErrorAs(t, err, &perr)
	require.False(t, perr.TimedOut)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorAs(t, err, &got)
}
