// Package podcni is the runtime side of CNI: a container runtime hands it a pod
// and gets the pod attached to its networks, told about them, and detached again.
// It replaces github.com/cri-o/ocicni v0.5 by a change of one import:
//
//	import ocicni "github.com/podcni/podcni"
//
// # Concepts
//
// A network is a configured chain of plugins; a plugin is a program in one of the
// binary directories. A sandbox is the network namespace of a pod, known by an
// ID. An attachment is one interface of a sandbox on one network. The words are
// those of the CNI specification, https://www.cni.dev/docs/spec/, which comments
// cite by section.
//
// A [Plugin], made by [New], loads networks from a directory that it watches,
// and keeps a record on disk of every attachment, in libcni's format and place.
// Everything after ADD goes by the record and not by what is configured now: DEL
// and CHECK are told what ADD was told. The example of the package is a pod's
// whole life.
//
// # Guarantees
//
// Nothing leaks. A record is written before an attachment's first plugin runs and
// dropped after its DEL succeeded, whatever dies in between: [Plugin.TearDownPod]
// and [Plugin.GC] find what a killed runtime left half done, end plugins that are
// still at it, and detach it. [Plugin.SetUpPod] attaches all of a pod's networks
// or none. What cannot be undone stays recorded, is named in the error, and is
// listed by [Plugin.Attachments]. DEL is sent also when the namespace is gone, and
// never into a namespace that has taken its place.
//
// Nothing blocks. Every run of a plugin has a time limit, after which its whole
// process group is ended; a pipe that some orphan holds is not waited for. While a
// plugin hangs, other pods, changes of the configuration and [Plugin.Status] go
// on. Every wait ends with the caller's context, but for detaching, which has a
// grace of its own.
//
// Everything is explained. Errors name the pod, the network, the plugin, the verb,
// the exit status and the end of stderr, and are told apart with [errors.Is] and
// [errors.As], never by their text. [Plugin.Status] says why pods cannot be
// attached, [Plugin.Rejected] why a file was not taken.
//
// # Errors
//
// Operations on pods fail with a [*PodError]. Below it, a [*FieldError] wraps
// [ErrInvalidPod] before anything has run, a [*PluginError] is a run of a plugin,
// and a [*RecordError] is about a record's file. The sentinels say what each means
// for the caller.
//
// # Concurrency
//
// A Plugin is safe for concurrent use. Locks are taken in this order, and each
// under the caller's context: the sandbox's lock in this process; the sandbox's
// lock between processes, a byte of a file in the cache directory; a shared hold
// of the network, which GC takes alone; a place among those of
// [WithMaxConcurrent]. No other lock is held while a plugin or a callback runs.
//
// # Platforms
//
// Linux is complete. On FreeBSD, Windows and macOS the package builds and hands
// the value of [PodNetwork.NetNS] to plugins as it is; namespaces cannot be made
// or looked into, and other processes are not locked out. Nothing was run there.
package podcni
