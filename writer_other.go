//go:build !linux

package podcni

import "os"

// thisWriter identifies this process.
func thisWriter() writerID { return writerID{PID: os.Getpid()} }
