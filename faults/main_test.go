package faults_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/podcni/podcni/testutils"
)

// TestMain runs every test of the package in one sandbox of user, mount and
// network namespaces, so that pods are real and the host is never touched.
func TestMain(m *testing.M) {
	// Most tests wait for processes: more of them than there are processors can run
	// at once.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	main := testutils.MainInSandbox
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "PODCNI_TEST_") {
			main = testutils.Main // a test started us, and we share its sandbox
		}
	}
	main(m, func() error { return goleak.Find() })
}
