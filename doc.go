// Package podcni is the runtime side of CNI. A container runtime gives it a pod;
// podcni attaches the pod to its networks, returns the addresses, and detaches the
// pod later. It runs plugins through libcni. A runtime that uses
// github.com/cri-o/ocicni v0.5 changes one import:
//
//	import ocicni "github.com/podcni/podcni"
//
// # Concepts
//
// A network is a configured chain of plugins. A plugin is a program in one of the
// binary directories. A sandbox is a pod's network namespace, known by an ID. An
// attachment is one interface of a sandbox on one network. These are the words of
// the CNI specification, https://www.cni.dev/docs/spec/. Comments cite its
// sections.
//
// A [CNI], made by [New], loads networks from a directory that it watches, and
// records every attachment on disk. After ADD, everything goes by the record and
// not by the present configuration: DEL and CHECK are told what ADD was told. The
// package's example is a pod's whole life.
//
// # Guarantees
//
// Nothing is forgotten. podcni writes the record before an attachment's first
// plugin runs, and drops it after DEL has succeeded. When the runtime dies in
// between, [CNI.TearDownPod] and [CNI.GC] find what it left, end the plugins that
// are still at work, and detach. [CNI.SetUpPod] attaches all of a pod's networks,
// or none. What cannot be undone stays recorded, is named in the error, and is
// listed by [CNI.Attachments]. DEL is sent also when the namespace is gone, and
// never into a namespace that has taken its place.
//
// Nobody waits for another pod. Every run of a plugin has a time limit, after
// which podcni kills its process group. While a plugin hangs, other pods, changes
// of the configuration and [CNI.Status] go on. A wait ends with the caller's
// context. Detaching may go on for a while after that: see [WithTeardownGrace].
//
// Everything is explained. An error names the pod, the network, the plugin, the
// verb, the exit status and the end of stderr. [CNI.Status] says why pods cannot
// be attached, [CNI.Rejected] why podcni does not use a file.
//
// The file docs/guarantees.md of the repository has the limits of each guarantee,
// and the tests that show it.
//
// # Errors
//
// Tell errors apart with [errors.Is] and [errors.As], never by their text.
// Operations on pods return a [*PodError]. It wraps a [*FieldError] for a pod that
// cannot be used (then nothing has run), a [*PluginError] for each run of a plugin
// that failed, a [*RecordError] for a file on disk, or the context's error. The
// sentinels, such as [ErrNotReady] and [ErrAlreadyAttached], say what the caller
// can do.
//
// # Concurrency
//
// A CNI is safe for concurrent use. It takes locks in this order, each under the
// caller's context:
//
//  1. the sandbox, in this process
//  2. the sandbox, between processes: a byte of the lock file
//  3. a share of the network, in this process and then between processes; GC takes
//     the network alone
//  4. a place among those of [WithMaxConcurrent]
//
// While a plugin runs, podcni holds these and no other lock.
//
// # On disk
//
// Everything is in the cache directory: see [WithCacheDir].
//
//	results/<network>-<sandbox>-<interface>  the results, which libcni writes and removes
//	podcni/<sandbox>                         the journal of a sandbox
//	podcni/~<sandbox>                        a journal that is being written
//	podcni/.unreadable/<sandbox>             a journal that could not be read
//	podcni/.lock                             the lock file, which stays empty
//
// A journal says what is attached or about to be. Its lines are JSON objects. It
// survives the death of the process, and with [WithFsync] the loss of power. The
// first set-up creates the directories. Only their owner can read them.
//
// # Platforms
//
// Linux is complete. On FreeBSD, Windows and macOS the package builds, and passes
// [PodNetwork.NetNS] to plugins as it is. There, namespaces cannot be made or
// opened ([ErrUnsupported]), processes do not lock each other out, and plugins of
// a dead runtime are not looked for. No test has run there.
package podcni
