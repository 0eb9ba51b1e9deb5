package podcni

import (
	"os"
	"runtime"
	"strings"
)

// baseEnv is the environment that every plugin gets: what of ours is let
// through, in our order, then what is set outright, then CNI_PATH.
func baseEnv(let, binDirs, ours []string) []string {
	var env []string
	at := make(map[string]int)
	put := func(kv string) {
		name := envName(kv)
		if name == "" || strings.HasPrefix(name, "CNI_") {
			return
		}
		if i, ok := at[name]; ok {
			env[i] = kv
			return
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	for _, kv := range ours {
		if letThrough(let, envName(kv)) {
			put(kv)
		}
	}
	for _, pattern := range let {
		if strings.Contains(pattern, "=") {
			put(pattern)
		}
	}
	return append(env, "CNI_PATH="+cniPath(binDirs))
}

func cniPath(binDirs []string) string { return strings.Join(binDirs, string(os.PathListSeparator)) }

// letThrough tells whether one of the patterns NAME and PREFIX* fits.
func letThrough(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if strings.Contains(pattern, "=") {
			continue
		}
		pattern = foldEnvName(pattern)
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(name, prefix) || name == pattern {
			return true
		}
	}
	return false
}

// envName is the name in NAME=value, empty if there is none, as on Windows in
// the variables that begin with "=".
func envName(kv string) string {
	name, _, ok := strings.Cut(kv, "=")
	if !ok {
		return ""
	}
	return foldEnvName(name)
}

// foldEnvName makes names equal that the platform takes for one.
func foldEnvName(name string) string {
	if runtime.GOOS == "windows" {
		return strings.ToUpper(name)
	}
	return name
}

// environ is the whole environment of one run of a plugin (specification,
// section 2, "Parameters"). A DEL whose namespace is gone has an empty
// CNI_NETNS; args that are empty are left out; GC, STATUS and VERSION are about
// no container. The caller owns what it gets.
func (r *runner) environ(verb, containerID, netNS, ifName, args string) []string {
	env := make([]string, len(r.env), len(r.env)+5)
	copy(env, r.env)
	env = append(env, "CNI_COMMAND="+verb)
	switch verb {
	case verbAdd, verbDel, verbCheck:
		env = append(env, "CNI_CONTAINERID="+containerID, "CNI_NETNS="+netNS, "CNI_IFNAME="+ifName)
		if args != "" {
			env = append(env, "CNI_ARGS="+args)
		}
	}
	return env
}
