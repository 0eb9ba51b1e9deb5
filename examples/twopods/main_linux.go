package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inside is the first argument of the process that is in the sandbox already.
const inside = "--inside-the-sandbox"

// demoTime bounds the whole demonstration, which takes a few seconds.
const demoTime = 3 * time.Minute

func main() {
	if len(os.Args) > 1 && os.Args[1] == inside {
		os.Exit(demoInside(os.Args[2:]))
	}
	os.Exit(enter(os.Args[1:]))
}

// enter runs this program again in a sandbox, and gives its exit status.
func enter(args []string) int {
	// The child is to die with the thread that started it, so that thread must
	// live as long as we do.
	runtime.LockOSThread()
	if _, err := parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	// What would end us is for the child, which cleans up. We wait for it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)

	const namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS
	cmd := sandboxed(self, args, namespaces|unix.CLONE_NEWUSER)
	err = cmd.Start()
	if err != nil && os.Geteuid() == 0 {
		// Root can do without a user namespace where there is none to be had.
		cmd = sandboxed(self, args, namespaces)
		err = cmd.Start()
	}
	if err != nil {
		return fail(fmt.Errorf("cannot make namespaces (are unprivileged user namespaces switched off?): %w", err))
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() < 0 {
		return fail(err)
	}
	return cmd.ProcessState.ExitCode()
}

func sandboxed(self string, args []string, flags uintptr) *exec.Cmd {
	cmd := exec.Command(self, append([]string{inside}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// parse reads the command line: the directory of the plugins, absolute.
func parse(args []string) (string, error) {
	set := flag.NewFlagSet("twopods", flag.ContinueOnError)
	plugins := set.String("plugins", "bin/plugins", "`DIR` of the CNI reference plugins, as make plugins builds them")
	if err := set.Parse(args); err != nil {
		return "", err
	}
	dir, err := filepath.Abs(*plugins)
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "bridge"))
	}
	if err != nil {
		err = fmt.Errorf("no plugins, see make plugins: %w", err)
		fail(err)
	}
	return dir, err
}

// demoInside prepares the sandbox, which we are in, and runs the demonstration.
func demoInside(args []string) int {
	plugins, err := parse(args)
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, demoTime)
	defer cancel()
	dir, err := furnish()
	if err != nil {
		return fail(err)
	}
	d := &demo{plugins: plugins, dir: dir, out: os.Stdout}
	if err := d.run(ctx); err != nil {
		return fail(err)
	}
	return 0
}

// furnish makes the sandbox's mounts its own and gives a directory in memory,
// which vanishes with the sandbox. /run is where plugins keep locks and where
// namespaces are pinned.
func furnish() (string, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return "", fmt.Errorf("mounting /run: %w", err)
	}
	// Plugins run nft, which a user's PATH on Debian does not lead to.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return "", err
	}
	return os.MkdirTemp("/run", "twopods-")
}

func fail(err error) int {
	fmt.Fprintf(os.Stderr, "twopods: %v\n", err)
	return 1
}
