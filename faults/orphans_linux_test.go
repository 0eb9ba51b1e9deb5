package faults_test

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni"
)

// Processes whose environment looks like a plugin's are not plugins: none of them is
// ended, and none holds up the tear-down.
func TestImitatedPluginsAreLeftAlone(t *testing.T) {
	t.Parallel()
	n := chained(t)
	pod := n.pod("sandbox", "net")
	gate := n.bin.Plugin("p0").Gate("ADD")
	cmd := n.runtime("setup", pod)
	gate.Wait(t)
	var imitated []*exec.Cmd
	for _, attr := range []*syscall.SysProcAttr{nil, {Setpgid: true}, {Setsid: true}} {
		for _, verb := range []string{"ADD", "DEL"} {
			cmd := exec.Command("sleep", "600")
			cmd.Env = []string{
				"CNI_COMMAND=" + verb, "CNI_CONTAINERID=sandbox", "CNI_IFNAME=eth0",
				"CNI_NETNS=" + pod.NetNS, "CNI_PATH=" + n.bin.Path(),
			}
			cmd.SysProcAttr = attr
			require.NoError(t, cmd.Start())
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			imitated = append(imitated, cmd)
		}
	}
	kill(t, cmd)
	require.NoError(t, n.open().TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	n.requireNothingHeld()
	for _, cmd := range imitated {
		var status unix.WaitStatus
		pid, err := unix.Wait4(cmd.Process.Pid, &status, unix.WNOHANG, nil)
		require.NoError(t, err)
		require.Zero(t, pid, "it still runs")
	}
}
