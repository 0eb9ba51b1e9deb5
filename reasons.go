package podcni

import (
	"errors"
	"fmt"
	"strings"
)

// chooseDefault names the default network, or says why there is none.
func (b *loading) chooseDefault() {
	s, want := b.s, b.o.defaultNetwork
	switch {
	case want == "" && len(s.networks) > 0:
		s.def = s.networks[0]
	case want != "" && s.byName[want] != nil:
		s.def = s.byName[want]
	case want == "":
		s.reason = b.whyNone()
	default:
		s.reason = b.whyAbsent(want)
	}
}

// whyNone says why there is no network at all.
func (b *loading) whyNone() error {
	switch {
	case len(b.s.rejected) > 0 && b.s.pending == len(b.s.rejected):
		return fmt.Errorf("no network is ready yet: %w", reasons(b.s.rejected))
	case len(b.s.rejected) > 0:
		return fmt.Errorf("no network could be loaded: %w", reasons(b.s.rejected))
	case b.missing != nil:
		return b.missing
	}
	return &ConfigError{Path: b.o.confDir, Err: errors.New("there is no network configuration (*.conflist, *.conf, *.json) in it")}
}

// whyAbsent says why the named default network is not there.
func (b *loading) whyAbsent(want string) error {
	for i := range b.s.rejected {
		if r := &b.s.rejected[i]; r.Network == want {
			return fmt.Errorf("the default network is not loaded: %w", r)
		}
	}
	if len(b.s.networks) == 0 {
		return fmt.Errorf("%w: %q, the default: %w", ErrNetworkNotFound, want, b.whyNone())
	}
	var names []string
	for _, n := range b.s.networks {
		names = append(names, n.name)
	}
	err := fmt.Errorf("%w: %q, the default, is not among %s", ErrNetworkNotFound, want, strings.Join(names, ", "))
	if len(b.s.rejected) > 0 {
		err = fmt.Errorf("%w; rejected: %w", err, reasons(b.s.rejected))
	}
	return err
}

// reasonsTold is how many rejected files one error tells of.
const reasonsTold = 3

// reasons makes one error of the first few on one line.
func reasons(rejected []ConfigError) error {
	r := rejectedError{more: max(0, len(rejected)-reasonsTold)}
	for i := range rejected[:len(rejected)-r.more] {
		r.errs = append(r.errs, &rejected[i])
	}
	return &r
}

type rejectedError struct {
	errs []error
	more int
}

func (e *rejectedError) Error() string {
	var b strings.Builder
	for i, err := range e.errs {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	if e.more > 0 {
		fmt.Fprintf(&b, "; and %d more", e.more)
	}
	return b.String()
}

func (e *rejectedError) Unwrap() []error { return e.errs }
