package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/podcni/podcni"
)

// owner marks the attachments that attach made, for its gc.
const owner = "podcni-attach"

// flags are those of every command: few enough to need no distinction.
type flags struct {
	confDir, cacheDir, netnsDir string
	binDirs                     []string
	networks                    []podcni.NetAttachment

	id, podName, podNamespace, netns string
	newNetNS, removeNetNS            bool

	// asked is what the pod asks of its networks, "" standing for the first.
	asked map[string]*podcni.RuntimeConfig

	json, noStrict, verbose, wait, all bool
	timeout                            time.Duration
}

func (f *flags) flagSet(name string) *flag.FlagSet {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	f.confDir = podcni.DefaultConfDir
	f.asked = make(map[string]*podcni.RuntimeConfig)

	set.StringVar(&f.confDir, "conf-dir", podcni.DefaultConfDir, "`DIR` to load networks from")
	set.Func("bin-dir", "`DIR` to look for plugins in; may be given several times (default "+podcni.DefaultBinDir+")",
		func(v string) error { f.binDirs = append(f.binDirs, v); return nil })
	set.StringVar(&f.cacheDir, "cache-dir", "", "`DIR` for the records of attachments (default /var/lib/cni)")
	set.Func("network", "attach to `NAME[:IFNAME]`; may be given several times (default: the default network)",
		func(v string) error {
			network, ifname, _ := strings.Cut(v, ":")
			if network == "" {
				return errors.New("it has no name")
			}
			f.networks = append(f.networks, podcni.NetAttachment{Name: network, Ifname: ifname})
			return nil
		})

	set.StringVar(&f.id, "id", "", "`ID` of the sandbox (run: a random one)")
	set.StringVar(&f.podName, "pod-name", "", "`NAME` of the pod, for plugins that ask")
	set.StringVar(&f.podNamespace, "pod-namespace", "", "`NAMESPACE` of the pod, for plugins that ask")
	set.StringVar(&f.netns, "netns", "", "`PATH` of the network namespace, or a name below --netns-dir (default: the ID)")
	set.StringVar(&f.netnsDir, "netns-dir", podcni.DefaultNetNSDir, "`DIR` of named namespaces")
	set.BoolVar(&f.newNetNS, "new-netns", false, "add: make the namespace first")
	set.BoolVar(&f.removeNetNS, "remove-netns", false, "del: remove the namespace afterwards")

	f.podFlags(set)

	set.BoolVar(&f.json, "json", false, "print JSON")
	set.BoolVar(&f.noStrict, "no-strict", false, "as root: also take files and plugins that other users can write (by default they are refused)")
	set.BoolVar(&f.verbose, "verbose", false, "log what is done, and what plugins write to stderr")
	set.Func("timeout", "give up after this `TIME`, for example 30s; run: attaching only; watch: end then (default: each plugin has its own limit)",
		func(v string) (err error) {
			f.timeout, err = time.ParseDuration(v)
			if err != nil || f.timeout <= 0 {
				return errors.New("it is not a time such as 30s")
			}
			return nil
		})
	set.BoolVar(&f.wait, "wait", false, "status: wait until ready")
	set.BoolVar(&f.all, "all", false, "gc: without an ID, detach everything that this program attached")
	return set
}

// podFlags are what a pod asks of a network. A value may be preceded by the
// network that it is for; the first network is meant otherwise.
func (f *flags) podFlags(set *flag.FlagSet) {
	const scope = "; [NETWORK=] for another than the first network"
	scoped := func(name, usage string, set1 func(c *podcni.RuntimeConfig, v string) error) {
		set.Func(name, usage+scope, func(v string) error {
			network, rest, found := strings.Cut(v, "=")
			if !found {
				network, rest = "", v
			}
			return set1(f.ask(network), rest)
		})
	}
	scoped("ip", "ask for the address `IP[/LEN]`; may be given several times", func(c *podcni.RuntimeConfig, v string) error {
		c.IPs = append(c.IPs, v)
		return nil
	})
	scoped("mac", "ask for the hardware address `MAC`", func(c *podcni.RuntimeConfig, v string) error {
		c.MAC = v
		return nil
	})
	scoped("port", "publish `[HOSTIP:]HOST:CONTAINER[/PROTO]`; may be given several times", func(c *podcni.RuntimeConfig, v string) error {
		m, err := parsePort(v)
		c.PortMappings = append(c.PortMappings, m)
		return err
	})
	scoped("ingress", "limit what is received to `RATE:BURST`, in bits per second and bits; k, M and G are understood",
		func(c *podcni.RuntimeConfig, v string) (err error) {
			b := bandwidth(c)
			b.IngressRate, b.IngressBurst, err = parseRate(v)
			return err
		})
	scoped("egress", "limit what is sent to `RATE:BURST`", func(c *podcni.RuntimeConfig, v string) (err error) {
		b := bandwidth(c)
		b.EgressRate, b.EgressBurst, err = parseRate(v)
		return err
	})
	set.Func("arg", "add `KEY=VALUE` to CNI_ARGS of the first network; may be given several times", func(v string) error {
		key, value, found := strings.Cut(v, "=")
		if !found || key == "" {
			return errors.New("it is not KEY=VALUE")
		}
		c := f.ask("")
		if c.Args == nil {
			c.Args = make(map[string]string)
		}
		c.Args[key] = value
		return nil
	})
	set.Func("capability", "pass the capability `KEY=JSON` to the first network; may be given several times", func(v string) error {
		key, value, found := strings.Cut(v, "=")
		if !found || key == "" || !json.Valid([]byte(value)) {
			return errors.New("it is not KEY=JSON")
		}
		c := f.ask("")
		if c.CapabilityArgs == nil {
			c.CapabilityArgs = make(map[string]any)
		}
		c.CapabilityArgs[key] = json.RawMessage(value)
		return nil
	})
}

