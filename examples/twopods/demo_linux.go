package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/podcni/podcni"
)

const (
	network  = "demo"
	bridge   = "demo0"
	hostPort = 18080
	echoPort = 7

	// What the first pod may receive, in bits per second and bits, and how much
	// is sent to it to see that. Unlimited, it would take some milliseconds.
	rate, burst = 40_000_000, 2_000_000
	sent        = 4_000_000 // bytes
	atLeast     = time.Second * (sent*8 - burst) / rate / 2
)

// errLeftOut says that the machine lacks what a check needs.
var errLeftOut = errors.New("left out")

// demo is one run. Each thing that is to hold becomes a check; what depends on
// a failed one is not tried.
type demo struct {
	plugins, dir string
	out          io.Writer
	nft          bool
	checks       []check
}

type check struct {
	what string
	err  error
}

// pod is one of the two.
type pod struct {
	podcni.PodNetwork
	ns  *podcni.NetNS
	sum podcni.PodResult
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// check notes whether something holds, and says whether it does.
func (d *demo) check(what string, err error) bool {
	d.checks = append(d.checks, check{what, err})
	return err == nil
}

// run is the demonstration. The error says that something did not hold.
func (d *demo) run(ctx context.Context) error {
	d.say("This is a sandbox: user, mount and network namespaces of its own.")
	if err := d.lookForNft(ctx); err != nil {
		d.say("There is no use of nft here (%v), so masquerading and the published port are left out.", err)
	}
	p, err := d.start()
	if err != nil {
		return err
	}
	defer p.Shutdown()

	web, err := d.newPod("web")
	if err != nil {
		return err
	}
	client, err := d.newPod("client")
	if err != nil {
		return errors.Join(err, web.ns.Remove())
	}
	web.RuntimeConfig = map[string]podcni.RuntimeConfig{network: {
		PortMappings: []podcni.PortMapping{{HostPort: hostPort, ContainerPort: echoPort, Protocol: "tcp"}},
		Bandwidth: &podcni.BandwidthConfig{
			IngressRate: rate, IngressBurst: burst, EgressRate: rate, EgressBurst: burst,
		},
	}}
	d.together(ctx, p, web, client)
	d.apart(ctx, p, web, client)
	return d.verdict()
}

// start writes the network's configuration and makes the Plugin.
func (d *demo) start() (*podcni.CNI, error) {
	host, err := podcni.OpenNetNS("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	defer host.Close()
	if err := host.LoopbackUp(); err != nil {
		return nil, err
	}
	confDir := filepath.Join(d.dir, "net.d")
	if err := os.Mkdir(confDir, 0o755); err != nil {
		return nil, err
	}
	conf, err := d.config()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(confDir, "10-demo.conflist"), conf, 0o644); err != nil {
		return nil, err
	}
	d.say("The network, in %s:\n\n%s\n", confDir, conf)
	p, err := podcni.New(
		podcni.WithConfDir(confDir),
		podcni.WithBinDirs(d.plugins),
		podcni.WithCacheDir(d.cacheDir()),
	)
	if err != nil {
		return nil, err
	}
	if err := p.Status(); err != nil {
		return nil, errors.Join(err, p.Shutdown())
	}
	return p, nil
}

func (d *demo) cacheDir() string { return filepath.Join(d.dir, "cache") }

// reservations is where host-local notes the addresses that it gave away.
func (d *demo) reservations() string { return filepath.Join(d.dir, "addresses") }

func (d *demo) lookForNft(ctx context.Context) error {
	if _, err := d.ruleset(ctx); err != nil {
		return err
	}
	d.nft = true
	return nil
}

func (d *demo) ruleset(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("nft: %w %s", err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

func (d *demo) newPod(name string) (*pod, error) {
	ns, err := podcni.NewNetNS(filepath.Join(d.dir, "netns"), name)
	if err != nil {
		return nil, err
	}
	return &pod{ns: ns, PodNetwork: podcni.PodNetwork{
		Name: name, Namespace: "default", ID: "twopods-" + name, NetNS: ns.Path(),
	}}, nil
}

// together attaches the pods and has them talk.
func (d *demo) together(ctx context.Context, p *podcni.CNI, web, client *pod) {
	for _, pod := range []*pod{web, client} {
		if !d.check("pod "+pod.Name+" is attached", d.attach(ctx, p, pod)) {
			return
		}
		d.check("pod "+pod.Name+" has an IPv4 and an IPv6 address, and its interface is as the result says", pod.asItSays())
	}
	d.table(web, client)

	echo, err := listen(web.ns, echoPort)
	if !d.check("pod web serves TCP echo", err) {
		return
	}
	defer echo.Close()
	go serve(echo)

	for _, ip := range web.sum.Addrs() {
		to := netip.AddrPortFrom(ip, echoPort)
		d.check(fmt.Sprintf("pod client reaches pod web over %s, at %s", family(ip), to), talk(ctx, client.ns, to))
	}
	for _, ip := range web.sum.IPs {
		to := netip.AddrPortFrom(ip.Gateway, hostPort)
		what := fmt.Sprintf("the host's published port leads to pod web over %s, at %s", family(ip.Gateway), to)
		if !d.nft {
			d.check(what, errLeftOut)
			continue
		}
		d.check(what, talk(ctx, nil, to))
	}
	took, err := transfer(ctx, client.ns, netip.AddrPortFrom(web.sum.Primary(), echoPort), sent)
	if err == nil && took < atLeast {
		err = fmt.Errorf("it took only %v", took)
	}
	d.check(fmt.Sprintf("%d MB into pod web take their time at %d Mbit/s", sent/1_000_000, rate/1_000_000), err)
}

func (d *demo) attach(ctx context.Context, p *podcni.CNI, pod *pod) error {
	results, err := p.SetUpPodWithContext(ctx, pod.PodNetwork)
	if err != nil {
		return err
	}
	pod.sum, err = podcni.MergeResults(results)
	return err
}

// asItSays compares what the plugins answered with what the kernel has.
func (p *pod) asItSays() error {
	if len(p.sum.IPv4()) == 0 || len(p.sum.IPv6()) == 0 {
		return fmt.Errorf("its addresses are %v", p.sum.Addrs())
	}
	info, err := p.ns.Interface(podcni.DefaultInterfaceName)
	if err != nil {
		return err
	}
	for _, itf := range p.sum.Interfaces {
		if itf.Sandbox == "" {
			continue
		}
		if !info.Up || !strings.EqualFold(itf.MAC, info.MAC) {
			return fmt.Errorf("it is %+v", info)
		}
		for _, ip := range itf.IPs {
			if !slices.Contains(info.Addrs, ip.Address) {
				return fmt.Errorf("%s is not among %v", ip.Address, info.Addrs)
			}
		}
	}
	return nil
}

func (d *demo) table(pods ...*pod) {
	t := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tINTERFACE\tMAC\tADDRESS\tGATEWAY")
	for _, pod := range pods {
		for _, itf := range pod.sum.Interfaces {
			for _, ip := range itf.IPs {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", pod.Name, itf.Name, itf.MAC, ip.Address, ip.Gateway)
			}
		}
	}
	t.Flush()
	d.say("")
}

// apart detaches the pods and looks for what is left of them.
func (d *demo) apart(ctx context.Context, p *podcni.CNI, pods ...*pod) {
	// Also when the demonstration was interrupted.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), demoTime)
	defer cancel()
	for _, pod := range pods {
		d.check("pod "+pod.Name+" is detached", p.TearDownPodWithContext(ctx, pod.PodNetwork))
	}
	d.check("no interface is left", d.noInterface(pods))
	d.check("no address is reserved any more", d.noAddress())
	d.check("no record is left", d.noRecord(ctx, p))
	what := "no rule of nft is left"
	if d.nft {
		d.check(what, d.noRule(ctx, pods))
	} else {
		d.check(what, errLeftOut)
	}
	for _, pod := range pods {
		d.check("the namespace of pod "+pod.Name+" is removed", pod.ns.Remove())
	}
}

// noInterface looks in the pods and on the host's side, where the bridge stays:
// its plugin never removes it, for other pods may come.
func (d *demo) noInterface(pods []*pod) error {
	left := func() error {
		interfaces, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, itf := range interfaces {
			if itf.Flags&net.FlagLoopback == 0 && itf.Name != bridge {
				return fmt.Errorf("there is %s", itf.Name)
			}
		}
		return nil
	}
	err := left()
	for _, pod := range pods {
		err = errors.Join(err, pod.ns.Do(left))
	}
	return err
}

func (d *demo) noAddress() error {
	files, err := filepath.Glob(filepath.Join(d.reservations(), network, "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		// Its lock and the last address of each range stay.
		if _, err := netip.ParseAddr(filepath.Base(file)); err == nil {
			return fmt.Errorf("%s is there", file)
		}
	}
	return nil
}

func (d *demo) noRecord(ctx context.Context, p *podcni.CNI) error {
	attachments, err := p.Attachments(ctx)
	if err != nil {
		return err
	}
	if len(attachments) > 0 {
		return fmt.Errorf("there are %v", attachments)
	}
	files, err := os.ReadDir(filepath.Join(d.cacheDir(), "results"))
	if err == nil && len(files) > 0 {
		err = fmt.Errorf("there is %s", files[0].Name())
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// noRule looks for the pods' IDs, which the plugins put into a comment of each
// rule. Their tables and chains stay.
func (d *demo) noRule(ctx context.Context, pods []*pod) error {
	rules, err := d.ruleset(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(rules) {
		for _, pod := range pods {
			if strings.Contains(line, pod.ID) {
				return fmt.Errorf("there is %q", strings.TrimSpace(line))
			}
		}
	}
	return nil
}

func (d *demo) verdict() error {
	failed := 0
	for _, c := range d.checks {
		switch {
		case c.err == nil:
			d.say("ok        %s", c.what)
		case errors.Is(c.err, errLeftOut):
			d.say("left out  %s", c.what)
		default:
			failed++
			d.say("FAILED    %s: %v", c.what, c.err)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d did not hold", failed, len(d.checks))
	}
	if !d.nft {
		d.say("All of it held, but for what was left out.")
		return nil
	}
	d.say("All of it held.")
	return nil
}

func family(ip netip.Addr) string {
	if ip.Unmap().Is4() {
		return "IPv4"
	}
	return "IPv6"
}
