package testutils

import (
	"path/filepath"
)

// gateFiles are the two pipes of a verb's gate: one line into the first says
// that a run has arrived, one byte from the second lets it through.
func gateFiles(state, verb string) (arrived, release string) {
	base := filepath.Join(state, "gate-"+filepath.Base(verb))
	return base + "-arrived", base + "-release"
}
