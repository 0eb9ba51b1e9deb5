package podcni_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/podcni/podcni/testutils"
)

// TestMain runs every test of the package in one sandbox of user, mount and
// network namespaces, so that pods are real and the host is never touched.
func TestMain(m *testing.M) {
	main := testutils.MainInSandbox
	if os.Getenv(runtimeEnv) != "" || os.Getenv("PODCNI_TEST_NO_WAY_BACK") != "" {
		main = testutils.Main // it shares the sandbox of the test that started it
	}
	main(m, func() error { return goleak.Find() })
}
