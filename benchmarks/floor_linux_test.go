package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStart runs a plugin that is a shell script, as the floor does.
func TestStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "plugin")
	script := "#!/bin/sh\nread -r line\necho \"$CNI_COMMAND $line\"\nexit ${STATUS:-0}\n"
	require.NoError(t, os.WriteFile(path, []byte(script), 0o755))

	out, err := start(path, []byte("config\n"), []string{"CNI_COMMAND=ADD"})
	require.NoError(t, err)
	require.Equal(t, "ADD config\n", string(out))

	_, err = start(path, []byte("config\n"), []string{"STATUS=3"})
	require.ErrorContains(t, err, "status 3")
	_, err = start(path+"-not-there", nil, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}
