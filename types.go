package podcni

import (
	"context"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	// DefaultInterfaceName is the name of a pod's first interface when the
	// caller names none.
	DefaultInterfaceName = "eth0"

	// CNIPluginName is what [CNI.Name] returns.
	CNIPluginName = "cni"
)

// PortMapping publishes a port of the pod on the host: the capability
// "portMappings" of the CNI conventions.
type PortMapping struct {
	// HostPort is the port on the host. A mapping whose HostPort is 0 or less
	// publishes nothing and is dropped.
	HostPort int32 `json:"hostPort"`
	// ContainerPort is the port in the pod, 1 to 65535.
	ContainerPort int32 `json:"containerPort"`
	// Protocol is tcp, udp or sctp, in any case. Empty means tcp.
	Protocol string `json:"protocol"`
	// HostIP is the host's address to publish on. Empty means all of them.
	HostIP string `json:"hostIP"`
}

// IPRange is one range of addresses to allocate from: an element of the
// capability "ipRanges" of the CNI conventions.
type IPRange struct {
	// Subnet is the whole range as a prefix, for example 10.1.0.0/16.
	Subnet string `json:"subnet"`
	// RangeStart is the first address to hand out. Empty: the subnet's first.
	RangeStart string `json:"rangeStart,omitempty"`
	// RangeEnd is the last address to hand out. Empty: the subnet's last.
	RangeEnd string `json:"rangeEnd,omitempty"`
	// Gateway is the subnet's gateway. Empty: the plugin's choice.
	Gateway string `json:"gateway,omitempty"`
}

// RuntimeConfig is what one pod asks of one network. Every field is optional;
// the zero value asks for nothing. A capability reaches only
// the plugins whose configuration declares it (CNI conventions). For one that no
// plugin declares, see [WithStrictCapabilities]. Texts must be valid UTF-8 without
// control characters.
type RuntimeConfig struct {
	// IP is a static address, with or without a prefix length. It is passed as
	// the capability "ips" and as IP in CNI_ARGS.
	IP string
	// MAC is the interface's hardware address. It is passed as the capability
	// "mac" and as MAC in CNI_ARGS.
	MAC string
	// PortMappings are the pod's published ports: the capability "portMappings".
	PortMappings []PortMapping
	// Bandwidth limits the pod's traffic: the capability "bandwidth".
	Bandwidth *BandwidthConfig
	// IpRanges are pools to take addresses from, one address from each outer
	// element: the capability "ipRanges". The field is spelt as in ocicni, so
	// that its users keep compiling.
	IpRanges [][]IpRange
	// CgroupPath is the pod's cgroup, for example
	// /kubelet.slice/kubelet-kubepods.slice: the capability "cgroupPath".
	CgroupPath string
	// PodAnnotations are the pod's annotations: the capability
	// "io.kubernetes.cri.pod-annotations".
	PodAnnotations *map[string]string `json:"io.kubernetes.cri.pod-annotations,omitempty"`

	// IPs are static addresses, of both families if need be. They are passed
	// as the capability "ips", after IP, and the first of all also as IP in
	// CNI_ARGS.
	IPs []string
	// DNS is the pod's resolver configuration: the capability "dns".
	DNS *DNSConfig
	// DeviceID names a device to hand to the pod, for example a PCI address:
	// the capability "deviceID".
	DeviceID string
	// InfinibandGUID is the GUID of an InfiniBand interface, eight octets with
	// colons: the capability "infinibandGUID".
	InfinibandGUID string
	// Args are further CNI_ARGS. A key or a value must not hold ';', '=' or
	// NUL: nothing in CNI_ARGS is escaped. They win over those that podcni sets
	// itself. CNI_ARGS as a whole may have 32000 bytes.
	Args map[string]string
	// CapabilityArgs are further capabilities by name. They must marshal to
	// JSON, and win over the fields above.
	CapabilityArgs map[string]any
}

// BandwidthConfig limits a pod's traffic. A rate needs its burst, and a burst
// its rate; 0 and 0 set no limit.
type BandwidthConfig struct {
	// IngressRate limits what the pod receives, in bits per second.
	IngressRate uint64
	// IngressBurst is how much may arrive at once, in bits.
	IngressBurst uint64
	// EgressRate limits what the pod sends, in bits per second.
	EgressRate uint64
	// EgressBurst is how much may leave at once, in bits.
	EgressBurst uint64
}

