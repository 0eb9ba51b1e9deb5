package netns_test

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestInterfaceOfHardware(t *testing.T) {
	t.Parallel()
	n := create(t)
	mac := net.HardwareAddr{0xc2, 0x11, 0x22, 0x33, 0x44, 0x55}
	err := n.Do(func() error {
		var errs []error
		for _, kind := range []string{"dummy", "veth", "bridge"} {
			err := addInterface(kind, "eth0", mac)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Skipf("no interface to look at: %v", err)
	}
	eth0, err := n.Interface("eth0")
	require.NoError(t, err)
	require.Equal(t, "c2:11:22:33:44:55", eth0.MAC)
	require.Equal(t, 1500, eth0.MTU)
	require.False(t, eth0.Up)
}

// addInterface adds an interface in the calling thread's namespace.
func addInterface(kind, name string, mac net.HardwareAddr) error {
	attr := func(kind uint16, value []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	body = append(body, attr(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	body = append(body, attr(unix.IFLA_ADDRESS, mac)...)
	body = append(body, attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, []byte(kind)))...)
	head := make([]byte, unix.SizeofNlMsghdr)
	binary.NativeEndian.PutUint32(head, uint32(len(head)+len(body)))
	binary.NativeEndian.PutUint16(head[4:], unix.RTM_NEWLINK)
	binary.NativeEndian.PutUint16(head[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if err := unix.Sendto(socket, append(head, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	if _, err = unix.Read(socket, answer); err != nil {
		return err
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
