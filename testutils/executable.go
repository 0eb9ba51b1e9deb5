package testutils

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

const (
	pluginFlag = "-cni-fake-plugin="

	// A kernel reads no more of a script's first line: Linux before 5.1.
	longestHashBang = 127
)

// executable is the file name of a plugin.
func executable(plugin string) string {
	if runtime.GOOS == "windows" {
		return plugin + ".exe"
	}
	return plugin
}

// writeExecutable makes a fake plugin. Where it can be it is a script whose
// interpreter is the test binary: that is as quick to make as a link, yet each
// plugin has an inode of its own, as real ones have, and the argument of the
// first line leads to its state. Otherwise it is a copy of the test binary,
// which finds its state by where it lies.
func writeExecutable(path, exe, state string) error {
	line := "#!" + exe + " " + pluginFlag + state
	if runtime.GOOS != "windows" && len(line) <= longestHashBang && !strings.ContainsAny(exe+state, " \t\n") {
		return writeFile(path, []byte(line+"\n"))
	}
	content, err := os.ReadFile(exe)
	if err != nil {
		return err
	}
	return writeFile(path, content)
}

// writeFile makes a file that may be run as soon as it is there. While it is
// open for writing no process is started: a child would inherit the descriptor
// for a moment, and running the file would fail as "text file busy".
func writeFile(path string, content []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, content, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755) // whatever the umask
}

// asPlugin says whether this process was started as a fake plugin, with the
// directory of the plugin's state and the path that it was started by.
func asPlugin() (state, path string, ok bool) {
	if len(os.Args) > 2 {
		if state, ok := strings.CutPrefix(os.Args[1], pluginFlag); ok {
			return state, os.Args[2], true
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return "", "", false
	}
	bin, name := filepath.Split(exe)
	if filepath.Base(bin) != binName {
		return "", "", false
	}
	state = filepath.Join(filepath.Dir(filepath.Clean(bin)), fakeName, strings.TrimSuffix(name, ".exe"))
	info, err := os.Stat(state)
	return state, exe, err == nil && info.IsDir()
}
