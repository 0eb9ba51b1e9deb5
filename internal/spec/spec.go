// Package spec has what every other package needs of the CNI specification: the
// verbs, and the rules for names.
package spec

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// The verbs (specification, section 2).
const (
	Add     = "ADD"
	Del     = "DEL"
	Check   = "CHECK"
	GC      = "GC"
	Status  = "STATUS"
	Version = "VERSION"
)

// Unversioned is the version of a configuration that names none.
const Unversioned = "0.1.0"

// ErrVersion means that somebody does not speak, or does not know, a version of
// the specification.
var ErrVersion = errors.New("unsupported CNI version")

// IsVerb reports whether s is a verb.
func IsVerb(s string) bool {
	switch s {
	case Add, Del, Check, GC, Status, Version:
		return true
	}
	return false
}

const (
	// MaxName bounds the names that become parts of file names, in bytes. File
	// systems do not take longer ones.
	MaxName = 255
	// MaxIfName is the kernel's limit for the name of an interface, in bytes.
	MaxIfName = 15
)

// What is wrong with a name. The texts complete "name x: ...".
var (
	ErrEmpty     = errors.New("it must not be empty")
	ErrTooLong   = fmt.Errorf("it must not be longer than %d bytes", MaxName)
	ErrNameChars = errors.New("it must be a letter or digit, then letters, digits, '_', '.' and '-'")
	ErrTypeChars = errors.New(`it must be the name of a file: no '/', no '\', no NUL, not "." or ".."`)

	ErrIfNameTooLong = fmt.Errorf("it must not be longer than %d bytes", MaxIfName)
	ErrIfNameDots    = errors.New(`it must not be "." or ".."`)
	ErrIfNameChars   = errors.New("it must be printable and without '/', ':', '%' and spaces")
)

// CheckNetworkName returns what is wrong with the name of a network
// (specification, section 1).
func CheckNetworkName(name string) error { return checkName(name) }

// CheckContainerID returns what is wrong with the ID of a sandbox. The rule is
// the one for network names (specification, section 2, "Parameters").
func CheckContainerID(id string) error { return checkName(id) }

func checkName(name string) error {
	switch {
	case name == "":
		return ErrEmpty
	case len(name) > MaxName:
		return ErrTooLong
	}
	for i := range len(name) {
		c := name[i]
		if alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'; alphanumeric {
			continue
		}
		if i == 0 || c != '_' && c != '.' && c != '-' {
			return ErrNameChars
		}
	}
	return nil
}

// CheckPluginType returns what is wrong with the type of a plugin. A plugin is
// looked up by its type in the binary directories: the type must not lead out of
// them.
func CheckPluginType(typ string) error {
	switch {
	case typ == "":
		return ErrEmpty
	case len(typ) > MaxName:
		return ErrTooLong
	case typ == ".", typ == "..":
		return ErrTypeChars
	}
	for i := range len(typ) {
		if c := typ[i]; c == '/' || c == '\\' || c == 0 {
			return ErrTypeChars
		}
	}
	return nil
}

// CheckIfName returns what is wrong with the name of an interface. The rules are
// those of libcni and of Linux, on every platform. '%' is refused as well,
// because the kernel takes such a name for a template.
func CheckIfName(name string) error {
	switch {
	case name == "":
		return ErrEmpty
	case len(name) > MaxIfName:
		return ErrIfNameTooLong
	case name == ".", name == "..":
		return ErrIfNameDots
	case !utf8.ValidString(name):
		return ErrIfNameChars
	}
	for _, r := range name {
		if r == '/' || r == ':' || r == '%' || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return ErrIfNameChars
		}
	}
	return nil
}
