//go:build !linux

package plugin

import (
	"context"

	"github.com/podcni/podcni/internal/proc"
)

// processes runs plugins' processes.
type processes struct{}

func newProcesses() processes { return processes{} }

// run runs one. An error says that it did not start.
func (processes) run(ctx context.Context, c *command) (ended, error) { return runCommand(ctx, c) }

// EndOrphans does nothing here: the system does not tell whose a process is.
func (*Runner) EndOrphans(context.Context, proc.ID, []Attachment) error { return nil }
