package testutils_test

import (
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// A runtime is given a directory of fake plugins and a network that names
// them. This one is libcni itself.
func Example() {
	// In a test file of its own:
	//	func TestMain(m *testing.M) { testutils.Main(m) }

	_ = func(t *testing.T) { // a test
		bin := testutils.NewBinDir(t).Add("bridge", "tuning")
		failAndUndo(t, bin)

		calls := bin.Calls(t)
		require.Equal(t, []string{"ADD bridge", "ADD tuning", "DEL tuning", "DEL bridge"}, testutils.Verbs(calls))
		require.Equal(t, "eth0", calls[0].Env["CNI_IFNAME"])
	}
}

// failAndUndo has the second plugin of a network fail.
func failAndUndo(t *testing.T, bin *testutils.BinDir) {
	bin.Plugin("tuning").Next("ADD", testutils.Answer{
		Error: types.NewError(types.ErrTryAgainLater, "not now", ""),
	})
	conf, err := libcni.ConfListFromBytes([]byte(testutils.List("net", "1.0.0", "bridge", "tuning")))
	require.NoError(t, err)

	runtime := libcni.NewCNIConfigWithCacheDir([]string{bin.Path()}, t.TempDir(), nil)
	attachment := &libcni.RuntimeConf{ContainerID: "pod", NetNS: "/run/netns/pod", IfName: "eth0"}
	_, err = runtime.AddNetworkList(t.Context(), conf, attachment)
	failure := new(types.Error)
	require.ErrorAs(t, err, &failure)
	require.Equal(t, uint(types.ErrTryAgainLater), failure.Code)
	require.NoError(t, runtime.DelNetworkList(t.Context(), conf, attachment))
}

func TestExample(t *testing.T) {
	t.Parallel()
	bin := testutils.NewBinDir(t).Add("bridge", "tuning")
	failAndUndo(t, bin)
	require.Equal(t, []string{"ADD bridge", "ADD tuning", "DEL tuning", "DEL bridge"}, testutils.Verbs(bin.Calls(t)))
}

// What needs privileges is the body of a sandbox, and needs none outside.
func ExampleSandbox() {
	_ = func(t *testing.T) {
		testutils.Sandbox(t, func(t *testing.T) {
			netns := testutils.NewNetNS(t)
			_ = netns // attach it with real plugins
		})
	}
}

// A gate stops a plugin in the middle of its work, without a guess at how long
// anything takes.
func ExamplePlugin_Gate() {
	_ = func(t *testing.T, attach func() error) {
		gate := testutils.NewBinDir(t).Plugin("bridge").Gate("ADD")
		done := make(chan error, 1)
		go func() { done <- attach() }()

		gate.Wait(t) // the plugin is at work: look at what the runtime does meanwhile

		gate.Release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}
