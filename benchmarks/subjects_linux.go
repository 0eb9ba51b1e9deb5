package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	gocni "github.com/containerd/go-cni"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podcni/podcni"
)

// The names of those that are measured.
const (
	ours     = "podcni"
	peerLib  = "libcni"
	peerGo   = "go-cni"
	theFloor = "floor"
)

// ifName is the interface of every pod.
const ifName = "eth0"

// subject attaches pods to one network, and detaches them.
type subject struct {
	name     string
	setUp    func(ctx context.Context, p pod) error
	tearDown func(ctx context.Context, p pod) error
	close    func() error
}

// work is what subjects are set to do.
type work struct {
	conf   []byte // a network's list, named "net"
	binDir string
	root   string // where caches are made
}

const netName = "net"

// noopWork is a network of n plugins that do nothing, with records on the file
// system of the work directory.
func (b *bench) noopWork(n int) work {
	return work{conf: noops(netName, n), binDir: filepath.Join(b.workDir, "bin"), root: b.workDir}
}

// subjects makes all of them.
func (b *bench) subjects(w work) (subjects []subject, stop func(), err error) {
	stop = func() {
		for _, s := range subjects {
			_ = s.close() // of what is measured nothing is left to go wrong
		}
	}
	for _, make := range []func(work) (subject, error){newPodcni, newLibcni, newGoCNI, newFloor} {
		s, err := make(w)
		if err != nil {
			stop()
			return nil, nil, err
		}
		subjects = append(subjects, s)
	}
	return subjects, stop, nil
}

func newPodcni(w work) (subject, error) {
	p, err := openPodcni(w)
	if err != nil {
		return subject{}, err
	}
	return subjectOf(p), nil
}

// openPodcni makes a Plugin that reads the network from a directory and watches
// it, as a runtime's does.
func openPodcni(w work, more ...podcni.Option) (*podcni.CNI, error) {
	dir, err := os.MkdirTemp(w.root, "podcni")
	if err != nil {
		return nil, err
	}
	confDir := filepath.Join(dir, "conf")
	if err := os.Mkdir(confDir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(confDir, "10-net.conflist"), w.conf, 0o644); err != nil {
		return nil, err
	}
	options := append([]podcni.Option{
		podcni.WithConfDir(confDir), podcni.WithBinDirs(w.binDir), podcni.WithCacheDir(filepath.Join(dir, "cache")),
	}, more...)
	p, err := podcni.New(options...)
	if err != nil {
		return nil, err
	}
	if rejected := p.Rejected(); len(rejected) > 0 {
		return nil, fmt.Errorf("rejected: %w", rejected[0])
	}
	return p, nil
}

// podOf is a pod as podcni is told of it.
func podOf(p pod) podcni.PodNetwork {
	network := podcni.PodNetwork{Namespace: "shop", Name: "web", ID: p.id, UID: "uid", NetNS: p.netNS}
	if p.port != 0 {
		network.RuntimeConfig = map[string]podcni.RuntimeConfig{netName: {PortMappings: []podcni.PortMapping{
			{HostPort: p.port, ContainerPort: 80, Protocol: "tcp"},
		}}}
	}
	return network
}

func subjectOf(p *podcni.CNI) subject {
	return subject{
		name: ours,
		setUp: func(ctx context.Context, at pod) error {
			_, err := p.SetUpPodWithContext(ctx, podOf(at))
			return err
		},
		tearDown: func(ctx context.Context, at pod) error { return p.TearDownPodWithContext(ctx, podOf(at)) },
		close:    p.Shutdown,
	}
}

// newLibcni is libcni with its own way to run plugins.
func newLibcni(w work) (subject, error) {
	cni, conf, err := openLibcni(w)
	if err != nil {
		return subject{}, err
	}
	return subject{
		name: peerLib,
		setUp: func(ctx context.Context, p pod) error {
			_, err := cni.AddNetworkList(ctx, conf, runtimeConf(p))
			return err
		},
		tearDown: func(ctx context.Context, p pod) error { return cni.DelNetworkList(ctx, conf, runtimeConf(p)) },
		close:    func() error { return nil },
	}, nil
}

func openLibcni(w work) (*libcni.CNIConfig, *libcni.NetworkConfigList, error) {
	cache, err := os.MkdirTemp(w.root, "libcni")
	if err != nil {
		return nil, nil, err
	}
	conf, err := libcni.NetworkConfFromBytes(w.conf)
	if err != nil {
		return nil, nil, err
	}
	run := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}, PluginDecoder: version.PluginDecoder{}}
	return libcni.NewCNIConfigWithCacheDir([]string{w.binDir}, cache, run), conf, nil
}

func runtimeConf(p pod) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: p.id, NetNS: p.netNS, IfName: ifName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", "shop"},
			{"K8S_POD_NAME", "web"},
			{"K8S_POD_INFRA_CONTAINER_ID", p.id},
			{"K8S_POD_UID", "uid"},
		},
	}
	if p.port != 0 {
		rt.CapabilityArgs = map[string]any{"portMappings": []object{
			{"hostPort": p.port, "containerPort": 80, "protocol": "tcp"},
		}}
	}
	return rt
}

// newGoCNI is go-cni as containerd uses it, without the loopback plugin, which
// podcni does without as well. Its records are in goCNICache, which is on the
// file system of the work directory.
func newGoCNI(w work) (subject, error) {
	cni, err := gocni.New(gocni.WithPluginDir([]string{w.binDir}), gocni.WithMinNetworkCount(1),
		gocni.WithInterfacePrefix("eth"), gocni.WithConfListBytes(w.conf))
	if err != nil {
		return subject{}, err
	}
	options := func(p pod) []gocni.NamespaceOpts {
		opts := []gocni.NamespaceOpts{gocni.WithLabels(map[string]string{
			"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web",
			"K8S_POD_INFRA_CONTAINER_ID": p.id, "K8S_POD_UID": "uid",
		})}
		if p.port != 0 {
			opts = append(opts, gocni.WithCapabilityPortMap([]gocni.PortMapping{
				{HostPort: p.port, ContainerPort: 80, Protocol: "tcp"},
			}))
		}
		return opts
	}
	return subject{
		name: peerGo,
		setUp: func(ctx context.Context, p pod) error {
			_, err := cni.Setup(ctx, p.id, p.netNS, options(p)...)
			return err
		},
		tearDown: func(ctx context.Context, p pod) error { return cni.Remove(ctx, p.id, p.netNS, options(p)...) },
		close:    func() error { return nil },
	}, nil
}
