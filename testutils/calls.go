package testutils

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Call is one run of a fake plugin. It is recorded when the run has read its
// input, and before it does anything else, so that a run that is killed later
// is in the record too.
type Call struct {
	// Plugin is the plugin's type, and Path the executable as it was run.
	Plugin, Path string
	// Verb is CNI_COMMAND.
	Verb string
	// Environ is the environment, as it is: in order, and with what may be
	// there twice. Env is the same by name.
	Environ []string
	Env     map[string]string `json:"-"`
	// Stdin is all that came on standard input.
	Stdin []byte
	// PID is the process.
	PID int
	// Seq numbers the starts and ends of all runs in the directory: a run is
	// over before another starts if its EndSeq is less than the other's Seq.
	Seq int `json:"-"`
	// EndSeq is 0 for a run that has not ended by itself.
	EndSeq int `json:"-"`
	// Done says that the run has done all that it was to do. It is false while
	// it runs, and for one that was killed.
	Done bool `json:"-"`
}

// event is a line of the record: the start of a run, or its end.
type event struct {
	ID   string // of the run
	Call *Call  `json:",omitempty"` // at the start only
}

// Calls are all runs of the directory's plugins so far, in order of their
// start.
func (d *BinDir) Calls(t testing.TB) []Call {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(d.fake, "calls"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("read the record of calls: %v", err)
	}
	var calls []Call
	index := make(map[string]int) // of a run in calls
	seq := 0
	for line := range bytes.Lines(content) {
		var e event
		// A run that is killed while it writes leaves part of a line.
		if json.Unmarshal(line, &e) != nil || e.ID == "" {
			continue
		}
		seq++
		if e.Call == nil {
			if i, ok := index[e.ID]; ok {
				calls[i].Done, calls[i].EndSeq = true, seq
			}
			continue
		}
		e.Call.Seq = seq
		e.Call.Env = make(map[string]string, len(e.Call.Environ))
		for _, kv := range e.Call.Environ {
			key, value, _ := strings.Cut(kv, "=")
			e.Call.Env[key] = value
		}
		index[e.ID] = len(calls)
		calls = append(calls, *e.Call)
	}
	return calls
}

// Calls are all runs of the plugin so far, in order of their start; of the
// given verbs only, if there are any.
func (p *Plugin) Calls(t testing.TB, verbs ...string) []Call {
	t.Helper()
	var calls []Call
	for _, c := range p.d.Calls(t) {
		if c.Plugin == p.name && matches(c.Verb, verbs) {
			calls = append(calls, c)
		}
	}
	return calls
}

func matches(verb string, verbs []string) bool {
	for _, v := range verbs {
		if v == verb {
			return true
		}
	}
	return len(verbs) == 0
}

// longestWait bounds what waits for a plugin, on the slowest of machines.
const longestWait = time.Minute

// WaitCalls waits until the plugin has been run n times with the verb, and
// returns those runs. It fails the test after a minute.
func (p *Plugin) WaitCalls(t testing.TB, verb string, n int) []Call {
	t.Helper()
	deadline := time.Now().Add(longestWait)
	for {
		calls := p.Calls(t, verb)
		if len(calls) >= n {
			return calls
		}
		if time.Now().After(deadline) {
			t.Fatalf("plugin %s: %d runs of %s after %v, want %d", p.name, len(calls), verb, longestWait, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Verbs sums calls up as "ADD bridge", in order, without those of VERSION:
// when and how often a runtime asks for versions is its own affair.
func Verbs(calls []Call) []string {
	verbs := []string{}
	for _, c := range calls {
		if c.Verb != "VERSION" {
			verbs = append(verbs, c.Verb+" "+c.Plugin)
		}
	}
	return verbs
}

// record is the plugin's side: it appends one event. A single write to a file
// that is open for appending goes in one piece, whoever else writes; the line
// break in front parts it from a piece that a killed run has left.
func record(fake string, e event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(fake, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(append([]byte{'\n'}, line...), '\n'))
	return errors.Join(err, f.Close())
}
