package podcni

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

const (
	// longestName bounds the names that become parts of file names: no file
	// system that matters takes more in one.
	longestName = 255
	// longestIfName is the kernel's IFNAMSIZ without the NUL.
	longestIfName = 15
)

var (
	errEmpty     = errors.New("it must not be empty")
	errTooLong   = fmt.Errorf("it must not be longer than %d bytes", longestName)
	errNameChars = errors.New("it must be a letter or digit, then letters, digits, '_', '.' and '-'")
	errTypeChars = errors.New(`it must be the name of a file: no '/', no '\', no NUL, not "." or ".."`)

	errIfNameTooLong = fmt.Errorf("it must not be longer than %d bytes", longestIfName)
	errIfNameDots    = errors.New(`it must not be "." or ".."`)
	errIfNameChars   = errors.New("it must be printable and without '/', ':', '%' and spaces")
)

// checkNetworkName says what is wrong with a network's name, or nil.
func checkNetworkName(name string) error { return checkName(name) }

// checkContainerID says what is wrong with a sandbox's ID, or nil. The rule is
// the specification's, which has the same for networks ("Parameters").
func checkContainerID(id string) error { return checkName(id) }

func checkName(name string) error {
	switch {
	case name == "":
		return errEmpty
	case len(name) > longestName:
		return errTooLong
	}
	for i := range len(name) {
		c := name[i]
		if alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'; alphanumeric {
			continue
		}
		if i == 0 || c != '_' && c != '.' && c != '-' {
			return errNameChars
		}
	}
	return nil
}

// checkPluginType says what is wrong with a plugin's type, or nil. It is looked
// for as a file in the binary directories, and must not lead out of them.
func checkPluginType(typ string) error {
	switch {
	case typ == "":
		return errEmpty
	case len(typ) > longestName:
		return errTooLong
	case typ == ".", typ == "..":
		return errTypeChars
	}
	for i := range len(typ) {
		if c := typ[i]; c == '/' || c == '\\' || c == 0 {
			return errTypeChars
		}
	}
	return nil
}

// checkInterfaceName says what is wrong with the name of an interface, or nil.
// The rules are those of libcni and of Linux, on every platform: what is set up
// here may be torn down by another runtime. '%' is refused beyond libcni's
// rules because the kernel takes it for a template.
func checkInterfaceName(name string) error {
	switch {
	case name == "":
		return errEmpty
	case len(name) > longestIfName:
		return errIfNameTooLong
	case name == ".", name == "..":
		return errIfNameDots
	case !utf8.ValidString(name):
		return errIfNameChars
	}
	for _, r := range name {
		if r == '/' || r == ':' || r == '%' || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return errIfNameChars
		}
	}
	return nil
}
