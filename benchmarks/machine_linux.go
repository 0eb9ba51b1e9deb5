package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where a run took place.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	FS     string `json:"fileSystem"` // of the records
	Plugin string `json:"plugin"`     // which one does nothing
	Commit string `json:"commit,omitempty"`
	Load   string `json:"loadBefore"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, Linux %s, %s; records on %s; the plugin that does nothing is %s; commit %s",
		m.CPU, m.Cores, m.Kernel, m.Go, m.FS, m.Plugin, m.Commit)
}

func describeMachine(s settings) machine {
	m := machine{
		CPU: "unknown CPU", Cores: runtime.NumCPU(), Go: runtime.Version(),
		FS: fileSystem(s.workDir), Plugin: "in C", Commit: "unknown", Load: loadAverage(),
	}
	if s.goNoop {
		m.Plugin = "in Go"
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	info, _ := os.ReadFile("/proc/cpuinfo") // unknown then
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(out))
	}
	return m
}

func loadAverage() string {
	line, _ := os.ReadFile("/proc/loadavg") // unknown then
	fields := strings.Fields(string(line))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

func fileSystem(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "an unknown file system"
	}
	for _, known := range []struct {
		magic int64
		name  string
	}{
		{unix.EXT4_SUPER_MAGIC, "ext4"},
		{unix.XFS_SUPER_MAGIC, "xfs"},
		{unix.BTRFS_SUPER_MAGIC, "btrfs"},
		{unix.TMPFS_MAGIC, "tmpfs"},
		{unix.OVERLAYFS_SUPER_MAGIC, "overlayfs"},
	} {
		if int64(st.Type) == known.magic {
			return known.name
		}
	}
	return fmt.Sprintf("a file system of type %#x", st.Type)
}
