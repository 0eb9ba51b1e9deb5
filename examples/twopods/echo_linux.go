package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/podcni/podcni"
)

// patience is how long a connection is tried for: an IPv6 address may only be
// used once the kernel has seen that nobody else has it.
const patience = 20 * time.Second

// listen makes a listener in a namespace. A socket stays in the namespace that
// it was made in, whoever uses it.
func listen(ns *podcni.NetNS, port int) (l net.Listener, err error) {
	err = ns.Do(func() error {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	return l, err
}

// serve sends back what it is sent, until the listener is closed.
func serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // the other side notices
		}()
	}
}

// dial connects from within a namespace, or from here if it is nil.
func dial(ctx context.Context, ns *podcni.NetNS, to netip.AddrPort) (conn *net.TCPConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dialer := net.Dialer{Timeout: time.Second}
	once := func() error {
		c, err := dialer.DialContext(ctx, "tcp", to.String())
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	}
	for {
		if ns == nil {
			err = once()
		} else {
			err = ns.Do(once)
		}
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// talk says something and wants to hear it again.
func talk(ctx context.Context, ns *podcni.NetNS, to netip.AddrPort) error {
	conn, err := dial(ctx, ns, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	const words = "are you there?"
	if _, err := io.WriteString(conn, words); err != nil {
		return err
	}
	heard := make([]byte, len(words))
	if _, err := io.ReadFull(conn, heard); err != nil {
		return err
	}
	if string(heard) != words {
		return fmt.Errorf("it answers %q", heard)
	}
	return nil
}

// transfer sends n bytes, reads them back and tells how long that took.
func transfer(ctx context.Context, ns *podcni.NetNS, to netip.AddrPort, n int64) (time.Duration, error) {
	conn, err := dial(ctx, ns, to)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	start := time.Now()
	sending := make(chan error, 1)
	go func() {
		_, err := io.CopyN(conn, zeros{}, n)
		sending <- errors.Join(err, conn.CloseWrite())
	}()
	got, err := io.Copy(io.Discard, conn)
	if err == nil && got != n {
		err = fmt.Errorf("%d bytes of %d came back", got, n)
	}
	if err != nil {
		_ = conn.Close() // ends the sending
	}
	return time.Since(start), errors.Join(err, <-sending)
}

// zeros is as many of them as one likes.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
