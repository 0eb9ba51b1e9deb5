//go:build !linux

package podcni

import "fmt"

// NewNetNS makes a network namespace on Linux. Here it returns
// [ErrUnsupported], or an error that wraps [fs.ErrInvalid] for a name that is
// none on Linux either.
func NewNetNS(dir, name string) (*NetNS, error) {
	if err := checkNetNSName(name); err != nil {
		return nil, err
	}
	if _, err := netNSDir(dir); err != nil {
		return nil, err
	}
	return nil, unsupportedNetNS()
}

// OpenNetNS opens a network namespace on Linux. Here it returns
// [ErrUnsupported].
func OpenNetNS(string) (*NetNS, error) { return nil, unsupportedNetNS() }

// Do runs fn in the namespace on Linux. Here it returns [ErrUnsupported].
func (n *NetNS) Do(func() error) error { return unsupportedNetNS() }

// LoopbackUp brings lo up on Linux. Here it returns [ErrUnsupported].
func (n *NetNS) LoopbackUp() error { return unsupportedNetNS() }

// Interface reads an interface of the namespace on Linux. Here it returns
// [ErrUnsupported].
func (n *NetNS) Interface(string) (InterfaceInfo, error) {
	return InterfaceInfo{}, unsupportedNetNS()
}

// Remove takes the namespace's pin away on Linux. Here it returns
// [ErrUnsupported].
func (n *NetNS) Remove() error { return unsupportedNetNS() }

func unsupportedNetNS() error { return fmt.Errorf("network namespaces: %w", ErrUnsupported) }