func (f *flags) ask(network string) *podcni.RuntimeConfig {
	if f.asked[network] == nil {
		f.asked[network] = &podcni.RuntimeConfig{}
	}
	return f.asked[network]
}

func bandwidth(c *podcni.RuntimeConfig) *podcni.BandwidthConfig {
	if c.Bandwidth == nil {
		c.Bandwidth = &podcni.BandwidthConfig{}
	}
	return c.Bandwidth
}

// parsePort reads [HOSTIP:]HOST:CONTAINER[/PROTO], an IPv6 address in brackets.
func parsePort(v string) (podcni.PortMapping, error) {
	ports, proto, _ := strings.Cut(v, "/")
	m := podcni.PortMapping{Protocol: "tcp"}
	if proto != "" {
		m.Protocol = proto
	}
	i := strings.LastIndexByte(ports, ':')
	if i < 0 {
		return m, errors.New("it is not HOST:CONTAINER")
	}
	host, container := ports[:i], ports[i+1:]
	if j := strings.LastIndexByte(host, ':'); j >= 0 {
		ip, err := netip.ParseAddr(strings.Trim(host[:j], "[]"))
		if err != nil {
			return m, err
		}
		m.HostIP, host = ip.String(), host[j+1:]
	}
	for _, p := range []struct {
		text string
		to   *int32
	}{{host, &m.HostPort}, {container, &m.ContainerPort}} {
		n, err := strconv.ParseUint(p.text, 10, 16)
		if err != nil || n == 0 {
			return m, fmt.Errorf("%q is not a port", p.text)
		}
		*p.to = int32(n)
	}
	return m, nil
}

func parseRate(v string) (rate, burst uint64, err error) {
	r, b, found := strings.Cut(v, ":")
	if !found {
		return 0, 0, errors.New("it is not RATE:BURST")
	}
	if rate, err = parseBits(r); err != nil {
		return 0, 0, err
	}
	burst, err = parseBits(b)
	return rate, burst, err
}

func parseBits(v string) (uint64, error) {
	factor := uint64(1)
	if i := len(v) - 1; i > 0 {
		switch v[i] {
		case 'k':
			factor = 1_000
		case 'M':
			factor = 1_000_000
		case 'G':
			factor = 1_000_000_000
		}
		if factor > 1 {
			v = v[:i]
		}
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n > ^uint64(0)/factor {
		return 0, fmt.Errorf("%q is not a number of bits", v)
	}
	return n * factor, nil
}

// absolute makes of the paths, which are from the working directory, what
// podcni and plugins want.
func (f *flags) absolute() error {
	paths := []*string{&f.confDir, &f.netnsDir}
	if f.cacheDir != "" {
		paths = append(paths, &f.cacheDir)
	}
	if strings.ContainsRune(f.netns, '/') {
		paths = append(paths, &f.netns)
	}
	for i := range f.binDirs {
		paths = append(paths, &f.binDirs[i])
	}
	for _, path := range paths {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return nil
}

// open makes the Plugin that the flags describe.
func (e *env) open(more ...podcni.Option) (*podcni.CNI, error) {
	// What New finds the commands say themselves; of what it did, the warnings
	// are worth reading.
	level := new(slog.LevelVar)
	if level.Set(slog.LevelError); e.verbose {
		level.Set(slog.LevelDebug)
	} else {
		defer level.Set(slog.LevelWarn)
	}
	opts := []podcni.Option{
		podcni.WithOwner(owner),
		podcni.WithLogger(slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))),
	}
	opts = append(opts, podcni.WithConfDir(e.confDir), podcni.WithStrictCapabilities())
	if len(e.binDirs) > 0 {
		opts = append(opts, podcni.WithBinDirs(e.binDirs...))
	}
	if e.cacheDir != "" {
		opts = append(opts, podcni.WithCacheDir(e.cacheDir))
	}
	if os.Geteuid() == 0 && !e.noStrict {
		opts = append(opts, podcni.WithStrictPermissions())
	}
	return podcni.New(append(opts, more...)...)
}

// pod is the pod that the flags describe, given the network of pods that name
// none.
func (e *env) pod(first string) (podcni.PodNetwork, error) {
	pod := podcni.PodNetwork{
		ID: e.id, Name: e.podName, Namespace: e.podNamespace,
		Networks: e.networks, NetNS: e.netnsPath(),
	}
	if len(e.asked) == 0 {
		return pod, nil
	}
	names := make(map[string]bool)
	if len(e.networks) > 0 {
		first = e.networks[0].Name
	}
	if first != "" {
		names[first] = true
	}
	for _, n := range e.networks {
		names[n.Name] = true
	}
	pod.RuntimeConfig = make(map[string]podcni.RuntimeConfig)
	for name, asked := range e.asked {
		if name == "" {
			name = first
		} else if !names[name] {
			return pod, usageError("something is asked of network %q, to which the pod is not to be attached", name)
		} else if name == first && e.asked[""] != nil {
			return pod, usageError("network %q is the first: ask all of it in the same way, with or without its name", name)
		}
		pod.RuntimeConfig[name] = *asked
	}
	return pod, nil
}

// netnsPath is the path of the namespace: one as it is, or a name's.
func (e *env) netnsPath() string {
	name := e.netns
	if name == "" {
		name = e.id
	}
	if name == "" || strings.ContainsRune(name, '/') {
		return name
	}
	return filepath.Join(e.netnsDir, name)
}
