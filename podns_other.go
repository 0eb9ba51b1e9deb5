//go:build !linux

package podcni

// preparePodNetNS has nothing to prepare: a pod's namespace is a name here,
// which plugins are handed as it is.
func preparePodNetNS(string) (NetNSID, error) { return NetNSID{}, nil }

// identifyNetNS finds nothing that tells one namespace from another.
func identifyNetNS(string) (NetNSID, error) { return NetNSID{}, nil }

// bootID is not known.
func bootID() string { return "" }
