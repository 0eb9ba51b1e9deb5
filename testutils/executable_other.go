//go:build !unix

package testutils

import (
	"os"
	"path/filepath"
	"strings"
)

const exeSuffix = ".exe"

// writeExecutable makes a fake plugin: a copy of the test binary.
func writeExecutable(path, exe, _ string) error {
	content, err := os.ReadFile(exe)
	if err != nil {
		return err
	}
	return writeFile(path, content, 0o755)
}

// asPlugin says whether this process was started as a fake plugin, with the
// directory of the plugin's state and the path that it was started by.
func asPlugin() (state, path string, ok bool) {
	exe, err := os.Executable()
	if err != nil {
		return "", "", false
	}
	name := strings.TrimSuffix(filepath.Base(exe), exeSuffix)
	state = filepath.Join(filepath.Dir(filepath.Dir(exe)), "fake", name)
	info, err := os.Stat(state)
	return state, exe, err == nil && info.IsDir()
}
