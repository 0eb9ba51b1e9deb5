// Package faults has the black-box tests: whole operations with plugins that are
// real processes, what may go wrong on the way, crashes of the runtime, many
// operations at once, and the soak.
package faults
