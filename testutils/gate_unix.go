//go:build unix

package testutils

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Gate holds up the runs of a plugin's verb, so that a test can act while a
// plugin is at work. It is safe for concurrent use.
type Gate struct {
	p    *Plugin
	verb string

	release *os.File

	readMu  sync.Mutex
	arrived *os.File      // read under readMu
	lines   *bufio.Reader // of arrived, under readMu

	open sync.Once
}

// Gate makes every run of the verb that starts from now on stop, once it is
// recorded and before it answers, until [Gate.Release] or [Gate.Open] lets it
// through, or the test ends. A verb has one gate at a time. Without named pipes,
// as on Windows, the test is skipped.
func (p *Plugin) Gate(verb string) *Gate {
	p.d.t.Helper()
	arrived, release := gateFiles(p.state, verb)
	// The release pipe comes first: who sees the other expects it.
	g := &Gate{p: p, verb: verb}
	var err error
	if g.release, err = makePipe(release); err == nil {
		if g.arrived, err = makePipe(arrived); err != nil {
			_ = g.release.Close()
		}
	}
	if err != nil {
		p.d.t.Fatalf("gate %s of plugin %s: %v", verb, p.name, err)
	}
	g.lines = bufio.NewReader(g.arrived)
	p.d.t.Cleanup(g.Open)
	return g
}

// makePipe opens both ends, so that neither opening nor writing blocks and what
// is written stays until somebody reads it.
func makePipe(path string) (*os.File, error) {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, &fs.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
}

// Wait waits until a run has arrived at the gate, and returns it; each call
// returns another one. It fails the test after a minute.
func (g *Gate) Wait(t testing.TB) Call {
	t.Helper()
	g.readMu.Lock()
	defer g.readMu.Unlock()
	var pid int
	err := g.arrived.SetReadDeadline(time.Now().Add(longestWait))
	if err == nil {
		var line string
		if line, err = g.lines.ReadString('\n'); err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Fatalf("no run of %s arrived at the gate of plugin %s: %v", g.verb, g.p.name, err)
	}
	calls := g.p.Calls(t, g.verb)
	for i := range calls {
		// PIDs come again: the last one it is.
		if c := calls[len(calls)-1-i]; c.PID == pid {
			return c
		}
	}
	t.Fatalf("process %d arrived at the gate of plugin %s, but is not recorded", pid, g.p.name)
	return Call{}
}

// Release lets one run through: one that waits, or else the next that comes.
// Of several that wait, any.
func (g *Gate) Release() {
	g.p.d.t.Helper()
	if _, err := g.release.Write([]byte{'.'}); err != nil {
		g.p.d.t.Errorf("release a run of %s of plugin %s: %v", g.verb, g.p.name, err)
	}
}

// Open lets all through that wait, and removes the gate. Opening it again does
// nothing.
func (g *Gate) Open() {
	g.open.Do(func() {
		arrived, release := gateFiles(g.p.state, g.verb)
		_ = os.Remove(arrived)
		_ = os.Remove(release)
		// With nobody left who could write, a read answers that it is the end.
		_ = g.release.Close()
		_ = g.arrived.Close()
	})
}

// waitGate is the plugin's side. A gate that is being opened, or whose test is
// gone, lets everybody through.
func waitGate(state, verb string) error {
	arrived, release := gateFiles(state, verb)
	out, err := os.OpenFile(arrived, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	defer out.Close()
	in, err := os.OpenFile(release, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := fmt.Fprintln(out, os.Getpid()); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	if _, err := in.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
