package integration_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What follows is as much of rtnetlink as the tests need, so that they do
// without ip and tc.

// request sends one message to the kernel and gives its answers: those of a
// dump, or none if it is just done. It is about the calling thread's namespace.
func request(kind uint16, flags uint16, body []byte) (answers []syscall.NetlinkMessage, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	length := unix.SizeofNlMsghdr + len(body)
	message := binary.NativeEndian.AppendUint32(nil, uint32(length))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = binary.NativeEndian.AppendUint16(message, flags|unix.NLM_F_REQUEST)
	message = binary.NativeEndian.AppendUint32(message, 1) // sequence
	message = binary.NativeEndian.AppendUint32(message, 0) // the kernel
	message = append(message, body...)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for {
		b := make([]byte, 1<<16)
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(b[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return answers, nil
			case unix.NLMSG_ERROR:
				if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
					return nil, unix.Errno(-code)
				}
				return answers, nil
			}
			answers = append(answers, m)
		}
	}
}

// attribute encodes one attribute of a message.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// link encodes what messages about an interface begin with.
func link(index int, flags uint32) []byte {
	info := unix.IfInfomsg{Family: unix.AF_UNSPEC, Index: int32(index), Flags: flags, Change: flags}
	return append([]byte(nil), (*[unix.SizeofIfInfomsg]byte)(unsafe.Pointer(&info))[:]...)
}

// addWire adds a pair of interfaces, up, the first of which macvlan can share.
func addWire(t *testing.T, name, peer string) {
	t.Helper()
	named := func(name string) []byte {
		return append(link(0, 0), attribute(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	}
	const vethInfoPeer = 1
	kind := attribute(unix.IFLA_INFO_KIND, []byte("veth"))
	data := attribute(unix.IFLA_INFO_DATA, attribute(vethInfoPeer, named(peer)))
	body := append(named(name), attribute(unix.IFLA_LINKINFO, append(kind, data...))...)
	_, err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, body)
	require.NoError(t, err, "adding %s", name)
	for _, name := range []string{name, peer} {
		itf, err := net.InterfaceByName(name)
		require.NoError(t, err)
		_, err = request(unix.RTM_NEWLINK, unix.NLM_F_ACK, link(itf.Index, unix.IFF_UP))
		require.NoError(t, err, "bringing %s up", name)
	}
}

// deleteLink deletes an interface of the calling thread's namespace.
func deleteLink(name string) error {
	itf, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	_, err = request(unix.RTM_DELLINK, unix.NLM_F_ACK, link(itf.Index, 0))
	return err
}

// qdiscs are the kinds of queueing discipline that an interface has.
func qdiscs(t *testing.T, name string) []string {
	t.Helper()
	itf, err := net.InterfaceByName(name)
	require.NoError(t, err)
	const sizeofTcmsg = 20
	answers, err := request(unix.RTM_GETQDISC, unix.NLM_F_DUMP, make([]byte, sizeofTcmsg))
	require.NoError(t, err)
	var kinds []string
	for _, m := range answers {
		kind, index, err := qdisc(m.Data, sizeofTcmsg)
		require.NoError(t, err)
		if index == itf.Index {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// qdisc decodes a message about one: a tcmsg, then attributes, the first kind
// of which is its name.
func qdisc(b []byte, header int) (kind string, index int, err error) {
	if len(b) < header {
		return "", 0, fmt.Errorf("%d bytes are no tcmsg", len(b))
	}
	index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	for b = b[header:]; len(b) >= unix.SizeofRtAttr; {
		length, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if length < unix.SizeofRtAttr || length > len(b) {
			break
		}
		if typ == unix.TCA_KIND {
			return unix.ByteSliceToString(b[unix.SizeofRtAttr:length]), index, nil
		}
		b = b[min(len(b), (length+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
	}
	return "", 0, fmt.Errorf("a qdisc without a kind")
}
