//go:build !unix

package testutils

import (
	"os"
	"syscall"
)

func ignoreTERM() {}

func signalSelf(sig syscall.Signal) error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	return self.Signal(sig)
}

func childAttr(bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
