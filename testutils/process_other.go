//go:build !linux

package testutils

import (
	"os"
	"testing"
)

// FDs is how many descriptors this process has open. Where that cannot be
// told, as on anything but Linux, the test is skipped.
func FDs(t testing.TB) int {
	t.Helper()
	t.Skip("open descriptors cannot be counted on this platform")
	return 0
}

// Processes are the PIDs of the processes that run an executable from below
// dir, fake plugins and the children that they left among them: what a
// runtime should have ended. Where that cannot be told, as on anything but
// Linux, the test is skipped.
func Processes(t testing.TB, _ string) []int {
	t.Helper()
	t.Skip("processes cannot be listed on this platform")
	return nil
}

// kill leaves what still runs to notice that its directory is gone.
func (d *BinDir) kill() {}

func environ() []string { return os.Environ() }
