package integration_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
)

// patience is how long a connection is tried for: an IPv6 address may only be
// used once the kernel has seen that nobody else has it, and the machine may be
// busy.
const patience = time.Minute

// echo serves TCP echo in the pod until the test ends.
func (p *pod) echo() {
	t := p.n.t
	t.Helper()
	var l net.Listener
	require.NoError(t, p.ns.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", &net.TCPAddr{Port: echoPort})
		return err
	}))
	served := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-served
	})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
}

// reaches sees that a pod, or with a nil namespace the host, can talk to an
// echo.
func (n *node) reaches(from *podcni.NetNS, addr netip.Addr, port uint16) {
	t := n.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	to := netip.AddrPortFrom(addr, port).String()
	dialer := net.Dialer{Timeout: time.Second}
	var conn net.Conn
	dial := func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", to)
		return err
	}
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		var err error
		if from == nil {
			err = dial()
		} else {
			err = from.Do(dial)
		}
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			require.NoError(t, err, "connecting to %s", to)
		case <-retry.C:
		}
	}
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(conn, "hello")
	require.NoError(t, err)
	heard := make([]byte, len("hello"))
	_, err = io.ReadFull(conn, heard)
	require.NoError(t, err)
	require.Equal(t, "hello", string(heard))
}
