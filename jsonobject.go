package podcni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// member is one member of a JSON object: its value is as it was written, so
// that no number is rounded and no key is lost on its way to a plugin.
type member struct {
	key   string
	value []byte
	at    int // where the value begins in the document
}

// object is a JSON object in the order of its document. Where a key is there
// several times the last one counts, as with encoding/json.
type object []member

var (
	errEmptyDocument = errors.New("it is empty")
	errNotObject     = errors.New("it is not a JSON object")
)

// parseObject reads a document that is one JSON object.
func parseObject(doc []byte) (object, error) {
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil, errEmptyDocument
	}
	if !json.Valid(doc) {
		var whole json.RawMessage
		err := json.Unmarshal(doc, &whole)
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, positioned(doc, int(syntax.Offset)-1, err)
		}
		return nil, err
	}
	start := skipSpace(doc, 0)
	if doc[start] != '{' {
		return nil, positioned(doc, start, errNotObject)
	}
	return members(doc, start), nil
}

// members splits the object that begins at doc[start]. The document must be
// valid JSON.
func members(doc []byte, start int) object {
	var o object
	for i := skipSpace(doc, start+1); doc[i] != '}'; {
		end := skipValue(doc, i)
		m := member{key: decodeString(doc[i:end])}
		m.at = skipSpace(doc, skipSpace(doc, end)+1) // over the colon
		end = skipValue(doc, m.at)
		m.value = doc[m.at:end:end]
		o = append(o, m)
		if i = skipSpace(doc, end); doc[i] == ',' {
			i = skipSpace(doc, i+1)
		}
	}
	return o
}

// elements gives where each element begins of the array at doc[start]. The
// document must be valid JSON.
func elements(doc []byte, start int) []int {
	var at []int
	for i := skipSpace(doc, start+1); doc[i] != ']'; {
		at = append(at, i)
		if i = skipSpace(doc, skipValue(doc, i)); doc[i] == ',' {
			i = skipSpace(doc, i+1)
		}
	}
	return at
}

func skipSpace(doc []byte, i int) int {
	for i < len(doc) && (doc[i] == ' ' || doc[i] == '\t' || doc[i] == '\n' || doc[i] == '\r') {
		i++
	}
	return i
}

// skipValue gives the end of the value that begins at doc[i].
func skipValue(doc []byte, i int) int {
	depth := 0
	for ; i < len(doc); i++ {
		switch doc[i] {
		case '"':
			for i++; doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		case ',', ':', ' ', '\t', '\n', '\r':
			continue
		default: // a number, true, false or null
			for i+1 < len(doc) && !strings.ContainsRune(",:]} \t\r\n", rune(doc[i+1])) {
				i++
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(doc)
}

// decodeString gives what a valid JSON string says.
func decodeString(quoted []byte) string {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return string(inner)
	}
	return s
}

// get finds a key as it is spelt.
func (o object) get(key string) (member, bool) {
	for _, m := range slices.Backward(o) {
		if m.key == key {
			return m, true
		}
	}
	return member{}, false
}

// fold finds a key as encoding/json does in a struct: as it is spelt, or else
// in any case.
func (o object) fold(key string) (member, bool) {
	if m, ok := o.get(key); ok {
		return m, true
	}
	for _, m := range slices.Backward(o) {
		if strings.EqualFold(m.key, key) {
			return m, true
		}
	}
	return member{}, false
}

// render writes the members that keep wants, without white space, each after a
// comma.
func (o object) render(keep func(key string) bool) []byte {
	last := make(map[string]int, len(o))
	for i, m := range o {
		last[m.key] = i
	}
	var b bytes.Buffer
	for i, m := range o {
		if last[m.key] != i || !keep(m.key) {
			continue
		}
		b.WriteByte(',')
		b.Write(quoteJSON(m.key))
		b.WriteByte(':')
		if err := json.Compact(&b, m.value); err != nil { // it has been validated
			b.Write(m.value)
		}
	}
	return b.Bytes()
}

// isNull says whether the value is null, which counts as absent.
func (m member) isNull() bool { return string(m.value) == "null" }

func (m member) str(doc []byte) (string, error) {
	if m.isNull() {
		return "", nil
	}
	if m.value[0] != '"' {
		return "", positioned(doc, m.at, fmt.Errorf("%q must be a string", m.key))
	}
	return decodeString(m.value), nil
}

// flag reads a boolean, or its name as a string, which libcni accepts too.
func (m member) flag(doc []byte) (bool, error) {
	text := string(m.value)
	if m.value[0] == '"' {
		text = strings.ToLower(decodeString(m.value))
	}
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, positioned(doc, m.at, fmt.Errorf("%q must be true or false", m.key))
}

// quoteJSON makes a JSON string of s.
func quoteJSON(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // strings always marshal
		return []byte(`""`)
	}
	return b
}

// positioned says where in a document an error is: line and column count from
// 1, the column in characters.
func positioned(doc []byte, offset int, err error) error {
	before := doc[:min(max(offset, 0), len(doc))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("line %d, column %d: %w", line, column, err)
}
