package testutils

import "os"

// sandboxMark is the last argument of a process in a sandbox: not a variable of
// the environment, which plugins would inherit.
const sandboxMark = "cni-test-sandbox"

func inSandbox() bool { return len(os.Args) > 1 && os.Args[len(os.Args)-1] == sandboxMark }
