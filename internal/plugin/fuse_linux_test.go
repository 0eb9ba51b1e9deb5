package plugin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Operations of FUSE.
const (
	fuseForget    = 2
	fuseGetattr   = 3
	fuseOpen      = 14
	fuseFlush     = 25
	fuseInit      = 26
	fuseInterrupt = 36
)

// fuseFile mounts a file whose file system answers everything but the operation
// hang. asked is closed when somebody waits for that, and answer lets it go on.
func fuseFile(t *testing.T, hang uint32) (path string, asked <-chan struct{}, answer func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("no FUSE is to be had: ", err)
	}
	path = filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, nil, 0o755))
	options := fmt.Sprintf("fd=%d,rootmode=100755,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid())
	if err := unix.Mount("test", path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(fd)
		t.Skip("no FUSE may be mounted: ", err)
	}
	device := os.NewFile(uintptr(fd), "/dev/fuse") // it can be polled only now
	waits, goOn := make(chan struct{}), make(chan struct{})
	var once, release sync.Once
	answer = func() { release.Do(func() { close(goOn) }) }
	var server sync.WaitGroup
	server.Go(func() {
		buf := make([]byte, 1<<17)
		for {
			n, err := device.Read(buf)
			if err != nil {
				if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
					continue
				}
				return
			}
			op, unique := binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint64(buf[8:n])
			if op == fuseForget || op == fuseInterrupt {
				continue
			}
			reply := func() { _, _ = device.Write(fuseReply(op, unique)) }
			if op != hang {
				reply()
				continue
			}
			once.Do(func() { close(waits) })
			server.Go(func() {
				<-goOn
				reply()
			})
		}
	})
	t.Cleanup(func() {
		answer()
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = device.Close()
		server.Wait()
	})
	return path, waits, answer
}

func fuseReply(op uint32, unique uint64) []byte {
	var body []any
	status := int32(0)
	switch op {
	case fuseInit: // 7.31; 64 bytes
		body = []any{[4]uint32{7, 31, 4096, 0}, [2]uint16{1, 1}, [2]uint32{4096, 1}, [9]uint32{}}
	case fuseGetattr: // for no time valid; 104 bytes
		body = []any{[2]uint64{}, [6]uint64{1, 4096, 8}, [3]uint32{}, uint32(unix.S_IFREG | 0o755), uint32(1), [2]uint32{uint32(os.Getuid()), uint32(os.Getgid())}, [3]uint32{0, 4096, 0}}
	case fuseOpen:
		body = []any{[2]uint64{1, 0}}
	case fuseFlush:
	default:
		status = -int32(unix.ENOSYS)
	}
	var b bytes.Buffer
	for _, v := range append([]any{uint32(0), status, unique}, body...) {
		if err := binary.Write(&b, binary.NativeEndian, v); err != nil {
			panic(err)
		}
	}
	binary.NativeEndian.PutUint32(b.Bytes(), uint32(b.Len()))
	return b.Bytes()
}
