package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// floor is what attaching a pod costs at the least: each plugin's process is
// started with its configuration on stdin, and waited for. There is no record,
// no limit, and no look at what the plugin says, but that the next is told.
type floor struct {
	plugins []floorPlugin
	env     []string
}

type floorPlugin struct {
	path  string
	head  []byte // its configuration without the closing brace
	ports bool   // it has the capability
}

func newFloor(w work) (subject, error) {
	var conf struct {
		CNIVersion string                       `json:"cniVersion"`
		Name       string                       `json:"name"`
		Plugins    []map[string]json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(w.conf, &conf); err != nil {
		return subject{}, err
	}
	f := &floor{env: []string{"PATH=" + pluginPath, "CNI_PATH=" + w.binDir}}
	for _, p := range conf.Plugins {
		var typ string
		if err := json.Unmarshal(p["type"], &typ); err != nil {
			return subject{}, err
		}
		_, ports := p["capabilities"]
		p["name"], p["cniVersion"] = fmt.Appendf(nil, "%q", conf.Name), fmt.Appendf(nil, "%q", conf.CNIVersion)
		head, err := json.Marshal(p)
		if err != nil {
			return subject{}, err
		}
		f.plugins = append(f.plugins, floorPlugin{
			path: filepath.Join(w.binDir, typ), head: head[:len(head)-1], ports: ports,
		})
	}
	return subject{
		name:     theFloor,
		setUp:    func(_ context.Context, p pod) error { return f.chain("ADD", p) },
		tearDown: func(_ context.Context, p pod) error { return f.chain("DEL", p) },
		close:    func() error { return nil },
	}, nil
}

// pluginPath is the PATH of plugins: with nft, where it usually is.
const pluginPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// chain runs the plugins for a pod. DEL does without prevResult: the floor's
// teardown is never timed, and the reference plugins do without it.
func (f *floor) chain(verb string, p pod) error {
	env := append(slices.Clone(f.env), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+p.id,
		"CNI_NETNS="+p.netNS, "CNI_IFNAME="+ifName, "CNI_ARGS=IgnoreUnknown=1")
	var result []byte
	for i := range f.plugins {
		c := &f.plugins[i]
		if verb == "DEL" {
			c = &f.plugins[len(f.plugins)-1-i]
		}
		stdin := slices.Clone(c.head)
		if c.ports && p.port != 0 {
			stdin = fmt.Appendf(stdin,
				`,"runtimeConfig":{"portMappings":[{"hostPort":%d,"containerPort":80,"protocol":"tcp"}]}`, p.port)
		}
		if result != nil {
			stdin = append(append(stdin, `,"prevResult":`...), result...)
		}
		out, err := start(c.path, append(stdin, '}'), env)
		if err != nil {
			return err
		}
		if verb == "ADD" {
			result = bytes.TrimSpace(out)
		}
	}
	return nil
}

// largestOutput is what is read of an answer. It fits into a pipe, so that nobody
// need read before the plugin's end.
const largestOutput = 8 << 10

// start runs one process. What does not fit into a pipe is not for the floor.
func start(path string, stdin []byte, env []string) (out []byte, err error) {
	var in, from [2]int
	if err := unix.Pipe2(in[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	defer unix.Close(in[0])
	if err := unix.Pipe2(from[:], unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(err, unix.Close(in[1]))
	}
	defer unix.Close(from[0])
	_, err = unix.Write(in[1], stdin)
	if err = errors.Join(err, unix.Close(in[1])); err != nil {
		return nil, errors.Join(err, unix.Close(from[1]))
	}
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{
		Env: env, Files: []uintptr{uintptr(in[0]), uintptr(from[1]), uintptr(from[1])},
	})
	if err = errors.Join(err, unix.Close(from[1])); err != nil {
		return nil, err
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, largestOutput)
	n, err := unix.Read(from[0], buf)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: status %d: %s", path, status.ExitStatus(), strings.TrimSpace(string(buf[:n])))
	}
	return buf[:max(n, 0)], err
}
