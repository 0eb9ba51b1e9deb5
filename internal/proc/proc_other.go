//go:build !linux

package proc

// BootID is not known here.
func BootID() string { return "" }

// Start knows no process here.
func Start(int) (uint64, bool) { return 0, false }
