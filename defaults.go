package podcni

import "path/filepath"

// defaultPluginEnv is what of our environment plugins see unless
// WithPluginEnv says otherwise.
var defaultPluginEnv = append([]string{"PATH", "HOME", "TMPDIR"}, platformPluginEnv...)

func absolute(path string) (string, error) { return filepath.Abs(path) }
