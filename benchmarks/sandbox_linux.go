package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed noop/noop.c
var noopSource []byte

// goCNICache is where go-cni has libcni keep its records; it cannot be told
// another place.
const goCNICache = "/var/lib/cni"

// outside makes what the sandbox needs, runs the command again in it, and
// removes what it made.
func outside(ctx context.Context, s settings) (err error) {
	parent := s.dir
	if parent == "" {
		if parent, err = filepath.Abs("../out"); err != nil {
			return err
		}
		if os.MkdirAll(parent, 0o755) != nil {
			parent = os.TempDir()
		}
	}
	dir, err := os.MkdirTemp(parent, "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	goNoop, err := buildNoop(ctx, dir)
	if err != nil {
		return err
	}
	if err := copyPlugins(s.plugins, filepath.Join(dir, "real")); err != nil {
		return err
	}
	return rerun(ctx, append([]string{"--inside=" + dir, fmt.Sprintf("--gonoop=%v", goNoop)}, os.Args[1:]...))
}

// buildNoop builds the plugins that do nothing. Without a C compiler the Go one
// stands for the other.
func buildNoop(ctx context.Context, dir string) (goOnly bool, err error) {
	for _, sub := range []string{"bin", "gobin", "real", "tmpfs"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return false, err
		}
	}
	noop, goNoop := filepath.Join(dir, "bin", "noop"), filepath.Join(dir, "gobin", "noop")
	source := filepath.Join(dir, "noop.c")
	if err := os.WriteFile(source, noopSource, 0o600); err != nil {
		return false, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", goNoop, "./gonoop")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return false, fmt.Errorf("build the Go plugin: %w\n%s", err, out)
	}
	cc := exec.CommandContext(ctx, "cc", "-O2", "-static", "-o", noop, source)
	if out, err := cc.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "no static C program can be built here (%v): the Go plugin stands for it\n%s", err, out)
		goOnly = true
		if err := os.Link(goNoop, noop); err != nil {
			return true, err
		}
	}
	return goOnly, errors.Join(os.Link(noop, filepath.Join(dir, "bin", "hang")), os.Link(noop, filepath.Join(dir, "bin", "slow")))
}

// realChain are the reference plugins that are measured.
func realChain() []string { return []string{"bridge", "host-local", "portmap"} }

// copyPlugins copies the reference plugins, as far as there are any, to where
// the sandbox has them.
func copyPlugins(from, to string) error {
	if from == "" {
		return nil
	}
	for _, name := range realChain() {
		content, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the figure says so
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), content, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// rerun runs the command again, in namespaces of its own.
func rerun(ctx context.Context, args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	// The kernel ends the child when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := func(withUser bool) (*exec.Cmd, error) {
		cmd := exec.CommandContext(ctx, exe, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
			Pdeathsig:  syscall.SIGKILL,
		}
		if withUser {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		return cmd, cmd.Start()
	}
	cmd, err := start(true)
	if err != nil && os.Geteuid() == 0 {
		cmd, err = start(false)
	}
	if err != nil {
		return fmt.Errorf("no namespaces can be made here: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("in the sandbox: %w", err)
	}
	return nil
}

// enter makes the sandbox ready: nothing that is mounted or configured in it
// reaches the host.
func enter(workDir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := tmpfs(filepath.Join(workDir, "tmpfs")); err != nil {
		return err
	}
	records := filepath.Join(workDir, "gocni")
	if err := os.Mkdir(records, 0o700); err != nil {
		return err
	}
	// The work directory may be below what is about to be covered.
	work, err := unix.Open(workDir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(work)
	if err := tmpfs(filepath.Dir(goCNICache)); err != nil {
		return err
	}
	if err := os.MkdirAll(workDir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", work), workDir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", workDir, err)
	}
	if err := os.Mkdir(goCNICache, 0o700); err != nil {
		return err
	}
	return unix.Mount(records, goCNICache, "", unix.MS_BIND, "")
}

func tmpfs(path string) error {
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", path, err)
	}
	return nil
}
