package podcni_test

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni"
)

// Of the processes that a dead runtime's plugins left, only those that may still
// work on the attachment are ended: not the daemon that a finished ADD started,
// which may serve others by now, and nothing of our own process group.
func TestOnlyOrphansAreEnded(t *testing.T) {
	t.Parallel()
	n := chained(t)
	pod := n.pod("sandbox", "net")
	path := n.bin.Path()
	start := func(verb, id, netns string, attr *syscall.SysProcAttr) *exec.Cmd {
		cmd := exec.Command("sleep", "600")
		cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_NETNS=" + netns, "CNI_PATH=" + path}
		cmd.SysProcAttr = attr
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd
	}
	daemon := start("ADD", "sandbox", pod.NetNS, &syscall.SysProcAttr{Setsid: true})
	others := start("DEL", "other", pod.NetNS, &syscall.SysProcAttr{Setpgid: true})
	withUs := start("DEL", "sandbox", pod.NetNS, nil)
	without := start("DEL", "sandbox", "", &syscall.SysProcAttr{Setpgid: true})
	orphan := start("DEL", "sandbox", pod.NetNS, &syscall.SysProcAttr{Setpgid: true})
	path = "/another/runtime's"
	foreign := start("DEL", "sandbox", "", &syscall.SysProcAttr{Setpgid: true})

	require.NoError(t, n.runtime("setup", pod).Wait())
	require.NoError(t, n.open().TearDownPod(podcni.PodNetwork{ID: "sandbox"}))
	n.requireNothingHeld()
	// Those that are ended are gone when TearDownPod returns.
	ended := func(cmd *exec.Cmd) bool {
		var status unix.WaitStatus
		pid, err := unix.Wait4(cmd.Process.Pid, &status, unix.WNOHANG, nil)
		require.NoError(t, err)
		return pid != 0 && status.Signal() == unix.SIGTERM
	}
	require.True(t, ended(orphan))
	require.True(t, ended(without))
	require.False(t, ended(daemon))
	require.False(t, ended(others))
	require.False(t, ended(foreign))
	require.False(t, ended(withUs))
}
