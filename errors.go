package podcni

import (
	"errors"
	"fmt"
	"strings"

	"github.com/podcni/podcni/internal/confdir"
	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/locks"
	"github.com/podcni/podcni/internal/netns"
	"github.com/podcni/podcni/internal/plugin"
)

// Errors that callers can test with errors.Is. Their texts may change.
var (
	// ErrShutdown is returned after Shutdown by every call that can fail. Make a
	// new CNI.
	ErrShutdown = errors.New("podcni is shut down")

	// ErrNotReady is wrapped by Status and WaitReady, with the reason why pods
	// cannot be attached. Status returns nil again when the reason is gone.
	ErrNotReady = errors.New("network is not ready")

	// ErrNetworkNotFound means that the named network is not loaded, or that the
	// pod names no network and there is no default network. The error gives the
	// reason if Rejected has it.
	ErrNetworkNotFound = confdir.ErrNotFound

	// ErrPluginNotFound means that a plugin's binary is in none of the binary
	// directories. Install it. If it will never come back, see CNI.Forget.
	ErrPluginNotFound = plugin.ErrNotFound

	// ErrAlreadyAttached is returned by a set-up of a sandbox that has one of the
	// interfaces already. Nothing was run. Tear the pod down first, or choose
	// another interface.
	ErrAlreadyAttached = errors.New("sandbox is already attached")

	// ErrNotAttached is returned by CheckPod and GetPodNetworkStatus for a sandbox
	// that is not attached, or not to the network that is asked for.
	ErrNotAttached = errors.New("sandbox is not attached")

	// ErrBusy means that another process is at work on the sandbox, or that
	// somebody else has a network. Try again.
	ErrBusy = locks.ErrBusy

	// ErrInvalidPod means that a PodNetwork cannot be used. The error is a
	// *FieldError. Nothing was run.
	ErrInvalidPod = errors.New("invalid pod")

	// ErrInvalidOption means that New cannot use an option. The error is a
	// *FieldError.
	ErrInvalidOption = errors.New("invalid option")

	// ErrInvalidConfig means that a network's configuration cannot be used.
	ErrInvalidConfig = confdir.ErrInvalid

	// ErrNetNS means that a path does not lead to a network namespace, or not to
	// one that can be used.
	ErrNetNS = netns.ErrNotNetNS

	// ErrUnsupported means that this platform has no such operation. It is
	// errors.ErrUnsupported.
	ErrUnsupported = errors.ErrUnsupported

	// ErrNoOutput means that a plugin exited with success and printed nothing,
	// although its verb wants an answer.
	ErrNoOutput = plugin.ErrNoOutput

	// ErrBadOutput means that what a plugin printed is not what its verb wants: not
	// JSON, cut off, with a line of a log beside it, or of another form.
	ErrBadOutput = plugin.ErrBadOutput

	// ErrOutputTooLarge means that a plugin printed more than 4 MiB.
	ErrOutputTooLarge = plugin.ErrOutputTooLarge

	// ErrVersion means that a plugin does not speak a network's version of the
	// specification, or answers in one that is not known.
	ErrVersion = confdir.ErrVersion

	// ErrBadRecord means that a record of attachments cannot be read.
	ErrBadRecord = journal.ErrUnreadable

	// ErrNameTaken means that two attachments would use the same file for libcni's
	// result. The file's name joins network, sandbox and interface with '-'.
	// Nothing was run. Choose another interface.
	ErrNameTaken = journal.ErrNameTaken
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

// Unwrap returns what kind of error it is, and the cause.
func (e *FieldError) Unwrap() []error { return []error{e.kind, e.Err} }

// longestValue bounds what an error repeats of a caller's value, in bytes.
const longestValue = 128

// short cuts a value to what an error may repeat.
func short(value string) string {
	if len(value) > longestValue {
		return value[:longestValue] + "..."
	}
	return value
}

func invalidField(kind error, field, value string, err error) error {
	return &FieldError{Field: field, Value: short(value), Err: err, kind: kind}
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

// Unwrap returns the reason.
func (e *ConfigError) Unwrap() error { return e.Err }

// RecordError is about a file that records attachments: a sandbox's journal, a
// result of libcni, or the file of the locks.
type RecordError struct {
	// Path is the file.
	Path string
	// Err is what is wrong with it.
	Err error
}

// recordError makes the public error of the journal's and of the lock file's.
func recordError(err error) error {
	if e := (*journal.Error)(nil); errors.As(err, &e) {
		return &RecordError{Path: e.Path, Err: e.Err}
	}
	if e := (*locks.FileError)(nil); errors.As(err, &e) {
		return &RecordError{Path: e.Path, Err: e.Err}
	}
	return err
}

// Error names the file and what is wrong with it.
func (e *RecordError) Error() string { return fmt.Sprintf("record %s: %v", e.Path, e.Err) }

// Unwrap returns what is wrong with it.
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

// Unwrap returns the cause.
func (e *PodError) Unwrap() error { return e.Err }

// PluginError is a run of a plugin that failed. It wraps the plugin's own
// *types.Error if the plugin printed one, the context's error if that ended the
// run, context.DeadlineExceeded if the time limit did, or ErrPluginNotFound,
// ErrNoOutput, ErrBadOutput, ErrOutputTooLarge, ErrVersion, ErrNetNS.
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
	fmt.Fprintf(&b, ": %v", e.Err)
	if tail := strings.TrimSpace(e.Stderr); tail != "" {
		if len(tail) > stderrInError {
			tail = "..." + tail[len(tail)-stderrInError:]
		}
		fmt.Fprintf(&b, "; stderr: %q", tail)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *PluginError) Unwrap() error { return e.Err }
