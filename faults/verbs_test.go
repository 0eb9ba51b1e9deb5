package faults_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
	"github.com/podcni/podcni/testutils"
)

// DEL, CHECK, STATUS and GC have no answer but an error: what else a plugin
// prints on success is nobody's concern, and what it prints on failure is in the
// error.
func TestOutputOfVerbsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	all := func(n *node, p *podcni.CNI) map[string]error {
		pod := n.pod("sandbox", "a")
		_, err := p.SetUpPod(pod)
		require.NoError(n.t, err)
		return map[string]error{
			"CHECK":  p.CheckPod(context.Background(), pod),
			"STATUS": p.Status(),
			"GC":     p.GC(context.Background(), []*podcni.PodNetwork{&pod}),
			"DEL":    p.TearDownPod(pod),
		}
	}
	script := func(n *node, a testutils.Answer) {
		for _, verb := range []string{"CHECK", "STATUS", "GC", "DEL"} {
			n.bin.Plugin("a").On(verb, a)
		}
	}
	for name, printed := range map[string]string{
		"null": "null", "text": "done", "half": `{"cniVersion":"1.1`, "another version": `{"cniVersion":"9.9.9"}`, "nulls": `{"ips":[null]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a")
			script(n, testutils.Answer{Result: printed})
			for verb, err := range all(n, n.open()) {
				require.NoError(t, err, verb)
			}
			require.Empty(t, n.records())

			n = newNode(t, "a")
			script(n, testutils.Answer{Result: printed, Exit: 3, Stderr: "no reason"})
			for verb, err := range all(n, n.open()) {
				pe := requirePluginError(t, err)
				require.Equal(t, verb, pe.Verb)
				require.Equal(t, 3, pe.Exit)
				require.Contains(t, pe.Stderr, "no reason")
			}
			require.Len(t, n.records(), 1)
		})
	}
}

// A context that ends once its operation is over changes nothing any more.
func TestContextEndsAfterwards(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")
	p := n.open()
	pod := n.pod("sandbox", "a")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := p.SetUpPodWithContext(ctx, pod)
	require.NoError(t, err)
	cancel()
	_, err = p.GetPodNetworkStatus(pod)
	require.NoError(t, err)
	require.Equal(t, []string{"ADD a"}, n.verbs())
	require.NoError(t, p.TearDownPod(pod))
}
