package netns_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The parts of the protocol of FUSE (linux/fuse.h) that a file system needs in
// which each name is a symbolic link.
const (
	fuseLookup, fuseGetattr, fuseReadlink, fuseInit = 1, 3, 5, 26

	fuseForget, fuseInterrupt, fuseBatchForget = 2, 36, 42 // want no answer

	fuseAttrSize = 88
)

// hungDir is a file system that does not answer before it is told to.
type hungDir struct {
	path   string
	asked  chan struct{} // closed when it has been asked something
	answer func()        // lets it answer
}

// newHungDir mounts a file system in which each name is a symbolic link to
// target, as soon as it answers.
func newHungDir(t *testing.T, target string) *hungDir {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	d := &hungDir{path: t.TempDir(), asked: make(chan struct{})}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	if err := unix.Mount("test", d.path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Skipf("no FUSE: %v", errors.Join(err, unix.Close(fd)))
	}
	// It can be polled now, and not before.
	dev := os.NewFile(uintptr(fd), "fuse")
	answers := make(chan struct{})
	d.answer = sync.OnceFunc(func() { close(answers) })
	var server sync.WaitGroup
	server.Go(func() { d.serve(dev, target, answers) })
	t.Cleanup(func() {
		require.NoError(t, unix.Unmount(d.path, unix.MNT_DETACH))
		d.answer()
		_ = dev.Close()
		server.Wait()
	})
	return d
}

func (d *hungDir) serve(dev *os.File, target string, answers <-chan struct{}) {
	request := make([]byte, 1<<17)
	order := binary.NativeEndian
	conn, err := dev.SyscallConn()
	if err != nil {
		return
	}
	for {
		if n, err := dev.Read(request); err != nil || n < 40 {
			return // unmounted, or closed
		}
		attr := func(ino uint64, mode uint32) []byte {
			b := make([]byte, fuseAttrSize)
			order.PutUint64(b, ino)
			order.PutUint32(b[60:], mode)
			order.PutUint32(b[64:], 1) // links
			return b
		}
		var body []byte
		var errno int32
		opcode := order.Uint32(request[4:])
		switch opcode {
		case fuseForget, fuseInterrupt, fuseBatchForget:
			continue
		case fuseInit:
			body = make([]byte, 64)
			order.PutUint32(body, 7)
			order.PutUint32(body[4:], 31)
			order.PutUint32(body[20:], 4096) // the longest write
		case fuseGetattr:
			body = append(make([]byte, 16), attr(1, unix.S_IFDIR|0o755)...)
		case fuseLookup:
			body = make([]byte, 40)
			order.PutUint64(body, 2)
			body = append(body, attr(2, unix.S_IFLNK|0o777)...)
		case fuseReadlink:
			body = []byte(target)
		default:
			errno = -int32(unix.ENOSYS)
		}
		head := make([]byte, 16)
		order.PutUint32(head, uint32(len(head)+len(body)))
		order.PutUint32(head[4:], uint32(errno))
		copy(head[8:], request[8:16]) // the request's number
		if _, err := dev.Write(append(head, body...)); err != nil && !errors.Is(err, unix.ENOENT) {
			return
		}
		if opcode != fuseInit {
			continue
		}
		// Wait for a request without reading it: the kernel lets a process that
		// waits for an answer be killed only while its request is unread.
		err := conn.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n == 1 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err != nil {
			return
		}
		close(d.asked)
		<-answers
	}
}
