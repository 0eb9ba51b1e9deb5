package plugin

import (
	"flag"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is for what ought to happen at once, on a machine that is busy.
const patience = time.Minute

// playRole is what a process does that a test started as something else than a
// test, by the variable PLUGIN_TEST_ROLE; it does not return then.
var playRole = func(string) {}

func TestMain(m *testing.M) {
	playRole(os.Getenv("PLUGIN_TEST_ROLE"))
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" {
		// Most tests wait for processes.
		if err := flag.Set("test.parallel", "16"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}
