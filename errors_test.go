package podcni_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni"
)

// A pod's names are whatever the caller was given: in a log they stay one line.
func TestPodErrorText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  podcni.PodError
		want string
	}{
		{podcni.PodError{ID: "4f2a"}, `set up sandbox "4f2a": no`},
		{podcni.PodError{ID: "4f2a", Namespace: "default"}, `set up sandbox "4f2a": no`},
		{podcni.PodError{ID: "4f2a", Name: "web"}, `set up pod "web" (sandbox "4f2a"): no`},
		{podcni.PodError{ID: "4f2a", Namespace: "default", Name: "we\nb"}, `set up pod "default/we\nb" (sandbox "4f2a"): no`},
	} {
		test.err.Op, test.err.Err = "set up", errors.New("no")
		require.EqualError(t, &test.err, test.want)
	}
}
