//go:build unix

package testutils

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	exeSuffix  = ""
	pluginFlag = "-cni-fake-plugin="

	// A kernel reads so much of a script's first line: since Linux 5.1, and
	// before.
	longestHashBang    = 255
	longestOldHashBang = 127
)

// writeExecutable makes a fake plugin: a script whose interpreter is the test
// binary. That is as quick to make as a link, yet each plugin has an inode of
// its own, as real ones have, and the argument of the first line leads to its
// state without help from the environment.
func writeExecutable(path, exe, state string) error {
	line := hashBang(exe, state)
	if len(line) > longestOldHashBang || strings.ContainsAny(exe, " \t\n") {
		link := filepath.Join(filepath.Dir(state), "exe")
		if err := os.Symlink(exe, link); err != nil && !os.IsExist(err) {
			return err
		}
		line = hashBang(link, state)
	}
	if len(line) > longestHashBang || strings.ContainsAny(line, "\n") {
		return fmt.Errorf("the temporary directory's path is too long for the first line of a script: %s", line)
	}
	return writeFile(path, []byte(line+"\n"), 0o755)
}

func hashBang(exe, state string) string { return "#!" + exe + " " + pluginFlag + state }

// asPlugin says whether this process was started as a fake plugin, with the
// directory of the plugin's state and the path that it was started by.
func asPlugin() (state, path string, ok bool) {
	if len(os.Args) < 3 {
		return "", "", false
	}
	state, ok = strings.CutPrefix(os.Args[1], pluginFlag)
	return state, os.Args[2], ok
}
