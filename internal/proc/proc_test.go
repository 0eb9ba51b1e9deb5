package proc_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/internal/proc"
)

func TestSameBoot(t *testing.T) {
	t.Parallel()
	const id = "0c1a9d2e-7c0e-4a5f-9f0b-5d5d3f0e7a11"
	for name, tt := range map[string]struct {
		a, b string
		same bool
	}{
		"equal":                             {id, id, true},
		"different":                         {id, "other", false},
		"both unknown":                      {"", "", false},
		"one unknown":                       {id, "", false},
		"clock, equal":                      {"@123", "@123", true},
		"clock, set by five seconds":        {"@123", "@128", true},
		"clock, set back by five seconds":   {"@128", "@123", true},
		"clock, set by six seconds":         {"@123", "@129", false},
		"clock, set back by six seconds":    {"@129", "@123", false},
		"clock and kernel":                  {"@123", id, false},
		"clock and unknown":                 {"@123", "", false},
		"clock and a number":                {"@123", "123", false},
		"no number":                         {"@x", "@123", false},
		"a number that is too large to use": {"@123", "@99999999999999999999", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.same, proc.SameBoot(tt.a, tt.b))
			require.Equal(t, tt.same, proc.SameBoot(tt.b, tt.a))
		})
	}
}

func TestNobodyIsNotAlive(t *testing.T) {
	t.Parallel()
	require.False(t, proc.ID{}.Alive())
	boot := proc.Self().BootID
	for _, pid := range []int{0, -1, -os.Getpid()} {
		require.False(t, proc.ID{PID: pid, BootID: boot}.Alive(), pid)
	}
}
