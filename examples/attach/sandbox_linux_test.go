package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// nothingLeft is how every test here ends.
func (s *setup) nothingLeft() {
	s.t.Helper()
	status, out, errs := s.attach("list", "--json")
	require.Zero(s.t, status, errs)
	require.JSONEq(s.t, "[]", out)
	pins, err := os.ReadDir(s.netns)
	if !os.IsNotExist(err) {
		require.NoError(s.t, err)
	}
	require.Empty(s.t, pins)
}

func (s *setup) ran() []string {
	s.t.Helper()
	var verbs []string
	for _, call := range s.bin.Calls(s.t) {
		if call.Verb != "VERSION" {
			verbs = append(verbs, call.Verb)
		}
	}
	return verbs
}

func TestRun(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		outside, err := os.Readlink("/proc/self/ns/net")
		require.NoError(t, err)
		for name, test := range map[string]struct {
			args   []string
			status int
		}{
			"succeeds":         {[]string{"readlink", "/proc/self/ns/net"}, 0},
			"fails":            {[]string{"sh", "-c", "readlink /proc/self/ns/net; exit 7"}, 7},
			"dies of a signal": {[]string{"sh", "-c", "readlink /proc/self/ns/net; kill -USR1 $$"}, signalled + int(syscall.SIGUSR1)},
		} {
			t.Run(name, func(t *testing.T) {
				s := newSetup(t)
				status, out, errs := s.attach(append([]string{"run", "--"}, test.args...)...)
				require.Equal(t, test.status, status, errs)
				require.Regexp(t, `^net:\[\d+\]\n$`, out)
				require.NotEqual(t, outside+"\n", out)
				require.Regexp(t, `(?m)^NETWORK +INTERFACE +MAC +ADDRESSES +GATEWAYS\nnet +eth0 +`, errs)
				require.Equal(t, []string{"ADD", "DEL"}, s.ran())
				s.nothingLeft()
			})
		}
		t.Run("is not there", func(t *testing.T) {
			s := newSetup(t)
			status, _, errs := s.attach("run", "--", "no-such-command")
			require.Equal(t, exitFailed, status)
			require.Contains(t, errs, "no-such-command")
			require.Equal(t, []string{"ADD", "DEL"}, s.ran())
			s.nothingLeft()
		})
		t.Run("cannot be attached", func(t *testing.T) {
			s := newSetup(t)
			s.bin.Plugin("fake").On("ADD", testutils.Answer{Error: types.NewError(100, "\x1b[31mthe pool is empty\r", "")})
			status, out, errs := s.attach("run", "--", "echo", "hello")
			require.Equal(t, exitFailed, status)
			require.Empty(t, out)
			require.Contains(t, errs, "the pool is empty")
			require.NotRegexp(t, `[\r\x1b]`, errs)
			s.nothingLeft()
		})
		t.Run("cannot be detached", func(t *testing.T) {
			s := newSetup(t)
			s.bin.Plugin("fake").On("DEL", testutils.Answer{Error: types.NewError(100, "not now", "")})
			for status, command := range map[int]string{exitFailed: "exit 0", 7: "exit 7"} {
				got, _, errs := s.attach("run", "--", "sh", "-c", command)
				require.Equal(t, status, got)
				require.Contains(t, errs, "not now")
			}
			s.bin.Plugin("fake").On("DEL", testutils.Answer{})
			status, _, errs := s.attach("gc", "--all")
			require.Zero(t, status, errs)
			s.nothingLeft()
		})
	})
}

// The program as a process, which is sent the signals of a terminal and of
// whoever stops services.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		self, err := os.Executable()
		require.NoError(t, err)
		// What our own parent ignores the program would ignore as well. What we
		// catch it is born with the default of.
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(caught)
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			t.Run(sig.String(), func(t *testing.T) {
				s := newSetup(t)
				args := append([]string{"run"}, s.flags...)
				cmd := exec.CommandContext(t.Context(), self, append(args, "--", "sh", "-c", "echo here; exec sleep 1000")...)
				cmd.Args[0] = program
				cmd.Stderr = t.Output()
				stdout, err := cmd.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				here := make([]byte, len("here\n"))
				_, err = io.ReadFull(stdout, here)
				require.NoError(t, err)
				require.NoError(t, cmd.Process.Signal(sig))
				_, err = io.Copy(io.Discard, stdout)
				require.NoError(t, err)
				var exit *exec.ExitError
				require.ErrorAs(t, cmd.Wait(), &exit)
				require.Equal(t, signalled+int(syscall.SIGTERM), exit.ExitCode())
				require.Equal(t, []string{"ADD", "DEL"}, s.ran())
				s.nothingLeft()
			})
		}
		t.Run("while it is attached", func(t *testing.T) {
			s := newSetup(t)
			plugin := s.bin.Plugin("fake").On("ADD", testutils.Answer{Hang: true})
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			done := make(chan int, 1)
			go func() {
				status, _, _ := s.attachWith(ctx, &syncBuffer{}, "run", "--", "true")
				done <- status
			}()
			plugin.WaitCalls(t, "ADD", 1)
			interrupt()
			require.Equal(t, exitFailed, <-done)
			require.Equal(t, []string{"ADD", "DEL"}, s.ran())
			s.nothingLeft()
		})
	})
}

