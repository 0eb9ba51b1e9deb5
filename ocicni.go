package podcni

import "path/filepath"

// IpRange is ocicni's name for [IPRange].
type IpRange = IPRange

// InitCNI is [New] with the arguments of github.com/cri-o/ocicni. It watches
// confDir, loads networks from there, and finds plugins in binDirs. It runs CHECK
// in GetPodNetworkStatus for networks of version 0.4.0 and later, and passes on
// CNI_ARGS of the environment. An empty defaultNetName means the first network. An
// empty confDir and no binDirs mean the defaults. Relative paths are taken from the
// working directory.
//
// Unlike in ocicni, plugins see no more of the environment than [WithPluginEnv]
// gives them by default, and it is an error to attach an interface that is
// attached already.
func InitCNI(defaultNetName, confDir string, binDirs ...string) (CNIPlugin, error) {
	return initCNI(defaultNetName, confDir, "", binDirs)
}

// InitCNIWithCache is InitCNI with a cache directory; empty is the default.
func InitCNIWithCache(defaultNetName, confDir, cacheDir string, binDirs ...string) (CNIPlugin, error) {
	return initCNI(defaultNetName, confDir, cacheDir, binDirs)
}

// InitCNINoInotify is InitCNIWithCache that loads networks once, and does not watch
// the directory.
func InitCNINoInotify(defaultNetName, confDir, cacheDir string, binDirs ...string) (CNIPlugin, error) {
	return initCNI(defaultNetName, confDir, cacheDir, binDirs, WithoutWatch())
}

func initCNI(defaultNetName, confDir, cacheDir string, binDirs []string, more ...Option) (CNIPlugin, error) {
	opts := append([]Option{WithDefaultNetwork(defaultNetName), WithCheckOnGetStatus(), passCNIArgs()}, more...)
	if confDir != "" {
		dir, err := filepath.Abs(confDir)
		if err != nil {
			return nil, invalidField(ErrInvalidOption, "confDir", confDir, err)
		}
		opts = append(opts, WithConfDir(dir))
	}
	if cacheDir != "" {
		dir, err := filepath.Abs(cacheDir)
		if err != nil {
			return nil, invalidField(ErrInvalidOption, "cacheDir", cacheDir, err)
		}
		opts = append(opts, WithCacheDir(dir))
	}
	if len(binDirs) > 0 {
		dirs := make([]string, len(binDirs))
		for i, dir := range binDirs {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return nil, invalidField(ErrInvalidOption, "binDirs", dir, err)
			}
			dirs[i] = abs
		}
		opts = append(opts, WithBinDirs(dirs...))
	}
	p, err := New(opts...)
	if err != nil {
		return nil, err
	}
	return p, nil
}
