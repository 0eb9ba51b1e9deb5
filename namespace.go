package podcni

// NetNSID tells one network namespace from another.
type NetNSID struct {
	// Dev and Ino are the device and inode of the namespace. Inodes are used
	// again once a namespace is gone, so that alone they are no proof.
	Dev uint64 `json:"dev,omitempty"`
	Ino uint64 `json:"ino,omitempty"`
	// BootID is the kernel's boot ID: nothing of an earlier boot is alive.
	BootID string `json:"bootID,omitempty"`
	// Cookie is the kernel's own number of the namespace, never used again
	// before a reboot; 0 where the kernel has none (before Linux 5.14).
	Cookie uint64 `json:"cookie,omitempty"`
}
