package podcni_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// The example in README.md is the Example of the package, which compiles.
func TestReadmeExample(t *testing.T) {
	t.Parallel()
	_, code, found := strings.Cut(readText(t, "README.md"), "```go\n")
	require.True(t, found)
	code, _, found = strings.Cut(code, "```")
	require.True(t, found)

	_, body, found := strings.Cut(readText(t, "example_test.go"), "\nfunc Example() {\n")
	require.True(t, found)
	body, _, found = strings.Cut(body, "\n}\n")
	require.True(t, found)
	body = regexp.MustCompile(`(?m)^\t`).ReplaceAllString(body, "")
	require.Equal(t, body, strings.TrimRight(code, "\n"))
}

// anchors returns what can follow '#' in a link to a document: its headings, as
// GitHub names them.
func anchors(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		plain := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(plain, " ", "-"))
	}
	return all
}

// Each file and each heading exists that the documents link to.
func TestDocumentLinks(t *testing.T) {
	t.Parallel()
	var documents []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, found)
		documents = append(documents, found...)
	}
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	for _, document := range documents {
		for _, m := range link.FindAllStringSubmatch(readText(t, document), -1) {
			path := document
			if m[1] != "" {
				path = filepath.Join(filepath.Dir(document), m[1])
			}
			require.FileExists(t, path, "linked from %s", document)
			if m[2] != "" {
				require.Contains(t, anchors(readText(t, path)), m[2], "linked from %s", document)
			}
		}
	}
}

// Each promise of README.md has a section in docs/guarantees.md with the tests that
// show it, and each section has a promise.
func TestReadmeGuarantees(t *testing.T) {
	t.Parallel()
	_, list, found := strings.Cut(readText(t, "README.md"), "\n## Guarantees\n")
	require.True(t, found)
	list, _, _ = strings.Cut(list, "\n## ")
	var promises []string
	for item := range strings.SplitSeq(list, "\n- ") {
		if m := regexp.MustCompile(`^\*\*\[(.+)\]\(docs/guarantees\.md#`).FindStringSubmatch(item); m != nil {
			promises = append(promises, m[1])
		}
	}
	require.NotEmpty(t, promises)
	require.Len(t, promises, strings.Count(list, "\n- "), "each promise links to its section")

	sections := strings.Split(readText(t, "docs/guarantees.md"), "\n## ")[1:]
	titles := make([]string, len(sections))
	for i, section := range sections {
		titles[i], _, _ = strings.Cut(section, "\n")
		requireTests(t, section)
	}
	require.Equal(t, promises, titles)
}

// requireTests checks that the tests exist which a section of docs/guarantees.md
// names: a list with an item for each package.
func requireTests(t *testing.T, section string) {
	t.Helper()
	_, list, found := strings.Cut(section, "\nTests\n")
	require.True(t, found, section)
	items := strings.Split(list, "\n- ")[1:]
	require.NotEmpty(t, items, section)
	for _, item := range items {
		names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(item, -1)
		require.Greater(t, len(names), 1, item)
		files, err := filepath.Glob(filepath.Join(names[0][1], "*_test.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files, item)
		var source strings.Builder
		for _, file := range files {
			source.WriteString(readText(t, file))
		}
		for _, name := range names[1:] {
			require.Contains(t, source.String(), "\nfunc "+name[1]+"(", "package %s has no %s", names[0][1], name[1])
		}
	}
}

// CONTRIBUTING.md names each room and each file of the root package, and no file
// that does not exist.
func TestContributingMap(t *testing.T) {
	t.Parallel()
	text := readText(t, "CONTRIBUTING.md")
	for _, name := range regexp.MustCompile("`([a-z_]+\\.go)`").FindAllStringSubmatch(text, -1) {
		require.FileExists(t, name[1])
	}
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			require.Contains(t, text, "`"+file+"`")
		}
	}
	rooms, err := os.ReadDir("internal")
	require.NoError(t, err)
	for _, room := range rooms {
		require.Contains(t, text, "`internal/"+room.Name()+"`")
	}
}
