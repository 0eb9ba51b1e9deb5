package podcni

import (
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podcni/podcni/testutils"
)

// TestInPlaceComesBack visits a namespace in the calling goroutine, and is at
// home again after it, also when the visit panics.
func TestInPlaceComesBack(t *testing.T) {
	t.Parallel()
	testutils.Sandbox(t, func(t *testing.T) {
		n, err := OpenNetNS(testutils.NewNetNS(t))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, n.Close()) })
		home, err := os.Readlink("/proc/self/ns/net")
		require.NoError(t, err)
		visit := func(panics bool) (done bool, there string, err error) {
			defer func() { _ = recover() }()
			done = true // unless it returns
			done, err = tryInPlace(func(int) error {
				if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
					return err
				}
				there, err = os.Readlink(ownNetNS)
				if panics {
					panic("on the way")
				}
				return err
			})
			return done, there, err
		}

		// Each goroutine keeps its thread, so that all but one are not the main one.
		ready, begin, results := make(chan struct{}), make(chan struct{}), make(chan bool)
		for i := range 4 {
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				ready <- struct{}{}
				<-begin
				done, there, err := visit(i%2 == 0)
				now, nowErr := os.Readlink(ownNetNS)
				ok := err == nil && nowErr == nil && now == home && (!done || there != home && there != "")
				if !ok {
					t.Error(done, there, now, err, nowErr)
				}
				results <- done
			}()
		}
		for range 4 {
			<-ready
		}
		close(begin)
		inPlace := 0
		for range 4 {
			if <-results {
				inPlace++
			}
		}
		require.GreaterOrEqual(t, inPlace, 3)
	})
}