// DNSConfig is the resolver configuration of the capability "dns".
type DNSConfig struct {
	// Servers are the name servers' addresses.
	Servers []string `json:"servers,omitempty"`
	// Searches are the domains to search.
	Searches []string `json:"searches,omitempty"`
	// Options are resolver options, for example ndots:5.
	Options []string `json:"options,omitempty"`
}

// PodNetwork is a pod and what it asks of its networks. podcni reads it, never
// changes it, and keeps nothing of it after the call returns.
type PodNetwork struct {
	// Name is the pod's name: K8S_POD_NAME in CNI_ARGS.
	Name string
	// Namespace is the pod's namespace: K8S_POD_NAMESPACE in CNI_ARGS.
	Namespace string
	// ID is the sandbox's ID, CNI_CONTAINERID: a letter or digit, then letters,
	// digits, '_', '.' and '-'. It is required.
	ID string
	// UID is the pod's UID: K8S_POD_UID in CNI_ARGS.
	UID string
	// NetNS is the path of the sandbox's network namespace, CNI_NETNS.
	NetNS string

	// Networks are the networks to attach, in order, each with the interface
	// name that the caller wants or none. Empty means the default network.
	Networks []NetAttachment

	// RuntimeConfig is what the pod asks of a network, by the network's name.
	// For a network that the pod is not attached to, see
	// [WithStrictCapabilities].
	RuntimeConfig map[string]RuntimeConfig

	// InterfaceConfig is what the pod asks of one attachment, by the name of
	// its interface. An entry here replaces the RuntimeConfig of that network.
	// An entry for an interface that no attachment has is an error.
	InterfaceConfig map[string]RuntimeConfig

	// Aliases are further names of the pod on a network, by the network's
	// name: the capability "aliases".
	Aliases map[string][]string
}

// NetAttachment names a network, and an interface in the pod.
type NetAttachment struct {
	// Name is the network's name.
	Name string
	// Ifname is the interface's name in the pod. Empty lets podcni choose.
	Ifname string
}

// NetResult is what attaching one network gave.
type NetResult struct {
	// NetAttachment names the network and the interface.
	NetAttachment

	// Result is what the network's last plugin returned, in the version of the
	// network's configuration.
	Result types.Result
}

// CNIPlugin is what a container runtime asks of this package. It has exactly
// the methods of github.com/cri-o/ocicni v0.5.1, so that callers and their
// mocks keep compiling; what is new is on [*CNI].
type CNIPlugin interface {
	// Name returns [CNIPluginName].
	Name() string

	// GetDefaultNetworkName returns the name of the network that a pod gets
	// which names none, or "".
	GetDefaultNetworkName() string

	// SetUpPod is SetUpPodWithContext with a context that never ends.
	SetUpPod(network PodNetwork) ([]NetResult, error)

	// SetUpPodWithContext attaches the pod to its networks, all or none.
	SetUpPodWithContext(ctx context.Context, network PodNetwork) ([]NetResult, error)

	// TearDownPod is TearDownPodWithContext with a context that never ends.
	TearDownPod(network PodNetwork) error

	// TearDownPodWithContext detaches the pod from the networks that it names,
	// or from all that it is attached to when it names none.
	TearDownPodWithContext(ctx context.Context, network PodNetwork) error

	// GetPodNetworkStatus is GetPodNetworkStatusWithContext with a context
	// that never ends.
	GetPodNetworkStatus(network PodNetwork) ([]NetResult, error)

	// GetPodNetworkStatusWithContext returns what attaching the pod gave.
	GetPodNetworkStatusWithContext(ctx context.Context, network PodNetwork) ([]NetResult, error)

	// GC removes what is left of pods that are not among validPods.
	GC(ctx context.Context, validPods []*PodNetwork) error

	// Status is StatusWithContext with a context that never ends.
	Status() error

	// StatusWithContext returns nil when pods can be attached, and otherwise
	// why not.
	StatusWithContext(ctx context.Context) error

	// Shutdown ends watching and makes every later call fail.
	Shutdown() error
}

var _ CNIPlugin = (*CNI)(nil)
