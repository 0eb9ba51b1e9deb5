package podcni

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/podcni/podcni/internal/confdir"
)

// Network is a network that pods can be attached to.
type Network struct {
	// Name is the network's name.
	Name string `json:"name"`
	// Path is the file that it was read from, or WithConfList[i] or
	// WithConfTemplate.
	Path string `json:"path"`
	// CNIVersion is the version of the specification that its plugins get.
	CNIVersion string `json:"cniVersion"`
	// Plugins are the types of its plugins, in order.
	Plugins []string `json:"plugins"`
	// Capabilities are what any of its plugins takes of a [RuntimeConfig], by the
	// names of the CNI conventions, sorted.
	Capabilities []string `json:"capabilities,omitempty"`
	// Default says that pods that name no network get this one.
	Default bool `json:"default,omitempty"`
}

// Networks returns the networks that pods can be attached to now, in order of
// precedence. The slice is the caller's. After Shutdown it is nil. Networks never
// blocks.
func (c *CNI) Networks() []Network {
	if c.closed() != nil {
		return nil
	}
	snap := c.networks.Current()
	all := make([]Network, len(snap.Networks))
	for i, n := range snap.Networks {
		all[i] = Network{
			Name: n.List.Name, Path: n.Path, CNIVersion: n.List.CNIVersion,
			Capabilities: slices.Clone(n.Capabilities), Default: n == snap.Default,
		}
		for _, p := range n.List.Plugins {
			all[i].Plugins = append(all[i].Plugins, p.Network.Type)
		}
	}
	return all
}

// Rejected returns the configurations that podcni does not use as they are, and
// the reason for each: files that cannot be read, and networks whose plugins are
// missing or too old. A file that does not parse any more is listed, although its
// last good network stays in use. The slice is the caller's. After Shutdown it is
// nil. Rejected never blocks.
func (c *CNI) Rejected() []*ConfigError {
	if c.closed() != nil {
		return nil
	}
	snap := c.networks.Current()
	all := make([]*ConfigError, len(snap.Rejected))
	for i, r := range snap.Rejected {
		all[i] = configError(r)
	}
	return all
}

func configError(r confdir.Rejection) *ConfigError {
	return &ConfigError{Path: r.Path, Network: r.Network, Err: r.Err}
}

// GetDefaultNetworkName returns the name of the default network. It returns a name
// set by [WithDefaultNetwork] even while that network is not loaded. It is empty when
// there is no default, and after Shutdown. It never blocks.
func (c *CNI) GetDefaultNetworkName() string {
	if c.closed() != nil {
		return ""
	}
	return c.networks.Current().DefaultName
}

// Reload reads the configuration again. It blocks until that is done and the
// plugins have been asked for their versions. It is needed with WithoutWatch, or
// to be sure that a change is in force. The error is ctx's or ErrShutdown. What
// was found is in Networks, Rejected and Status.
func (c *CNI) Reload(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	return c.shutdownError(c.networks.Reload(ctx))
}

// shutdownError is ErrShutdown for what failed because of it.
func (c *CNI) shutdownError(err error) error {
	if err != nil && c.closed() != nil {
		return ErrShutdown
	}
	return err
}

// UpdatePodCIDRs renders the template of [WithConfTemplate] with the node's pod
// CIDRs. It blocks until the network is in force, or is known not to be usable:
// see Rejected. It keeps nothing of the slice. Without a template it does nothing.
//
// The error is a *ConfigError that wraps ErrInvalidConfig when the template makes
// no valid network, and the last one stays; or ctx's; or ErrShutdown.
func (c *CNI) UpdatePodCIDRs(ctx context.Context, cidrs []netip.Prefix) error {
	if err := c.closed(); err != nil {
		return err
	}
	err := c.networks.UpdatePodCIDRs(ctx, slices.Clone(cidrs))
	if bad := (*confdir.InputError)(nil); errors.As(err, &bad) {
		return &ConfigError{Path: bad.Option, Err: bad.Err}
	}
	return c.shutdownError(err)
}

// Updates returns a channel that can be received from after a change of the
// networks, of what is rejected, or of the readiness. Then look at Networks,
// Rejected and Status. Changes that nobody received yet count as one. The channel
// is closed when ctx ends, and on Shutdown. Updates never blocks, and nothing
// waits for a caller that does not receive.
func (c *CNI) Updates(ctx context.Context) <-chan struct{} { return c.networks.Subscribe(ctx) }
