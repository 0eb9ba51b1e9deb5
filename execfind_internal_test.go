//go:build unix

package podcni

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFindPlugin(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := func(name string) string {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(path, 0o755))
		return path
	}
	first, second := dir("first"), dir("second")
	write := func(path string, mode os.FileMode) string {
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), mode))
		return path
	}
	write(filepath.Join(first, "plain"), 0o644)
	usablePlain := write(filepath.Join(second, "plain"), 0o755)
	both := write(filepath.Join(first, "both"), 0o755)
	write(filepath.Join(second, "both"), 0o755)
	write(filepath.Join(second, "noexec"), 0o644)
	dir("first/folder")
	link := filepath.Join(first, "link")
	require.NoError(t, os.Symlink(both, link))
	require.NoError(t, os.Symlink(filepath.Join(root, "nowhere"), filepath.Join(first, "dangling")))
	dirs := []string{filepath.Join(root, "none"), first, second}

	for typ, want := range map[string]string{"plain": usablePlain, "both": both, "link": link} {
		path, err := findPlugin(dirs, typ)
		require.NoError(t, err, typ)
		require.Equal(t, want, path)
	}
	for typ, is := range map[string]error{
		"noexec": errNotExecutable, "folder": errNotRegular, "missing": nil, "dangling": nil,
		"": errPluginName, ".": errPluginName, "..": errPluginName, "../first/both": errPluginName,
		"a\\b": errPluginName, "a\x00": errPluginName, strings.Repeat("x", 5000): syscall.ENAMETOOLONG,
	} {
		_, err := findPlugin(dirs, typ)
		require.ErrorIs(t, err, ErrPluginNotFound, typ)
		if is != nil {
			require.ErrorIs(t, err, is, typ)
		}
		if !errors.Is(err, errPluginName) {
			for _, d := range dirs {
				require.Contains(t, err.Error(), d)
			}
		}
	}
	_, err := findPlugin([]string{"first"}, "both")
	require.ErrorIs(t, err, errNotAbsolute)
	_, err = testRunner(t, WithBinDirs(dirs...)).find("missing")
	require.ErrorIs(t, err, ErrPluginNotFound)
}
