package podcni

import (
	"context"
	"sync/atomic"
)

// Plugin attaches pods to networks. Make one with New; it is safe for
// concurrent use.
type Plugin struct {
	opts *options
	snap atomic.Pointer[snapshot]

	loader   *loader
	probes   *prober
	run      *runner
	reloads  *reloader
	statuses statusRuns
	done     chan struct{} // closed by Shutdown
}

// New makes a Plugin.
func New(opts ...Option) (*Plugin, error) { return nil, ErrUnsupported }

func (p *Plugin) Name() string                                     { return CNIPluginName }
func (p *Plugin) SetUpPod(network PodNetwork) ([]NetResult, error) { return nil, nil }
func (p *Plugin) SetUpPodWithContext(ctx context.Context, network PodNetwork) ([]NetResult, error) {
	return nil, nil
}
func (p *Plugin) TearDownPod(network PodNetwork) error                                 { return nil }
func (p *Plugin) TearDownPodWithContext(ctx context.Context, network PodNetwork) error { return nil }
func (p *Plugin) GetPodNetworkStatus(network PodNetwork) ([]NetResult, error)          { return nil, nil }
func (p *Plugin) GetPodNetworkStatusWithContext(ctx context.Context, network PodNetwork) ([]NetResult, error) {
	return nil, nil
}
func (p *Plugin) GC(ctx context.Context, validPods []*PodNetwork) error { return nil }
func (p *Plugin) Shutdown() error                                       { return nil }
