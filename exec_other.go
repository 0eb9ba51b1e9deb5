//go:build !linux

package podcni

import (
	"context"
	"syscall"
	"time"
)

// processes runs plugins' processes.
type processes struct{ attr syscall.SysProcAttr }

func newProcesses() processes { return processes{attr: groupAttr()} }

// run runs one. An error says that it did not start.
func (p *processes) run(ctx context.Context, inv *invocation, limit time.Time, started func()) (ended, error) {
	attr := p.attr
	return runCommand(ctx, inv, &attr, limit, started)
}
