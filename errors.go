package podcni

import (
	"errors"
	"fmt"
	"strings"
)

// What a caller decides on. Compare with errors.Is; never match text.
var (
	// ErrShutdown answers every call after Shutdown that can fail. Make a new
	// Plugin.
	ErrShutdown = errors.New("podcni is shut down")

	// ErrNotReady is wrapped by Status and WaitReady with the reason why pods
	// cannot be attached. It heals by itself when the reason goes away.
	ErrNotReady = errors.New("network is not ready")

	// ErrNetworkNotFound says that a network is named which is not loaded, or
	// that a pod names none and there is no default. Rejected tells why a file
	// was not taken.
	ErrNetworkNotFound = errors.New("network not found")

	// ErrPluginNotFound says that a plugin's binary is in none of the binary
	// directories. Install it; for a pod that is to be given up, see Forget.
	ErrPluginNotFound = errors.New("plugin not found")

	// ErrAlreadyAttached answers a set-up of a sandbox that has one of the
	// interfaces already. Nothing was run. Tear the pod down first, or choose
	// another interface name.
	ErrAlreadyAttached = errors.New("sandbox is already attached")

	// ErrNotAttached answers CheckPod and GetPodNetworkStatus for a sandbox
	// that is not attached, or not to the network that is asked for.
	ErrNotAttached = errors.New("sandbox is not attached")

	// ErrBusy says that another process is at work on the same sandbox, or that
	// a network could not be had for itself. Try again.
	ErrBusy = errors.New("in use by another operation")

	// ErrInvalidPod says that a PodNetwork cannot be used. The error is a
	// *FieldError that names the field. Nothing was run.
	ErrInvalidPod = errors.New("invalid pod")

	// ErrInvalidOption says that New was given an option that cannot be used.
	// The error is a *FieldError that names it.
	ErrInvalidOption = errors.New("invalid option")

	// ErrInvalidConfig says that a network's configuration cannot be used.
	ErrInvalidConfig = errors.New("invalid network configuration")

	// ErrNetNS says that a path does not lead to a network namespace, or not to
	// one that can be used.
	ErrNetNS = errors.New("not a usable network namespace")

	// ErrUnsupported says that this platform has no such operation.
	ErrUnsupported = errors.New("not supported on this platform")

	// ErrNoOutput says that a plugin succeeded and printed nothing although its
	// verb wants an answer.
	ErrNoOutput = errors.New("plugin printed nothing")

	// ErrBadOutput says that what a plugin printed is not what its verb
	// answers: not JSON, cut off, or of another form.
	ErrBadOutput = errors.New("plugin printed something that is no answer")

	// ErrOutputTooLarge says that a plugin printed more than is read, 4 MiB.
	ErrOutputTooLarge = errors.New("plugin printed too much")

	// ErrVersion says that a plugin does not speak a network's version of the
	// specification, or answers in another one.
	ErrVersion = errors.New("unsupported CNI version")

	// ErrBadRecord says that a record of an attachment cannot be read as one.
	ErrBadRecord = errors.New("unreadable record")

	// ErrNameTaken says that the record of an attachment would share its file
	// with that of another attachment: the names of network, sandbox and
	// interface, joined by '-', are the same. Nothing was run. Choose another
	// interface name.
	ErrNameTaken = errors.New("another attachment has a record of the same name")

	// errNetNSGone is within the package's errors about a namespace: nothing is
	// at its path any more.
	errNetNSGone = fmt.Errorf("%w: nothing is there", ErrNetNS)
)

// FieldError names the field of a PodNetwork, or the option, that cannot be
// used. It unwraps to ErrInvalidPod or ErrInvalidOption and to the cause.
type FieldError struct {
	// Field is the path of the field, for example
	// RuntimeConfig["net"].PortMappings[0].Protocol, or the option's name.
	Field string
	// Value is what was given, cut to a readable length.
	Value string
	// Err is the cause.
	Err error

	kind error
}

// Error names the field, the value and the cause.
func (e *FieldError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("%v: %s: %v", e.kind, e.Field, e.Err)
	}
	return fmt.Sprintf("%v: %s %q: %v", e.kind, e.Field, e.Value, e.Err)
}

// Unwrap gives what kind of error it is, and the cause.
func (e *FieldError) Unwrap() []error { return []error{e.kind, e.Err} }

// longestValue bounds what an error repeats of a caller's value, in bytes.
const longestValue = 128

