//go:build !linux

package podcni

import (
	"context"
	"log/slog"
)

// endOrphans has no way here to tell whose a process is.
func endOrphans(context.Context, *slog.Logger, *record) error { return nil }
