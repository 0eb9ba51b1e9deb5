package netns_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/podcni/podcni/testutils"
)

// TestMain runs the tests in one sandbox. A process that a test starts is in
// that sandbox already.
func TestMain(m *testing.M) {
	main := testutils.MainInSandbox
	if os.Getenv(noWayBack) != "" {
		main = testutils.Main
	}
	main(m, func() error { return goleak.Find() })
}

// noWayBack is set in a process whose user namespace owns neither its network
// namespace nor the one at the path that the variable names.
const noWayBack = "PODCNI_TEST_NO_WAY_BACK"