func TestStepByStep(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		s := newSetup(t)
		status, out, errs := s.attach("add", "--id", "web", "--new-netns", "--pod-name", "web", "--json")
		require.Zero(t, status, errs)
		var added struct {
			ID, NetNS string
			Networks  []struct {
				Network, Interface string
				Result             struct{ CNIVersion string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(out), &added))
		require.Equal(t, "web", added.ID)
		require.Equal(t, filepath.Join(s.netns, "web"), added.NetNS)
		require.Len(t, added.Networks, 1)
		require.Equal(t, "net", added.Networks[0].Network)
		require.Equal(t, "eth0", added.Networks[0].Interface)
		require.Equal(t, "1.0.0", added.Networks[0].Result.CNIVersion)

		status, _, errs = s.attach("add", "--id", "web")
		require.Equal(t, exitFailed, status)
		require.NotEmpty(t, errs)

		status, out, _ = s.attach("list")
		require.Zero(t, status)
		require.Regexp(t, `(?m)^web +net +eth0 +attached +\d{4}-.* `+owner+`$`, out)

		status, out, errs = s.attach("check", "--id", "web")
		require.Zero(t, status, errs)
		require.Regexp(t, `(?m)^net +eth0 +`, out)

		status, _, errs = s.attach("gc", "web")
		require.Zero(t, status, errs)
		status, _, errs = s.attach("del", "--id", "web", "--remove-netns")
		require.Zero(t, status, errs)
		require.Equal(t, []string{"ADD", "CHECK", "DEL"}, s.ran())
		s.nothingLeft()

		status, _, errs = s.attach("check", "--id", "web")
		require.Equal(t, exitFailed, status)
		require.NotEmpty(t, errs)
		status, _, errs = s.attach("del", "--id", "web", "--remove-netns")
		require.Zero(t, status, errs)
	})
}

func TestForgetAndGC(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		s := newSetup(t)
		for _, id := range []string{"a", "b", "c"} {
			status, _, errs := s.attach("add", "--id", id, "--new-netns")
			require.Zero(t, status, errs)
		}
		status, _, errs := s.attach("forget", "a")
		require.Zero(t, status, errs)
		status, _, errs = s.attach("gc", "b")
		require.Zero(t, status, errs)
		require.Equal(t, []string{"ADD", "ADD", "ADD", "DEL"}, s.ran())
		_, out, _ := s.attach("list")
		require.Regexp(t, `(?m)^b +net `, out)
		require.NotRegexp(t, `(?m)^[ac] +net `, out)
		status, _, errs = s.attach("gc", "--all")
		require.Zero(t, status, errs)
		for _, id := range []string{"a", "b", "c"} {
			status, _, errs := s.attach("del", "--id", id, "--remove-netns")
			require.Zero(t, status, errs)
		}
		s.nothingLeft()
	})
}

// As root, what others can write is not taken unless asked to.
func TestStrictPermissions(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		s := newSetup(t)
		require.NoError(t, os.Chmod(s.conf.File("10-net.conflist"), 0o666))
		status, _, errs := s.attach("status")
		require.Zero(t, status, errs)
		s.flags = s.flags[:len(s.flags)-1] // --no-strict
		status, _, errs = s.attach("status")
		require.Equal(t, exitFailed, status)
		require.Contains(t, errs, "10-net.conflist")
	})
}

func TestRunWithRealPlugins(t *testing.T) {
	t.Parallel()
	plugins := os.Getenv("PODCNI_PLUGINS")
	if plugins == "" {
		t.Skip("PODCNI_PLUGINS names no directory of the CNI reference plugins; see make integration")
	}
	testutils.Sandbox(t, func(t *testing.T) {
		s := newSetup(t)
		s.conf.Write("10-net.conflist", testutils.ListJSON("net", "1.0.0", map[string]any{
			"type": "bridge", "bridge": "attach0", "isGateway": true,
			"ipam": map[string]any{
				"type": "host-local", "dataDir": t.TempDir(),
				"ranges": [][]any{{map[string]any{"subnet": "10.90.0.0/24"}}, {map[string]any{"subnet": "fd00:90::/64"}}},
			},
		}))
		s.flags = append(s.flags, "--bin-dir", plugins)
		status, out, errs := s.attach("run", "--", "cat", "/proc/net/dev")
		require.Zero(t, status, errs)
		require.Contains(t, out, "eth0:")
		require.Regexp(t, `(?m)^net +eth0 +[0-9a-f:]{17} +10\.90\.0\.2/24,fd00:90::2/64 +10\.90\.0\.1,fd00:90::1$`, errs)
		s.nothingLeft()
	})
}
