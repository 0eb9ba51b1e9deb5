// Package proc tells one process from another, across the reuse of process
// numbers and across reboots.
package proc

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// ID identifies a process. The zero value identifies none.
type ID struct {
	PID    int    `json:"pid,omitempty"`
	Start  uint64 `json:"start,omitempty"` // in clock ticks since boot
	BootID string `json:"bootID,omitempty"`
}

// Self identifies this process. What the system does not tell stays zero.
func Self() ID {
	pid := os.Getpid()
	id := ID{PID: pid, BootID: BootID()}
	id.Start, _ = Start(pid)
	return id
}

// aliveWait bounds how long Alive waits for the kernel.
const aliveWait = 500 * time.Millisecond

// Alive reports whether the process may still run: it returns true also where the
// kernel does not say in time, because another process has the number and is in
// the middle of an exec.
func (id ID) Alive() bool {
	if id.PID <= 0 || !SameBoot(id.BootID, BootID()) {
		return false
	}
	answer := make(chan bool, 1)
	go func() {
		start, ok := Start(id.PID)
		answer <- ok && start == id.Start
	}()
	timer := time.NewTimer(aliveWait)
	defer timer.Stop()
	select {
	case alive := <-answer:
		return alive
	case <-timer.C:
		return true
	}
}

// clockBoot marks a boot ID that was made from clocks, because the kernel's own
// could not be read.
const clockBoot = "@"

// clockSlack is how far the clock may be set during one boot, when boots are
// told apart by it.
const clockSlack = 5 * time.Second

// SameBoot reports whether two boot IDs are certainly of one boot.
func SameBoot(a, b string) bool {
	if a == b {
		return a != ""
	}
	a, okA := strings.CutPrefix(a, clockBoot)
	b, okB := strings.CutPrefix(b, clockBoot)
	if !okA || !okB {
		return false
	}
	secA, errA := strconv.ParseInt(a, 10, 64)
	secB, errB := strconv.ParseInt(b, 10, 64)
	return errA == nil && errB == nil && max(secA-secB, secB-secA) <= int64(clockSlack/time.Second)
}
