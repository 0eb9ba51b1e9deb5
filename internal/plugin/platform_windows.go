package plugin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/windows"
)

// DefaultBinDir is where plugins are looked for by default.
const DefaultBinDir = `C:\cni\bin`

// groupAttr keeps a plugin off our console's Ctrl-C.
func groupAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP, HideWindow: true}
}

// endGroup ends the plugin at once: Windows has no TERM, and a plugin's children
// are not found by its group.
func endGroup(p *os.Process, _ bool) { _ = p.Kill() }

// peek does nothing: a start that hangs holds up nobody else here.
func peek(string) {}

// isBusy reports whether the binary is being written.
func isBusy(err error) bool { return errors.Is(err, windows.ERROR_SHARING_VIOLATION) }

// binaryNames returns the files that a plugin can be.
func binaryNames(typ string) []string {
	if strings.EqualFold(filepath.Ext(typ), ".exe") {
		return []string{typ}
	}
	return []string{typ + ".exe", typ}
}

// executable returns nil: on Windows the start tells.
func executable(string, fs.FileInfo) error { return nil }
