//go:build !unix

package testutils

import "testing"

// Gate holds up the runs of a plugin's verb, so that a test can act while a
// plugin is at work. It is safe for concurrent use.
type Gate struct{}

// Gate makes every run of the verb that starts from now on stop, once it is
// recorded and before it answers, until [Gate.Release] or [Gate.Open] lets it
// through, or the test ends. A verb has one gate at a time. Without named pipes,
// as on Windows, the test is skipped.
func (p *Plugin) Gate(string) *Gate {
	p.d.t.Helper()
	p.d.t.Skip("a gate needs named pipes")
	return nil
}

// Wait waits until a run has arrived at the gate, and returns it; each call
// returns another one. It fails the test after a minute.
func (g *Gate) Wait(testing.TB) Call { return Call{} }

// Release lets one run through: one that waits, or else the next that comes.
// Of several that wait, any.
func (g *Gate) Release() {}

// Open lets all through that wait, and removes the gate. Opening it again does
// nothing.
func (g *Gate) Open() {}

func waitGate(_, _ string) error { return nil }
