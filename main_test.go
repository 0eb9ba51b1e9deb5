package podcni_test

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/podcni/podcni/testutils"
)

// TestMain runs every test of the package in one sandbox of user, mount and
// network namespaces, so that pods are real and the host is never touched.
func TestMain(m *testing.M) {
	main := testutils.MainInSandbox
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "PODCNI_TEST_") {
			main = testutils.Main // a test started us, and we share its sandbox
		}
	}
	main(m, func() error { return goleak.Find() })
}
