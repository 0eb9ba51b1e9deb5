package podcni

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// logBuffer keeps the lines of a log.
type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// take returns the warnings since the last call.
func (l *logBuffer) take(t *testing.T) (lines []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for dec := json.NewDecoder(&l.b); dec.More(); {
		line := map[string]any{}
		require.NoError(t, dec.Decode(&line))
		delete(line, "time")
		delete(line, "level")
		lines = append(lines, line)
	}
	l.b.Reset()
	return lines
}

// What nobody will do is said in the log, or is an error with
// WithStrictCapabilities.
func TestWishesThatNobodyServes(t *testing.T) {
	t.Parallel()
	const (
		undeclared = "no plugin of the network declares a capability that the pod asks for"
		elsewhere  = "the pod has a RuntimeConfig for a network that it is not attached to"
	)
	ports := RuntimeConfig{PortMappings: []PortMapping{{HostPort: 80, ContainerPort: 80}}}
	for name, tc := range map[string]struct {
		pod   PodNetwork
		warns []map[string]any
		field string // of the error; empty: none
		value string
	}{
		"everything is declared": {
			pod: PodNetwork{
				RuntimeConfig: map[string]RuntimeConfig{"net": ports},
				Aliases:       map[string][]string{"net": {"x"}},
			},
		},
		"nothing is asked": {pod: PodNetwork{RuntimeConfig: map[string]RuntimeConfig{"net": {}}}},
		"annotations are for whoever wants them": {
			pod: PodNetwork{RuntimeConfig: map[string]RuntimeConfig{"net": {PodAnnotations: &map[string]string{"a": "b"}}}},
		},
		"a capability that is declared elsewhere": {
			pod: PodNetwork{
				Networks:      []NetAttachment{{Name: "bare"}, {Name: "net"}},
				RuntimeConfig: map[string]RuntimeConfig{"bare": ports, "net": ports},
			},
			warns: []map[string]any{{"msg": undeclared, "sandbox": "id", "network": "bare", "capability": "portMappings"}},
			field: `RuntimeConfig["bare"]`, value: "portMappings",
		},
		"two capabilities, and one that is declared": {
			pod: PodNetwork{RuntimeConfig: map[string]RuntimeConfig{"net": {
				PortMappings:   ports.PortMappings,
				Bandwidth:      &BandwidthConfig{IngressRate: 1, IngressBurst: 1},
				CapabilityArgs: map[string]any{"own": 1},
			}}},
			warns: []map[string]any{
				{"msg": undeclared, "sandbox": "id", "network": "net", "capability": "bandwidth"},
				{"msg": undeclared, "sandbox": "id", "network": "net", "capability": "own"},
			},
			field: `RuntimeConfig["net"]`, value: "bandwidth",
		},
		"a network that is not the pod's": {
			pod: PodNetwork{RuntimeConfig: map[string]RuntimeConfig{"net": ports, "bare": ports, "no such": {}}},
			warns: []map[string]any{
				{"msg": elsewhere, "sandbox": "id", "network": "bare"},
				{"msg": elsewhere, "sandbox": "id", "network": "no such"},
			},
			field: `RuntimeConfig["bare"]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exec := &fakeExec{}
			nets := []Option{withNet("net", "portMappings", "aliases"), withNet("bare")}
			tc.pod.ID, tc.pod.NetNS = "id", "/ns"

			var log logBuffer
			c := exec.open(t, append(nets, WithLogger(log.logger()))...)
			log.take(t) // what loading has said
			_, err := planOf(c, &tc.pod)
			require.NoError(t, err)
			require.Equal(t, tc.warns, log.take(t))

			strict := exec.open(t, append(nets, WithStrictCapabilities(), WithLogger(log.logger()))...)
			log.take(t)
			if tc.field == "" {
				_, err := planOf(strict, &tc.pod)
				require.NoError(t, err)
			} else {
				requireRefused(t, strict, exec, &tc.pod, tc.field)
				_, err := planOf(strict, &tc.pod)
				require.Equal(t, tc.value, requireField(t, err, tc.field))
			}
			require.Empty(t, log.take(t), "what is an error is not logged as well")
		})
	}
}

// The error names the field that the caller gave.
func TestUnservedWishNamesItsField(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	c := exec.open(t, withNet("net"), WithStrictCapabilities())
	for field, pod := range map[string]*PodNetwork{
		`InterfaceConfig["eth0"]`: {InterfaceConfig: map[string]RuntimeConfig{"eth0": {MAC: "02:00:00:00:00:01"}}},
		`Aliases["net"]`:          {Aliases: map[string][]string{"net": {"x"}}},
	} {
		pod.ID, pod.NetNS = "id", "/ns"
		requireRefused(t, c, exec, pod, field)
	}
}
