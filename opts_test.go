package podcni

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/spec"
)

// comparable takes out of options what cannot be compared.
func comparableOptions(t *testing.T, opts ...Option) options {
	t.Helper()
	o, err := newOptions(opts)
	require.NoError(t, err)
	require.NotNil(t, o.log)
	o.log = nil
	return *o
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	o := comparableOptions(t)
	require.Equal(t, options{
		confDir: DefaultConfDir, binDirs: []string{DefaultBinDir}, cacheDir: DefaultCacheDir,
		watch: true, ifPrefix: "eth", grace: 30 * time.Second, maxAttempts: 5,
		pluginEnv: defaultPluginEnv(),
		timeouts: map[string]time.Duration{
			"ADD": 2 * time.Minute, "DEL": 2 * time.Minute, "GC": 2 * time.Minute,
			"CHECK": 10 * time.Second, "STATUS": 10 * time.Second, "VERSION": 10 * time.Second,
		},
	}, o)
	require.Subset(t, o.pluginEnv, []string{"PATH", "HOME", "TMPDIR"})
	require.Equal(t, 10*time.Second, o.probeTimeout())
}

// The zero value of each argument means the default, also after another value.
func TestZeroMeansTheDefault(t *testing.T) {
	t.Parallel()
	want := comparableOptions(t)
	for name, pair := range map[string][2]Option{
		"WithConfDir":         {WithConfDir("/a"), WithConfDir("")},
		"WithBinDirs":         {WithBinDirs("/a"), WithBinDirs([]string{}...)},
		"WithCacheDir":        {WithCacheDir("/a"), WithCacheDir("")},
		"WithDefaultNetwork":  {WithDefaultNetwork("a"), WithDefaultNetwork("")},
		"WithInterfacePrefix": {WithInterfacePrefix("net"), WithInterfacePrefix("")},
		"WithPluginTimeout":   {WithPluginTimeout(VerbAdd, time.Second), WithPluginTimeout(VerbAdd, 0)},
		"WithTeardownGrace":   {WithTeardownGrace(time.Second), WithTeardownGrace(0)},
		"WithMaxConcurrent":   {WithMaxConcurrent(1), WithMaxConcurrent(0)},
		"WithMaxAttempts":     {WithMaxAttempts(1), WithMaxAttempts(0)},
		"WithOwner":           {WithOwner("a"), WithOwner("")},
		"WithPluginEnv":       {WithPluginEnv("A=b"), WithPluginEnv([]string{}...)},
		"WithExec":            {WithExec(&fakeExec{}), WithExec(nil)},
		"WithLogger":          {WithLogger(slog.Default()), WithLogger(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name != "WithLogger" { // comparableOptions takes it out
				require.NotEqual(t, want, comparableOptions(t, pair[0]))
			}
			require.Equal(t, want, comparableOptions(t, pair[1]))
			require.Equal(t, want, comparableOptions(t, pair[0], pair[1]), "the last one counts")
			o, err := newOptions([]Option{pair[0], pair[1]})
			require.NoError(t, err)
			require.False(t, o.log.Enabled(t.Context(), slog.LevelError), "by default nothing is logged")
		})
	}
}

func TestEmptyTemplateIsNone(t *testing.T) {
	t.Parallel()
	require.Equal(t, comparableOptions(t), comparableOptions(t, WithConfTemplate("")))
	require.NoError(t, (&fakeExec{}).open(t, WithConfTemplate("")).UpdatePodCIDRs(t.Context(), nil))
}

func TestNoLimit(t *testing.T) {
	t.Parallel()
	var opts []Option
	for _, verb := range []string{VerbAdd, VerbDel, VerbCheck, VerbGC, VerbStatus, VerbVersion} {
		require.True(t, spec.IsVerb(verb))
		opts = append(opts, WithPluginTimeout(verb, NoLimit))
	}
	o := comparableOptions(t, append(opts, WithTeardownGrace(NoLimit), WithMaxConcurrent(NoLimit), WithMaxAttempts(NoLimit))...)
	require.Len(t, o.timeouts, 6)
	for verb, limit := range o.timeouts {
		require.Zero(t, limit, verb, "the runner takes 0 for no limit")
	}
	require.Equal(t, 10*time.Second, o.probeTimeout(), "New has to return")
	require.Equal(t, math.MaxInt, o.maxAttempts)
	require.Greater(t, o.grace, 100*365*24*time.Hour)
}

// The end of the caller's context does not end what must be done. Without a limit
// nothing but the end of the work does.
func TestOutlast(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		grace time.Duration
		ends  bool
	}{
		"no limit":    {comparableOptions(t, WithTeardownGrace(NoLimit)).grace, false},
		"almost none": {time.Nanosecond, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cause := errors.New("cause")
			ctx, cancel := context.WithCancelCause(t.Context())
			out, stop := outlast(ctx, tc.grace)
			require.NoError(t, out.Err())
			cancel(cause)
			if tc.ends {
				<-out.Done()
				require.ErrorIs(t, context.Cause(out), context.DeadlineExceeded)
				require.ErrorIs(t, context.Cause(out), cause)
			} else {
				require.NoError(t, out.Err())
			}
			stop()
			require.Error(t, out.Err())
		})
	}
}

// The order of different options does not matter.
func TestOrderOfOptions(t *testing.T) {
	t.Parallel()
	opts := []Option{
		WithConfDir("/conf"), WithBinDirs("/bin1", "/bin2"), WithCacheDir("/cache"), WithDefaultNetwork("net"),
		WithConfTemplate("x"), WithoutWatch(), WithInterfacePrefix("p"), WithPluginTimeout(VerbAdd, 1), WithPluginTimeout(VerbDel, 2),
		WithTeardownGrace(3), WithMaxConcurrent(4), WithMaxAttempts(5), WithCheckOnGetStatus(), WithParallelAttach(),
		WithStrictCapabilities(), WithOwner("me"), WithPluginEnv("A", "B*", "C=d"), WithFsync(), WithStrictPermissions(),
	}
	want := comparableOptions(t, opts...)
	slices.Reverse(opts)
	require.Equal(t, want, comparableOptions(t, opts...))
	require.Equal(t, options{
		confDir: "/conf", binDirs: []string{"/bin1", "/bin2"}, cacheDir: "/cache", defaultNetwork: "net",
		confTemplate: "x", hasTemplate: true, ifPrefix: "p", grace: 3, maxConcurrent: 4, maxAttempts: 5,
		checkStatus: true, parallelAttach: true, strictCapabilities: true, owner: "me",
		pluginEnv: []string{"A", "B*", "C=d"}, fsync: true, strict: true,
		timeouts: map[string]time.Duration{
			"ADD": 1, "DEL": 2, "GC": 2 * time.Minute,
			"CHECK": 10 * time.Second, "STATUS": 10 * time.Second, "VERSION": 10 * time.Second,
		},
	}, want)
}

func TestDirectoriesAreChecked(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]Option{
		"WithConfDir":   WithConfDir("/a\nb"),
		"WithBinDirs":   WithBinDirs("/a", "/a\xff"),
		"WithCacheDir":  WithCacheDir("/a\x7f"),
		"WithOwner":     WithOwner("a\nb"),
		"WithPluginEnv": WithPluginEnv("A=\x00"),
	} {
		_, err := newOptions([]Option{opt})
		require.ErrorIs(t, err, ErrInvalidOption)
		var bad *FieldError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, name, bad.Field)
		require.NotContains(t, err.Error(), "\n")
	}
}
