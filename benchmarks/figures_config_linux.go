package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podcni/podcni"
)

const (
	networks = 50
	binaries = 9 // which the networks' 150 plugins are
)

// node is a config directory with many networks, and what counts their
// plugins' runs.
type node struct {
	confDir, binDir, cacheDir, countPath string
}

func (b *bench) node() (*node, error) {
	dir, err := b.mkdir()
	if err != nil {
		return nil, err
	}
	n := &node{
		confDir: filepath.Join(dir, "conf"), binDir: filepath.Join(dir, "bin"),
		cacheDir: filepath.Join(dir, "cache"), countPath: filepath.Join(dir, "count"),
	}
	if err := errors.Join(os.Mkdir(n.confDir, 0o755), os.Mkdir(n.binDir, 0o755)); err != nil {
		return nil, err
	}
	noop, err := os.ReadFile(filepath.Join(b.workDir, "bin", "noop"))
	if err != nil {
		return nil, err
	}
	for i := range binaries {
		// Copies: links would be one binary.
		if err := os.WriteFile(filepath.Join(n.binDir, fmt.Sprintf("noop%d", i)), noop, 0o755); err != nil {
			return nil, err
		}
	}
	for i := range networks {
		if err := n.write(i, "1.0.0"); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// write writes a network's file in place.
func (n *node) write(i int, version string) error {
	plugins := make([]object, 3)
	for j := range plugins {
		plugins[j] = object{
			"type": fmt.Sprintf("noop%d", (i+j)%binaries), "mtu": 1450,
			"ipam": object{"type": "noop0", "ranges": [][]object{{{"subnet": "10.1.0.0/16"}}}},
		}
	}
	return os.WriteFile(filepath.Join(n.confDir, fmt.Sprintf("%02d.conflist", i)),
		list(fmt.Sprintf("net%d", i), version, plugins...), 0o644)
}

func (n *node) open(more ...podcni.Option) (*podcni.CNI, error) {
	p, err := podcni.New(append([]podcni.Option{
		podcni.WithConfDir(n.confDir), podcni.WithBinDirs(n.binDir), podcni.WithCacheDir(n.cacheDir),
		podcni.WithPluginEnv("NOOP_COUNT=" + n.countPath),
	}, more...)...)
	if err != nil {
		return nil, err
	}
	if got := len(p.Networks()); got < networks {
		return nil, fmt.Errorf("%d networks are loaded, rejected: %v", got, p.Rejected())
	}
	return p, nil
}

// runs counts the plugins' runs so far.
func (n *node) runs() (float64, error) {
	info, err := os.Stat(n.countPath)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return float64(info.Size()), nil
}

// cpuTime is what this process has used, in seconds.
func cpuTime() (float64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, nil
}

// settle is how long after a change it is still counted what it costs.
const settle = 150 * time.Millisecond

func changeFigure(ctx context.Context, b *bench) (figureResults, error) {
	n, err := b.node()
	if err != nil {
		return figureResults{}, err
	}
	p, err := n.open()
	if err != nil {
		return figureResults{}, err
	}
	defer func() { _ = p.Shutdown() }() // which always gives nil
	updates := p.Updates(ctx)
	before, err := n.runs()
	if err != nil {
		return figureResults{}, err
	}
	var delays, cpus series
	versions := []string{"0.4.0", "1.0.0"}
	for round := range b.times(40) {
		i := round / 2 % networks // there and back again
		delay, cpu, err := n.change(p, updates, i, versions[round%2])
		if err != nil {
			return figureResults{}, err
		}
		delays, cpus = append(delays, delay), append(cpus, cpu)
	}
	after, err := n.runs()
	if err != nil {
		return figureResults{}, err
	}
	return figureResults{
		Rows: []row{
			{What: "from the last write until it is in force", Value: delays.median(), Unit: seconds, Must: atMost(0.1)},
			{What: "the same, the slowest change", Value: delays.quantile(1), Unit: seconds, Must: atMost(0.1)},
			{What: "CPU time of a change", Value: cpus.median(), Unit: seconds, Must: atMost(0.005)},
			{What: "plugin runs of all changes", Value: after - before, Unit: count, Must: atMost(0)},
		},
		Plot: &plot{
			Title: "A change of one of 50 networks with 3 plugins each", Unit: seconds,
			Note: fmt.Sprintf("median of %d, with the 10th and 90th percentile; it ran no plugin", len(delays)),
			Bars: []bar{barOf("until it is in force", delays), barOf("CPU time", cpus)},
		},
	}, nil
}

// change changes a network and waits until that is in force.
func (n *node) change(p *podcni.CNI, updates <-chan struct{}, i int, version string) (delay, cpu float64, err error) {
	cpuBefore, err := cpuTime()
	if err != nil {
		return 0, 0, err
	}
	if err := n.write(i, version); err != nil {
		return 0, 0, err
	}
	written := time.Now()
	tooLate := time.After(20 * time.Second)
	for p.Networks()[i].CNIVersion != version {
		select {
		case <-updates:
		case <-tooLate:
			return 0, 0, errors.New("a change does not come into force")
		}
	}
	delay = time.Since(written).Seconds()
	<-time.After(settle)
	cpuAfter, err := cpuTime()
	return delay, cpuAfter - cpuBefore, err
}

// startUpCommand makes the command a runtime that starts, and says how long New
// took and, after it, a Reload.
const startUpCommand = "start-up"

func startUp(args []string, out io.Writer) error {
	n := &node{confDir: args[0], binDir: args[1], cacheDir: args[2], countPath: args[3]}
	var p *podcni.CNI
	cold, err := timed(func() (err error) {
		p, err = n.open()
		return err
	})
	if err != nil {
		return err
	}
	warm, err := timed(func() error { return p.Reload(context.Background()) })
	if err != nil {
		return err
	}
	fmt.Fprintln(out, cold, warm)
	return p.Shutdown()
}

func startFigure(ctx context.Context, b *bench) (figureResults, error) {
	n, err := b.node()
	if err != nil {
		return figureResults{}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return figureResults{}, err
	}
	var cold, warm, runs series
	for range b.times(30) {
		before, err := n.runs()
		if err != nil {
			return figureResults{}, err
		}
		cmd := exec.CommandContext(ctx, exe, startUpCommand, n.confDir, n.binDir, n.cacheDir, n.countPath)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return figureResults{}, err
		}
		words := bufio.NewScanner(strings.NewReader(string(out)))
		words.Split(bufio.ScanWords)
		for _, to := range []*series{&cold, &warm} {
			words.Scan()
			v, err := strconv.ParseFloat(words.Text(), 64)
			if err != nil {
				return figureResults{}, err
			}
			*to = append(*to, v)
		}
		after, err := n.runs()
		if err != nil {
			return figureResults{}, err
		}
		runs = append(runs, after-before)
	}
	return figureResults{
		Rows: []row{
			{What: "cold: New in a new process", Value: cold.median(), Unit: seconds},
			{What: "plugin runs of that, of 9 binaries", Value: runs.quantile(1), Unit: count, Must: atMost(binaries)},
			{What: "warm: Reload, nothing changed", Value: warm.median(), Unit: seconds},
		},
		Plot: &plot{
			Title: "Start-up with 50 networks of 3 plugins, 9 binaries", Unit: seconds,
			Note: fmt.Sprintf("median of %d, with the 10th and 90th percentile", len(cold)),
			Bars: []bar{barOf("cold: New", cold), barOf("warm: Reload", warm)},
		},
	}, nil
}
