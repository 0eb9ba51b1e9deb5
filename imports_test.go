package podcni_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/podcni/podcni"

// goList returns the imports, direct and indirect, of each package.
func goList(t *testing.T, patterns ...string) map[string][]string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command: ", err)
	}
	var stderr strings.Builder
	cmd := exec.Command(path, append([]string{"list", "-f", `{{.ImportPath}}:{{join .Deps " "}}`}, patterns...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	deps := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		name, list, _ := strings.Cut(strings.TrimSpace(line), ":")
		deps[name] = strings.Fields(list)
	}
	return deps
}

// Imports point down only. A room imports the rooms that it builds on, and nothing
// above it.
func TestRoomsImportDownwards(t *testing.T) {
	t.Parallel()
	below := map[string][]string{
		"spec":    nil,
		"proc":    nil,
		"netns":   {"proc", "spec"},
		"locks":   nil,
		"plugin":  {"proc", "spec"},
		"confdir": {"spec"},
		"journal": {"netns", "proc", "spec"},
	}
	rooms := goList(t, "./internal/...")
	require.Len(t, rooms, len(below), "each room has a line here")
	for room, deps := range rooms {
		name := strings.TrimPrefix(room, module+"/internal/")
		require.Contains(t, below, name, "each room has a line here")
		for _, dep := range deps {
			require.NotEqual(t, module, dep, "%s imports the root", room)
			if dep, ok := strings.CutPrefix(dep, module+"/"); ok {
				require.Contains(t, below[name], strings.TrimPrefix(dep, "internal/"), "%s imports %s", room, dep)
			}
		}
	}
}

// Who imports podcni gets no test flags, and nothing heavy.
func TestWhatComesWithTheLibrary(t *testing.T) {
	t.Parallel()
	for _, dep := range goList(t, ".")[module] {
		require.NotEqual(t, "testing", dep)
		require.NotEqual(t, module+"/testutils", dep)
		for _, heavy := range []string{"prometheus", "google.golang.org/grpc", "opentelemetry.io/otel/sdk", "vishvananda/netlink", "go-cni", "testify"} {
			require.NotContains(t, dep, heavy)
		}
	}
}
