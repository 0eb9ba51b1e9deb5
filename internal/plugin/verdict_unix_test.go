//go:build unix

package plugin

import (
	"errors"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/spec"
)

// Only the object that is the whole of stdout, with a status other than 0, is
// the plugin's error.
func TestVerdict(t *testing.T) {
	t.Parallel()
	const object = `{"cniVersion":"1.1.0","code":11,"msg":"pool is empty","details":"10.0.0.0/24"}`
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		for name, test := range map[string]struct {
			body string
			exit int
			code int   // -1: no error object
			is   error // nil: whatever
		}{
			"error on stdout":       {`echo '` + object + `'; exit 1`, 1, 11, nil},
			"error on stderr":       {`echo '` + object + `' >&2; exit 2`, 2, -1, errNoAnswer},
			"after a log line":      {`echo 'level=info'; echo '{"code":3,"msg":"x"}'; exit 1`, 1, -1, ErrBadOutput},
			"in a log line":         {`echo 'annotation {"code":3,"msg":"x"}'; exit 1`, 1, -1, ErrBadOutput},
			"two objects":           {`echo '{"code":3,"msg":"x"}{"code":3,"msg":"x"}'; exit 1`, 1, -1, ErrBadOutput},
			"inside an object":      {`echo '{"log":{"code":3,"msg":"x"}}'; exit 1`, 1, -1, ErrBadOutput},
			"no number":             {`echo '{"code":"3","msg":"x"}'; exit 1`, 1, -1, ErrBadOutput},
			"code 0":                {`echo '{"code":0,"msg":"odd"}'; exit 1`, 1, 0, nil},
			"nothing":               {`exit 7`, 7, -1, errNoAnswer},
			"garbage":               {`echo oops; exit 1`, 1, -1, ErrBadOutput},
			"cut off":               {`printf '{"code":11,"ms'; exit 1`, 1, -1, ErrBadOutput},
			"killed":                {`kill -KILL $$`, -1, -1, nil},
			"killed with error":     {`echo '` + object + `'; kill -KILL $$`, -1, 11, nil},
			"success with an error": {`echo '` + object + `'`, 0, -1, nil},
			"success with a status": {`echo '{"code":200,"msg":"OK"}'`, 0, -1, nil},
		} {
			t.Run(name, func(t *testing.T) {
				c := script(t, test.body)
				for _, verb := range []string{spec.Del, spec.Check, spec.GC, spec.Status} {
					c.Verb = verb
					out, err := with(shell()).Run(t.Context(), c)
					require.Equal(t, test.exit, out.Exit)
					if test.exit == 0 {
						require.NoError(t, err)
						continue
					}
					require.Error(t, err)
					var cniErr *types.Error
					require.Equal(t, test.code >= 0, errors.As(err, &cniErr))
					if test.code >= 0 {
						require.Equal(t, uint(test.code), cniErr.Code)
					}
					if test.is != nil {
						require.ErrorIs(t, err, test.is)
					}
					if test.exit < 0 {
						require.ErrorContains(t, err, "signal: killed")
					}
				}
			})
		}
	})
}

func TestAddWantsOneWholeResult(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, with func(Options) *Runner) {
		for name, test := range map[string]struct {
			body, stdout string
			is           error
		}{
			"a result":       {`echo '{"cniVersion":"1.0.0"}'`, `{"cniVersion":"1.0.0"}`, nil},
			"no version":     {`echo '{}'`, `{"cniVersion":"1.0.0"}`, nil},
			"another":        {`echo '{"cniVersion":"1.1.0"}'`, `{"cniVersion":"1.0.0"}`, nil},
			"an error":       {`echo '{"code":7,"msg":"no"}'`, "", types.NewError(7, "no", "")},
			"nothing":        {`:`, "", ErrNoOutput},
			"log and result": {`echo log; echo '{}'`, "", ErrBadOutput},
			"a child holds a part": {
				`(sleep 3; echo ']}') & printf '{"cniVersion":"1.0.0","ips":['`, "", ErrBadOutput,
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := script(t, test.body)
				c.Verb, c.CNIVersion = spec.Add, "1.0.0"
				out, err := with(shell()).Run(t.Context(), c)
				if test.is == nil {
					require.NoError(t, err)
					require.Equal(t, test.stdout, string(out.Stdout))
					return
				}
				var want, got *types.Error
				if errors.As(test.is, &want) {
					require.ErrorAs(t, err, &got)
					require.Equal(t, want, got)
				} else {
					require.ErrorIs(t, err, test.is)
				}
				require.Zero(t, out.Exit)
				require.False(t, out.NotStarted)
			})
		}
	})
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body string
		want []string
		is   error
	}{
		"versions":       {`echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0"]}'`, []string{"0.4.0", "1.0.0"}, nil},
		"asks":           {`grep -q '{"cniVersion":"1.1.0"}' && echo '{"supportedVersions":["1.0.0"]}'`, []string{"1.0.0"}, nil},
		"does not know":  {`echo '{"code":100,"msg":"unknown CNI_COMMAND: VERSION"}'; exit 1`, []string{"0.1.0"}, nil},
		"wants more":     {`echo '{"code":4,"msg":"required env variables missing"}'; exit 1`, []string{"0.1.0"}, nil},
		"another error":  {`echo '{"code":5,"msg":"CNI_COMMAND"}'; exit 1`, nil, nil},
		"nothing at all": {`:`, nil, ErrNoOutput},
		"garbage":        {`echo hello`, nil, ErrBadOutput},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := script(t, test.body)
			versions, err := New(shell()).Versions(t.Context(), c.Plugin, c.Path)
			require.Equal(t, test.want, versions)
			require.Equal(t, test.want == nil, err != nil)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
		})
	}
}
