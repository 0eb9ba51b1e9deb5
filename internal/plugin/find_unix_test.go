//go:build unix

package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFind(t *testing.T) {
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
	r := New(Options{BinDirs: dirs})

	for typ, want := range map[string]string{"plain": usablePlain, "both": both, "link": link} {
		path, err := r.Find(typ)
		require.NoError(t, err, typ)
		require.Equal(t, want, path)
	}
	for typ, is := range map[string]error{
		"noexec": errNotExecutable, "folder": errNotRegular, "missing": ErrNotFound, "dangling": ErrNotFound,
		strings.Repeat("x", 255): ErrNotFound,
	} {
		_, err := r.Find(typ)
		require.ErrorIs(t, err, ErrNotFound, typ)
		require.ErrorIs(t, err, is, typ)
		for _, d := range dirs {
			require.ErrorContains(t, err, d)
		}
	}
	for _, typ := range []string{"", ".", "..", "../first/both", "a\\b", "a\x00", strings.Repeat("x", 5000)} {
		_, err := r.Find(typ)
		require.ErrorIs(t, err, ErrNotFound, typ)
		require.Less(t, len(err.Error()), 500)
	}
	_, err := New(Options{BinDirs: []string{"first"}}).Find("both")
	require.ErrorIs(t, err, errNotAbsolute)
	_, err = New(Options{BinDirs: []string{filepath.Join(both, "x")}}).Find("both")
	require.ErrorIs(t, err, syscall.ENOTDIR)
}
