package integration_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/podcni/podcni/testutils"
)

func TestMain(m *testing.M) {
	testutils.Main(m, func() error { return goleak.Find() })
}
