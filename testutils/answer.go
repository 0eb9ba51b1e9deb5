package testutils

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// Answer is what a fake plugin does when it is run. The zero value is its
// default behaviour; each field changes one thing, and they combine. They take
// effect in the order in which they stand here.
type Answer struct {
	// IgnoreTERM makes the run deaf to SIGTERM, from before it is recorded.
	IgnoreTERM bool `json:",omitempty"`

	// Child starts a process that holds the plugin's stdout and stderr open,
	// and that stays when the plugin is gone.
	Child bool `json:",omitempty"`
	// ChildSetsid puts the child into a session of its own, where no signal to
	// the plugin's process group reaches it.
	ChildSetsid bool `json:",omitempty"`

	// Delay is how long to wait before answering.
	Delay time.Duration `json:",omitempty"`
	// Hang makes the run never answer: it ends by being killed, when the test
	// ends, or after ten minutes.
	Hang bool `json:",omitempty"`
	// Signal makes the run send itself this signal instead of answering.
	Signal syscall.Signal `json:",omitempty"`

	// StderrFlood writes so many bytes to stderr, in lines, before Stderr.
	StderrFlood int64 `json:",omitempty"`
	// Stderr is written to stderr as it is.
	Stderr string `json:",omitempty"`

	// StdoutFlood writes so many blanks to stdout, before what follows: no more
	// than their number is wrong with the answer.
	StdoutFlood int64 `json:",omitempty"`
	// StdoutBefore is written to stdout as it is, before the answer: the lines
	// of a plugin that logs there.
	StdoutBefore string `json:",omitempty"`

	// NoOutput leaves out the answer on stdout.
	NoOutput bool `json:",omitempty"`
	// Result is the answer on stdout, as it is: JSON or anything else.
	Result string `json:",omitempty"`
	// Error is the answer where there is no Result: an error object of the
	// specification. The exit status is then 1 if Exit is 0.
	Error *types.Error `json:",omitempty"`
	// Versions are what VERSION answers where there is neither.
	Versions []string `json:",omitempty"`

	// Exit is the exit status. If it is not 0 and there is neither a Result nor
	// an Error, nothing is printed: a plugin that crashed.
	Exit int `json:",omitempty"`
}

// script is what a plugin reads when it is run.
type script struct {
	Answers map[string]Answer // by verb
	Pool    bool              `json:",omitempty"`
}

// On sets what every run of the verb does from now on, except those that take
// an answer from [Plugin.Next]. The zero Answer brings the default back.
func (p *Plugin) On(verb string, a Answer) *Plugin {
	p.d.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script.Answers[verb] = a
	p.save()
	return p
}

// Next queues answers for the verb's next runs, one for each, before what
// [Plugin.On] has set. Runs at the same time never take the same one.
func (p *Plugin) Next(verb string, answers ...Answer) *Plugin {
	p.d.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	dir := p.nextDir(verb)
	mkdir(p.d.t, dir)
	for _, a := range answers {
		content, err := json.Marshal(a)
		if err == nil {
			// By rename from outside the queue, where no run sees it half done.
			temp := filepath.Join(p.state, "next.new")
			p.queued++
			if err = os.WriteFile(temp, content, 0o644); err == nil {
				err = os.Rename(temp, filepath.Join(dir, fmt.Sprintf("%09d", p.queued)))
			}
		}
		if err != nil {
			p.d.t.Fatalf("queue an answer: %v", err)
		}
	}
	return p
}

// Versions sets the versions of the specification that the plugin speaks, which
// is to say what it answers to VERSION.
func (p *Plugin) Versions(versions ...string) *Plugin {
	p.d.t.Helper()
	return p.On("VERSION", Answer{Versions: versions})
}

func (p *Plugin) nextDir(verb string) string { return nextDir(p.state, verb) }

func nextDir(state, verb string) string { return filepath.Join(state, "next-"+verb) }

// save writes the script, under mu or before p is shared.
func (p *Plugin) save() {
	p.d.t.Helper()
	content, err := json.Marshal(p.script)
	if err == nil {
		err = replaceFile(filepath.Join(p.state, "script"), content)
	}
	if err != nil {
		p.d.t.Fatalf("write a plugin's script: %v", err)
	}
}

// takeAnswer is the plugin's side: the script, and what this run is to do.
func takeAnswer(state, verb string) (script, Answer, error) {
	var s script
	content, err := os.ReadFile(filepath.Join(state, "script"))
	if err == nil {
		err = json.Unmarshal(content, &s)
	}
	if err != nil {
		return s, Answer{}, err
	}
	if filepath.Base(verb) != verb {
		return s, Answer{}, nil
	}
	dir := nextDir(state, verb)
	queue, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, Answer{}, err
	}
	for _, entry := range queue {
		// Of several runs that see the same answer, one succeeds in moving it.
		taken := filepath.Join(state, fmt.Sprintf("taken-%s-%s", verb, entry.Name()))
		if err := os.Rename(filepath.Join(dir, entry.Name()), taken); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			return s, Answer{}, err
		}
		var a Answer
		if content, err = os.ReadFile(taken); err == nil {
			err = json.Unmarshal(content, &a)
		}
		return s, a, err
	}
	return s, s.Answers[verb], nil
}