func invalidField(kind error, field, value string, err error) error {
	if len(value) > longestValue {
		value = value[:longestValue] + "..."
	}
	return &FieldError{Field: field, Value: value, Err: err, kind: kind}
}

// ConfigError says why a configuration, or a network in it, was not taken.
type ConfigError struct {
	// Path is the file, or what stands for it where there is none, such as
	// WithConfList[0].
	Path string
	// Network is the network's name where it could be read.
	Network string
	// Err is the reason.
	Err error
}

// Error names the file, the network and the reason.
func (e *ConfigError) Error() string {
	if e.Network == "" {
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s: network %q: %v", e.Path, e.Network, e.Err)
}

// Unwrap gives the reason.
func (e *ConfigError) Unwrap() error { return e.Err }

// RecordError is about the record of an attachment on disk.
type RecordError struct {
	// Path is the record's file.
	Path string
	// Err is what is wrong with it.
	Err error

	// Of a file that is no record: the attachment that it was the record of, as
	// far as its name tells. certain says that no other reading of the name is
	// likely. network is empty where the name tells nothing.
	network, id, ifName string
	certain             bool
}

// Error names the file and what is wrong with it.
func (e *RecordError) Error() string { return fmt.Sprintf("record %s: %v", e.Path, e.Err) }

// Unwrap gives what is wrong with the record.
func (e *RecordError) Unwrap() error { return e.Err }

// PodError is a failed operation on a pod. It unwraps to what failed: among
// them a *PluginError for each plugin.
type PodError struct {
	// Op is the operation, for example "set up".
	Op string
	// Namespace, Name and ID are the pod's.
	Namespace, Name, ID string
	// Err is the cause, or several joined.
	Err error
}

// Error names the operation, the pod and the cause.
func (e *PodError) Error() string {
	pod := fmt.Sprintf("sandbox %q", e.ID)
	if e.Name != "" {
		name := e.Name
		if e.Namespace != "" {
			name = e.Namespace + "/" + name
		}
		pod = fmt.Sprintf("pod %q (%s)", name, pod)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, pod, e.Err)
}

// Unwrap gives the cause.
func (e *PodError) Unwrap() error { return e.Err }

// PluginError is a run of a plugin that failed. It unwraps to the plugin's own
// *types.Error where the plugin gave one, to the context's error where that
// ended the run, and to ErrPluginNotFound, ErrNoOutput, ErrBadOutput,
// ErrOutputTooLarge or ErrVersion.
type PluginError struct {
	// Verb is the CNI command: ADD, DEL, CHECK, GC, STATUS or VERSION.
	Verb string
	// Network is the network's name.
	Network string
	// Plugin is the plugin's type.
	Plugin string
	// Path is the binary; empty when none was found.
	Path string
	// ContainerID is the sandbox's ID; empty for GC, STATUS and VERSION.
	ContainerID string
	// IfName is the interface's name; empty for GC, STATUS and VERSION.
	IfName string
	// Stderr is the end of what the plugin wrote there, 64 KiB at most.
	Stderr string
	// Exit is the exit status; -1 when the plugin did not exit by itself: it was
	// not started, or was ended by a signal.
	Exit int
	// TimedOut says that the plugin ran into its time limit, not into the end
	// of the caller's context.
	TimedOut bool
	// Err is the cause.
	Err error
}

// stderrInError bounds how much of a plugin's stderr an error's text repeats,
// in bytes. Stderr has the rest.
const stderrInError = 512

// Error names the plugin, the network, the verb, the attachment, the exit
// status, the cause and the end of stderr.
func (e *PluginError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plugin %q", e.Plugin)
	if e.Network != "" {
		fmt.Fprintf(&b, " of network %q", e.Network)
	}
	fmt.Fprintf(&b, ": %s", e.Verb)
	if e.ContainerID != "" {
		fmt.Fprintf(&b, " of sandbox %s (%s)", e.ContainerID, e.IfName)
	}
	if e.Exit > 0 {
		fmt.Fprintf(&b, ": exit status %d", e.Exit)
	}
	if e.TimedOut {
		b.WriteString(": timed out")
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if tail := strings.TrimSpace(e.Stderr); tail != "" {
		if len(tail) > stderrInError {
			tail = "..." + tail[len(tail)-stderrInError:]
		}
		fmt.Fprintf(&b, "; stderr: %q", tail)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *PluginError) Unwrap() error { return e.Err }
