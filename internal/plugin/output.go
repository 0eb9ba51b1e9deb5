package plugin

import "fmt"

const (
	// maxStdout bounds what is read of a plugin's stdout, in bytes.
	maxStdout = 4 << 20
	// maxStderr is how much of the end of a plugin's stderr is kept, in bytes.
	maxStderr = 64 << 10
)

// command is what a process is started with.
type command struct {
	path  string
	env   []string
	stdin []byte
	// started is called when the next process may start: this one has, and has
	// ended or is a slow one.
	started func()
	// tooMuch is called when the process printed more than maxStdout. It ends the
	// context of the run.
	tooMuch func()
}

// ended is what is known of a process that came to its end.
type ended struct {
	stdout []byte
	stderr string
	exit   int    // -1 when it did not exit by itself
	signal string // what ended it, when a signal did
	failed error  // why it was ended, or why nothing is known of its end
}

// lost says that somebody else in this process reaps children.
func lost(err error) error {
	return fmt.Errorf("it ran and ended, but its exit status is not known: %w", err)
}

// capture keeps what a plugin writes to stdout, and nothing when it is too much.
type capture struct {
	buf  []byte
	over bool
	full func() // called once, when it is too much
}

func (c *capture) Write(b []byte) (int, error) {
	switch {
	case c.over:
	case len(c.buf)+len(b) > maxStdout:
		c.over, c.buf = true, nil
		c.full()
	default:
		c.buf = append(c.buf, b...)
	}
	return len(b), nil
}

// tail keeps the end of what a plugin writes to stderr.
type tail struct{ buf []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.buf = append(t.buf, b...)
	if len(t.buf) > 2*maxStderr {
		t.buf = t.buf[:copy(t.buf, t.buf[len(t.buf)-maxStderr:])]
	}
	return len(b), nil
}

func (t *tail) String() string { return string(t.buf[max(0, len(t.buf)-maxStderr):]) }
