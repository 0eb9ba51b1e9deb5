package plugin

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"

	"github.com/podcni/podcni/internal/spec"
)

func TestBaseEnv(t *testing.T) {
	t.Parallel()
	ours := []string{
		"PATH=/bin", "HOME=/root", "SECRET=x", "LC_ALL=C", "LC_TIME=de", "CNI_ARGS=a=b", "EMPTY=", "=C:=odd",
		"NONSENSE", "CNI_NETNS_OVERRIDE=1",
	}
	dirs := []string{"/a", "/b"}
	path := "CNI_PATH=/a" + string(os.PathListSeparator) + "/b"
	for name, test := range map[string]struct{ let, want []string }{
		"default":       {[]string{"PATH", "HOME", "TMPDIR"}, []string{"PATH=/bin", "HOME=/root", path}},
		"nothing":       {nil, []string{path}},
		"prefix":        {[]string{"LC_*", "EMPTY"}, []string{"LC_ALL=C", "LC_TIME=de", "EMPTY=", path}},
		"all":           {[]string{"*"}, []string{"PATH=/bin", "HOME=/root", "SECRET=x", "LC_ALL=C", "LC_TIME=de", "EMPTY=", path}},
		"set":           {[]string{"HOME", "HOME=/tmp", "NEW=a=b*"}, []string{"HOME=/tmp", "NEW=a=b*", path}},
		"never CNI":     {[]string{"CNI_*", "CNI_ARGS", "CNI_PATH=/c"}, []string{path}},
		"but this one":  {[]string{"CNI_NETNS_OVERRIDE"}, []string{"CNI_NETNS_OVERRIDE=1", path}},
		"or set":        {[]string{"CNI_NETNS_OVERRIDE=true"}, []string{"CNI_NETNS_OVERRIDE=true", path}},
		"no part names": {[]string{"PAT", "LC_"}, []string{path}},
	} {
		require.Equal(t, test.want, baseEnv(test.let, dirs, ours), name)
	}
}

func TestEnviron(t *testing.T) {
	t.Parallel()
	r := New(Options{Env: []string{"A=b"}, BinDirs: []string{"/x"}})
	get := func(ctx context.Context, verb, netNS, args string) string {
		c := Call{Verb: verb, ContainerID: "c", IfName: "eth0", Args: args}
		return strings.Join(r.environ(ctx, &c, netNS), " ")
	}
	for verb, want := range map[string]string{
		spec.Add:     "CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_NETNS=/n CNI_IFNAME=eth0 CNI_ARGS=K=V",
		spec.Del:     "CNI_COMMAND=DEL CNI_CONTAINERID=c CNI_NETNS=/n CNI_IFNAME=eth0 CNI_ARGS=K=V",
		spec.Check:   "CNI_COMMAND=CHECK CNI_CONTAINERID=c CNI_NETNS=/n CNI_IFNAME=eth0 CNI_ARGS=K=V",
		spec.GC:      "CNI_COMMAND=GC",
		spec.Status:  "CNI_COMMAND=STATUS",
		spec.Version: "CNI_COMMAND=VERSION",
	} {
		require.Equal(t, "A=b CNI_PATH=/x "+want, get(t.Context(), verb, "/n", "K=V"))
	}
	require.Equal(t, "A=b CNI_PATH=/x CNI_COMMAND=DEL CNI_CONTAINERID=c CNI_NETNS= CNI_IFNAME=eth0",
		get(t.Context(), spec.Del, "", ""))
	require.Len(t, r.env, 2, "what is shared stays as it is")
}

// The caller's span reaches plugins as it does under libcni's own Exec.
func TestEnvironHasTheSpan(t *testing.T) {
	t.Parallel()
	state, err := trace.ParseTraceState("vendor=1")
	require.NoError(t, err)
	span := trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state,
	}
	member, err := baggage.NewMember("user", "me")
	require.NoError(t, err)
	bag, err := baggage.New(member)
	require.NoError(t, err)
	// What is not of this span goes.
	r := New(Options{Env: []string{"TRACEPARENT=old", "TRACESTATE=old", "A=b"}})
	status := &Call{Verb: spec.Status}

	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(span))
	require.Equal(t, []string{
		"A=b", "CNI_PATH=", "CNI_COMMAND=STATUS",
		"TRACEPARENT=00-01000000000000000000000000000000-0200000000000000-01", "TRACESTATE=vendor=1", "BAGGAGE=user=me",
	}, r.environ(baggage.ContextWithBaggage(ctx, bag), status, ""))

	span.TraceState = trace.TraceState{}
	ctx = trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(span))
	require.Equal(t, []string{
		"A=b", "CNI_PATH=", "CNI_COMMAND=STATUS",
		"TRACEPARENT=00-01000000000000000000000000000000-0200000000000000-01",
	}, r.environ(ctx, status, ""))

	require.Equal(t, []string{"TRACEPARENT=old", "TRACESTATE=old", "A=b", "CNI_PATH=", "CNI_COMMAND=STATUS"},
		r.environ(baggage.ContextWithBaggage(t.Context(), bag), status, ""), "no span, no baggage")
}
