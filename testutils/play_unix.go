//go:build unix

package testutils

import (
	"os"
	"os/signal"
	"syscall"
)

func ignoreTERM() { signal.Ignore(syscall.SIGTERM) }

func signalSelf(sig syscall.Signal) error { return syscall.Kill(os.Getpid(), sig) }

func childAttr(setsid bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: setsid} }
