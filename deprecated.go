package podcni

// IpRange is the name that ocicni has for [IPRange].
//
// Deprecated: use IPRange.
type IpRange = IPRange

// InitCNI is New as github.com/cri-o/ocicni has it: it watches confDir, loads
// networks from there and plugins from binDirs, runs CHECK in
// GetPodNetworkStatus for networks of version 0.4.0 and later, and passes on
// CNI_ARGS of the environment. An empty defaultNetName takes the first network;
// an empty confDir and no binDirs take the defaults. Relative paths are taken
// from the working directory.
//
// Unlike there, plugins see no more of the environment than [WithPluginEnv]
// gives them by default, and to attach an interface that is attached already is
// an error.
//
// Deprecated: use New.
func InitCNI(defaultNetName, confDir string, binDirs ...string) (CNIPlugin, error) {
	return initCNI(defaultNetName, confDir, "", binDirs)
}

// InitCNIWithCache is InitCNI with a cache directory; empty is the default.
//
// Deprecated: use New with WithCacheDir.
func InitCNIWithCache(defaultNetName, confDir, cacheDir string, binDirs ...string) (CNIPlugin, error) {
	return initCNI(defaultNetName, confDir, cacheDir, binDirs)
}

// InitCNINoInotify is InitCNIWithCache that loads networks once and does not
// watch the directory.
//
// Deprecated: use New with WithCacheDir and WithoutWatch.
func InitCNINoInotify(defaultNetName, confDir, cacheDir string, binDirs ...string) (CNIPlugin, error) {
	return initCNI(defaultNetName, confDir, cacheDir, binDirs, WithoutWatch())
}

func initCNI(defaultNetName, confDir, cacheDir string, binDirs []string, more ...Option) (CNIPlugin, error) {
	opts := append([]Option{WithDefaultNetwork(defaultNetName), WithStatusCheck(), passCNIArgs()}, more...)
	if confDir != "" {
		dir, err := absolute(confDir)
		if err != nil {
			return nil, invalidField(ErrInvalidOption, "confDir", confDir, err)
		}
		opts = append(opts, WithConfDir(dir))
	}
	if cacheDir != "" {
		dir, err := absolute(cacheDir)
		if err != nil {
			return nil, invalidField(ErrInvalidOption, "cacheDir", cacheDir, err)
		}
		opts = append(opts, WithCacheDir(dir))
	}
	if len(binDirs) > 0 {
		dirs := make([]string, len(binDirs))
		for i, dir := range binDirs {
			abs, err := absolute(dir)
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
