package podcni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	// maxStdout bounds what is read of a plugin's stdout, in bytes.
	maxStdout = 4 << 20
	// maxStderr is how much of the end of a plugin's stderr is kept, in bytes.
	maxStderr = 64 << 10
	// maxErrorText bounds each text of a plugin's error object, in bytes.
	maxErrorText = 16 << 10
	// maxObjects bounds how many places of an output are tried for an error
	// object, so that no output costs more than a moment.
	maxObjects = 64
)

// sink is what a pipe is read into.
type sink interface {
	room() []byte // where to read to, never empty
	took(n int)   // n bytes were read to room
}

// capture keeps what a plugin writes to stdout. More than is allowed is of no
// use, nor is its beginning: then it only discards.
type capture struct {
	buf  []byte
	over bool
}

func (c *capture) room() []byte {
	if len(c.buf) == cap(c.buf) {
		grown := make([]byte, len(c.buf), min(max(2<<10, 4*cap(c.buf)), maxStdout+1))
		copy(grown, c.buf)
		c.buf = grown
	}
	return c.buf[len(c.buf):cap(c.buf)]
}

func (c *capture) took(n int) {
	c.buf = c.buf[:len(c.buf)+n]
	if c.over || len(c.buf) > maxStdout {
		c.over, c.buf = true, c.buf[:0]
	}
}

// bytes is what was kept. It stays as it is, unless there was too much.
func (c *capture) bytes() []byte {
	if c.over {
		return nil
	}
	return c.buf
}

// tail keeps the end of what a plugin writes to stderr.
type tail struct{ buf []byte }

func (t *tail) room() []byte {
	switch {
	case len(t.buf) > 2*maxStderr:
		n := copy(t.buf, t.buf[len(t.buf)-maxStderr:])
		t.buf = t.buf[:n]
	case len(t.buf) == cap(t.buf):
		grown := make([]byte, len(t.buf), max(1<<10, 4*cap(t.buf)))
		copy(grown, t.buf)
		t.buf = grown
	}
	return t.buf[len(t.buf):cap(t.buf)]
}

func (t *tail) took(n int) { t.buf = t.buf[:len(t.buf)+n] }

// String is what was kept.
func (t *tail) String() string {
	return string(t.buf[max(0, len(t.buf)-maxStderr):])
}

// errorObject is the error object that a plugin printed although it exited with
// success, or nil: one with a code other than 0 and a message.
func errorObject(b []byte) *types.Error {
	e := reportedError(b)
	if e == nil || e.Code == 0 || e.Msg == "" {
		return nil
	}
	return e
}

// reportedError is the last error object in what a failed plugin printed: any
// object with a numeric code. Lines of a log may stand around it. nil when there
// is none.
func reportedError(b []byte) *types.Error {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return nil
	}
	if b[0] == '{' && b[len(b)-1] == '}' && json.Valid(b) {
		return decodeError(b)
	}
	if len(b) > maxStderr {
		b = b[len(b)-maxStderr:]
	}
	var found *types.Error
	for range maxObjects {
		start := bytes.IndexByte(b, '{')
		if start < 0 {
			break
		}
		b = b[start:]
		var object json.RawMessage
		dec := json.NewDecoder(bytes.NewReader(b))
		if dec.Decode(&object) != nil {
			b = b[1:]
			continue
		}
		if e := decodeError(object); e != nil {
			found = e
		}
		b = b[dec.InputOffset():]
	}
	return found
}

// decodeError decodes one JSON object as an error object, nil if it is none.
// Details that are no string are kept as the JSON that they are.
func decodeError(object []byte) *types.Error {
	var raw struct {
		Code    *float64        `json:"code"`
		Msg     string          `json:"msg"`
		Details json.RawMessage `json:"details"`
	}
	if json.Unmarshal(object, &raw) != nil || raw.Code == nil {
		return nil
	}
	code := *raw.Code
	if code < 0 || code > math.MaxUint32 || code != math.Trunc(code) {
		return nil
	}
	var details string
	if raw.Details != nil && json.Unmarshal(raw.Details, &details) != nil {
		details = string(raw.Details)
	}
	return types.NewError(uint(code), cut(raw.Msg, maxErrorText), cut(details, maxErrorText))
}

// withCode makes an error whose text has the code as well, which that of
// types.Error has not.
func withCode(e *types.Error) error {
	if e.Error() == "" {
		return fmt.Errorf("code %d, without a message%w", e.Code, e)
	}
	return fmt.Errorf("code %d: %w", e.Code, e)
}

// cut shortens s to n bytes.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return s
}
