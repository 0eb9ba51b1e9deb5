package podcni

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// thisWriter identifies this process. What cannot be read stays zero: it is for
// those who look at records, and nothing is decided by it.
func thisWriter() writerID {
	w := writerID{PID: os.Getpid(), BootID: bootID()}
	if stat, err := os.ReadFile("/proc/self/stat"); err == nil {
		// The second field, the command, may hold anything, also ')'.
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 {
			if fields := strings.Fields(string(stat[i+1:])); len(fields) > 19 {
				w.Start, _ = strconv.ParseUint(fields[19], 10, 64)
			}
		}
	}
	return w
}
