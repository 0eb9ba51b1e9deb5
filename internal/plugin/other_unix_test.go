//go:build unix && !linux

package plugin

import "testing"

// eachPath runs the test for each way in which processes are run.
func eachPath(t *testing.T, test func(t *testing.T, with func(Options) *Runner)) { test(t, New) }
