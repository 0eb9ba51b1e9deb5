package podcni

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// thisWriter identifies this process. What cannot be read stays zero.
func thisWriter() writerID {
	pid := os.Getpid()
	return writerID{PID: pid, Start: processStart(pid), BootID: bootID()}
}

// alive says whether the process still runs.
func (w writerID) alive() bool {
	return w.PID > 0 && w.BootID == bootID() && w.Start == processStart(w.PID)
}

// processStart is when a process started, in clock ticks since boot; 0 if there
// is none.
func processStart(pid int) uint64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field, the command, may hold anything, also ')'.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= 19 {
		return 0
	}
	start, _ := strconv.ParseUint(fields[19], 10, 64) // the kernel writes numbers
	return start
}
