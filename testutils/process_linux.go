package testutils

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// FDs is how many descriptors this process has open. Where that cannot be
// told, as on anything but Linux, the test is skipped.
func FDs(t testing.TB) int {
	t.Helper()
	// The first file of a process that could be polled brings the descriptors of
	// the Go runtime's poller with it: let them be there from the first count.
	if f, err := os.Open(os.DevNull); err == nil {
		_ = f.Close()
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("open descriptors cannot be counted: %v", err)
	}
	return len(entries) - 1 // without the one that reads the directory
}

// Processes are the PIDs of the processes that run an executable from below
// dir, fake plugins and the children that they left among them: what a
// runtime should have ended. Where that cannot be told, as on anything but
// Linux, the test is skipped.
func Processes(t testing.TB, dir string) []int {
	t.Helper()
	pids, err := processes(dir)
	if err != nil {
		t.Skipf("processes cannot be listed: %v", err)
	}
	return pids
}

func processes(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	pids := []int{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if runsFrom(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// runsFrom looks at what the process was started as. One that ended meanwhile,
// or that is not ours to look at, is none.
func runsFrom(pid int, dir string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	content, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil || len(content) == 0 {
		return false
	}
	paths := strings.Split(string(content), "\x00")
	fake := len(paths) > 2 && (strings.HasPrefix(paths[1], pluginFlag) || strings.HasPrefix(paths[1], childFlag))
	if fake {
		paths = paths[:3]
	} else {
		paths = paths[:1]
	}
	if exe, err := os.Readlink(filepath.Join(proc, "exe")); err == nil {
		paths = append(paths, exe)
	}
	for _, path := range paths {
		if strings.HasPrefix(path, dir+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

// kill ends what still runs of the directory's plugins. Its path is of a
// temporary directory of its own, so that nobody else can be meant.
func (d *BinDir) kill() {
	pids, err := processes(d.path)
	for _, pid := range pids {
		if kill := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(kill, syscall.ESRCH) {
			err = errors.Join(err, kill)
		}
	}
	if err != nil {
		d.t.Logf("end leftover plugins: %v", err)
	}
}

// environ is the environment as it was given: os.Environ leaves out what is
// there twice.
func environ() []string {
	content, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return os.Environ()
	}
	if len(content) == 0 {
		return []string{}
	}
	return strings.Split(strings.TrimSuffix(string(content), "\x00"), "\x00")
}
