package proc

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// BootID identifies this boot of the kernel. Where the kernel's own ID cannot be
// read, as in a unit with ProcSubset=pid, it is made from the time of the boot.
var BootID = sync.OnceValue(func() string {
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		return strings.TrimSpace(string(id))
	}
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return ""
	}
	boot := time.Now().Add(-time.Duration(up.Nano()))
	return clockBoot + strconv.FormatInt(boot.Unix(), 10)
})

// Start returns when a process started, in clock ticks since boot, and false when
// none of that number runs: one that has ended and was not waited for does not run.
// It waits while the process is in the middle of an exec.
func Start(pid int) (uint64, bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	// The second field, the program's name, may hold anything, also ')'.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return start, err == nil
}
