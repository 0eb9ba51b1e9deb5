package testutils

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// NewNetNS makes a network namespace that lasts as long as the test, and
// returns its path. Everything in it is down. It needs the privileges of a
// [Sandbox], and fails the test without them; on anything but Linux the test is
// skipped.
func NewNetNS(t testing.TB) string {
	t.Helper()
	path := filepath.Join(tempDir(t, "cni-netns-"), "netns")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	done := make(chan error, 1)
	onThread(func() { done <- pinNewNetNS(path) })
	if err := <-done; err != nil {
		t.Fatalf("make a network namespace (is this in a Sandbox?): %v", err)
	}
	t.Cleanup(func() {
		// The test may have removed it itself.
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil &&
			!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Errorf("remove a network namespace: %v", err)
		}
	})
	return path
}

// onThread runs f in a goroutine that keeps its thread, which is not the
// process's first: /proc/self speaks of that one.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f() // and the thread ends, whatever f did to it
			return
		}
		defer runtime.UnlockOSThread()
		passed := make(chan struct{})
		onThread(func() { close(passed); f() })
		<-passed
	}()
}

// pinNewNetNS gives the thread a new network namespace and mounts it at path.
func pinNewNetNS(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", self, err)
	}
	return nil
}
