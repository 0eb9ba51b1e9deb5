package plugin

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/podcni/podcni/internal/spec"
)

// netNSOverride makes plugins built on skel work in a namespace that is their
// own. Of the variables that begin with CNI_ it is the only one that is an
// operator's to set.
const netNSOverride = "CNI_NETNS_OVERRIDE"

// baseEnv returns the environment that every plugin gets: what patterns let
// through of ours, in our order, then what they set, then CNI_PATH.
func baseEnv(patterns, binDirs, ours []string) []string {
	var env []string
	at := make(map[string]int)
	put := func(kv string, named bool) {
		name := envName(kv)
		if name == "" || strings.HasPrefix(name, "CNI_") && (name != netNSOverride || !named) {
			return
		}
		if i, ok := at[name]; ok {
			env[i] = kv
			return
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	for _, kv := range ours {
		if pass, named := letThrough(patterns, envName(kv)); pass {
			put(kv, named)
		}
	}
	for _, pattern := range patterns {
		if strings.Contains(pattern, "=") {
			put(pattern, true)
		}
	}
	return append(env, "CNI_PATH="+cniPath(binDirs))
}

func cniPath(binDirs []string) string { return strings.Join(binDirs, string(os.PathListSeparator)) }

// letThrough reports whether one of the patterns NAME and PREFIX* fits, and
// whether one is the whole name.
func letThrough(patterns []string, name string) (pass, named bool) {
	for _, pattern := range patterns {
		if strings.Contains(pattern, "=") {
			continue
		}
		pattern = foldEnvName(pattern)
		prefix, ok := strings.CutSuffix(pattern, "*")
		named = named || name == pattern
		pass = pass || named || ok && strings.HasPrefix(name, prefix)
	}
	return pass, named
}

// envName returns the name in NAME=value. It is empty where there is none, as in
// the variables of Windows that begin with "=".
func envName(kv string) string {
	name, _, ok := strings.Cut(kv, "=")
	if !ok {
		return ""
	}
	return foldEnvName(name)
}

// foldEnvName makes names equal that are one name on this platform.
func foldEnvName(name string) string {
	if runtime.GOOS == "windows" {
		return strings.ToUpper(name)
	}
	return name
}

// environ returns the environment of one run (specification, section 2,
// "Parameters"). A DEL whose namespace is gone has an empty CNI_NETNS; empty
// arguments are left out; GC, STATUS and VERSION are about no container.
func (r *Runner) environ(ctx context.Context, c *Call, netNS string) []string {
	env := make([]string, len(r.env), len(r.env)+8)
	copy(env, r.env)
	env = append(env, "CNI_COMMAND="+c.Verb)
	switch c.Verb {
	case spec.Add, spec.Del, spec.Check:
		env = append(env, "CNI_CONTAINERID="+c.ContainerID, "CNI_NETNS="+netNS, "CNI_IFNAME="+c.IfName)
		if c.Args != "" {
			env = append(env, "CNI_ARGS="+c.Args)
		}
	}
	return addTrace(ctx, env)
}

// addTrace adds the span of ctx, as libcni's own Exec does. It replaces what
// this process was itself started with.
func addTrace(ctx context.Context, env []string) []string {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return env
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithRemoteSpanContext(ctx, span), carrier)
	for _, v := range [...][2]string{
		{"TRACEPARENT", carrier.Get("traceparent")},
		{"TRACESTATE", carrier.Get("tracestate")},
		{"BAGGAGE", baggage.FromContext(ctx).String()},
	} {
		env = slices.DeleteFunc(env, func(kv string) bool { return envName(kv) == v[0] })
		if v[1] != "" {
			env = append(env, v[0]+"="+v[1])
		}
	}
	return env
}
