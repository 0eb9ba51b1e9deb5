package testutils

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	childFlag = "-cni-fake-child="

	// A hung plugin, or a child, that nobody ends goes by itself.
	longestStay = 10 * time.Minute
)

// run is a process that plays a fake plugin.
type run struct {
	state   string
	path    string
	script  script
	answer  Answer
	verb    string
	environ []string
	stdin   []byte
	config  config
}

// config is what a fake plugin reads of its configuration.
type config struct {
	CNIVersion string          `json:"cniVersion"`
	Name       string          `json:"name"`
	PrevResult json.RawMessage `json:"prevResult"`
}

// play is a fake plugin from its start to its exit status.
func play(state, path string) int {
	r := run{state: state, path: path, environ: environ()}
	r.verb = r.env("CNI_COMMAND")
	var err error
	if r.script, r.answer, err = takeAnswer(state, r.verb); err != nil {
		return broken(err)
	}
	if r.answer.IgnoreTERM {
		ignoreTERM()
	}
	// A runtime that gives no input is for the test to judge, by the record.
	r.stdin, _ = io.ReadAll(os.Stdin)
	_ = json.Unmarshal(r.stdin, &r.config)

	fake := filepath.Dir(state)
	id := fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano())
	err = record(fake, event{ID: id, Call: &Call{
		Plugin: filepath.Base(state), Path: path, Verb: r.verb,
		Environ: r.environ, Stdin: r.stdin, PID: os.Getpid(),
	}})
	if err != nil {
		return broken(err)
	}
	status, err := r.act()
	if err != nil {
		return broken(err)
	}
	if err := record(fake, event{ID: id}); err != nil {
		return broken(err)
	}
	return status
}

// broken is the answer when the fake itself does not work.
func broken(err error) int {
	fmt.Printf(`{"code": %d, "msg": "the fake plugin is broken", "details": %q}`, types.ErrInternal, err)
	return 1
}

func (r *run) env(name string) string {
	for _, kv := range r.environ {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// act does what the answer says, and gives the exit status.
func (r *run) act() (int, error) {
	var refusal error
	if r.script.Pool {
		switch r.verb {
		case "ADD":
			refusal = r.lease().take(r.state)
		case "CHECK":
			refusal = r.lease().check()
		}
	}
	if err := waitGate(r.state, r.verb); err != nil {
		return 0, err
	}
	if err := r.behave(); err != nil {
		return 0, err
	}
	stdout, status, err := r.stdout(refusal)
	if err != nil {
		return 0, err
	}
	if r.script.Pool && r.verb == "DEL" && status == 0 {
		if err := r.lease().giveBack(); err != nil {
			return 0, err
		}
	}
	return status, r.print(stdout)
}

// behave is what a run does before it answers, if it comes to that.
func (r *run) behave() error {
	if r.answer.Child || r.answer.ChildSetsid {
		if err := startChild(r.state, r.path, r.answer.ChildSetsid); err != nil {
			return err
		}
	}
	time.Sleep(r.answer.Delay)
	if r.answer.Signal != 0 {
		if err := signalSelf(r.answer.Signal); err != nil {
			return err
		}
		r.answer.Hang = true
	}
	if r.answer.Hang {
		linger(r.state)
		return errors.New("hung until nobody was interested any more")
	}
	return nil
}

// print writes what the answer says.
func (r *run) print(stdout []byte) error {
	line := []byte(strings.Repeat("fake plugin ", 5) + "\n")
	if err := flood(os.Stderr, line, r.answer.StderrFlood); err != nil {
		return err
	}
	if _, err := os.Stderr.WriteString(r.answer.Stderr); err != nil && r.answer.Stderr != "" {
		return err
	}
	if err := flood(os.Stdout, []byte(" "), r.answer.StdoutFlood); err != nil {
		return err
	}
	if stdout = append([]byte(r.answer.StdoutBefore), stdout...); len(stdout) == 0 {
		return nil
	}
	_, err := os.Stdout.Write(stdout)
	return err
}

// flood writes n bytes of a repeated pattern.
func flood(w io.Writer, pattern []byte, n int64) error {
	chunk := bytes.Repeat(pattern, 64*1024/len(pattern)+1)
	for n > 0 {
		written, err := w.Write(chunk[:min(n, int64(len(chunk)))])
		if err != nil {
			return err
		}
		n -= int64(written)
	}
	return nil
}

// stdout is the answer proper, and the exit status that goes with it.
func (r *run) stdout(refusal error) ([]byte, int, error) {
	a := r.answer
	failure := a.Error
	if refusal != nil && a.Result == "" && failure == nil && a.Exit == 0 {
		if !errors.As(refusal, &failure) {
			return nil, 0, refusal
		}
	}
	switch {
	case failure != nil && a.Result == "":
		status := max(a.Exit, 1)
		if a.NoOutput {
			return nil, status, nil
		}
		out, err := r.errorObject(failure)
		return out, status, err
	case a.NoOutput || a.Exit != 0 && a.Result == "":
		return nil, a.Exit, nil
	case a.Result != "":
		return []byte(a.Result), a.Exit, nil
	}
	return r.usual()
}

func (r *run) errorObject(failure *types.Error) ([]byte, error) {
	return json.Marshal(struct {
		CNIVersion string `json:"cniVersion,omitempty"`
		*types.Error
	}{r.config.CNIVersion, failure})
}

// usual is the answer of a plugin that nothing is wrong with.
func (r *run) usual() ([]byte, int, error) {
	switch r.verb {
	case "VERSION":
		versions := r.answer.Versions
		if len(versions) == 0 {
			versions = version.All.SupportedVersions()
		}
		out, err := json.Marshal(map[string]any{"cniVersion": version.Current(), "supportedVersions": versions})
		return out, 0, err
	case "ADD":
		if len(r.config.PrevResult) > 0 && string(r.config.PrevResult) != "null" {
			return r.config.PrevResult, 0, nil
		}
		mac, addresses := ownAddresses(r.lease().holder)
		out, err := makeResult(r.config.CNIVersion, r.env("CNI_IFNAME"), mac, r.env("CNI_NETNS"), addresses)
		if err != nil {
			failure := types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", err.Error())
			out, err := r.errorObject(failure)
			return out, 1, err
		}
		return []byte(out), 0, nil
	case "DEL", "CHECK", "GC", "STATUS":
		return nil, 0, nil
	}
	out, err := r.errorObject(types.NewError(types.ErrInvalidEnvironmentVariables, "unknown CNI_COMMAND: "+r.verb, ""))
	return out, 1, err
}

// startChild leaves a process behind that holds stdout and stderr.
func startChild(state, path string, setsid bool) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(exe, childFlag+state, path)
	child.Env = []string{} // as in its parent, nothing is needed
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = childAttr(setsid)
	return child.Start()
}

// asChild says whether this process is such a child, and of which plugin.
func asChild() (state string, ok bool) {
	if len(os.Args) != 3 {
		return "", false
	}
	return strings.CutPrefix(os.Args[1], childFlag)
}

// linger stays until the plugin's directory is gone, and ten minutes at most.
func linger(state string) {
	for end := time.Now().Add(longestStay); time.Now().Before(end); time.Sleep(time.Second) {
		if _, err := os.Stat(state); err != nil {
			return
		}
	}
}
