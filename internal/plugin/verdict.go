package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	// maxErrorText bounds each text of a plugin's error object, in bytes.
	maxErrorText = 16 << 10
	// maxQuote bounds what an error quotes of other output, in bytes.
	maxQuote = 512
)

var errNoAnswer = errors.New("it printed no error")

// verdict returns nil when the plugin did what it was asked for. The exit status
// decides. With another status than 0 the error is the object that is the whole
// of stdout: what a plugin logs, on stdout or stderr, may hold anything that
// others made up, and never is.
func verdict(end ended) error {
	switch {
	case end.failed != nil:
		return end.failed
	case end.exit == 0:
		return nil
	}
	err := errNoAnswer
	if out := bytes.TrimSpace(end.stdout); len(out) > 0 {
		err = quote("no error object", out)
		if e := decodeError(out); e != nil {
			err = withCode(e)
		}
	}
	if end.signal != "" {
		return fmt.Errorf("%s: %w", end.signal, err)
	}
	return err
}

// quote makes an ErrBadOutput that shows the beginning of the output.
func quote(what string, out []byte) error {
	return fmt.Errorf("%w: %s: %q", ErrBadOutput, what, cut(string(out), maxQuote))
}

// decodeError decodes an error object, which has a numeric code; nil if it is
// none. Details that are no string are kept as the JSON that they are.
func decodeError(object []byte) *types.Error {
	var raw struct {
		Code    *float64        `json:"code"`
		Msg     json.RawMessage `json:"msg"`
		Details json.RawMessage `json:"details"`
	}
	if json.Unmarshal(object, &raw) != nil || raw.Code == nil {
		return nil
	}
	code := *raw.Code
	if code < 0 || code > math.MaxUint32 || code != math.Trunc(code) {
		return nil
	}
	return types.NewError(uint(code), errorText(raw.Msg), errorText(raw.Details))
}

func errorText(raw json.RawMessage) string {
	var s string
	if raw != nil && json.Unmarshal(raw, &s) != nil {
		s = string(raw)
	}
	return cut(s, maxErrorText)
}

// withCode makes an error whose text has the code, which that of types.Error has
// not.
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
