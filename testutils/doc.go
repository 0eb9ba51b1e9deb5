// Package testutils helps to test what runs CNI plugins: a container runtime
// that imports podcni, or podcni itself. It is for tests only; it imports
// testing.
//
// # Fake plugins
//
// A runtime can only be judged by what real processes were given, and by what
// it makes of what they do. [NewBinDir] makes a directory of plugins that are
// executables, each of them the running test binary under another name: no
// compiler is needed, and they start in milliseconds. That takes one line:
//
//	func TestMain(m *testing.M) { testutils.Main(m) }
//
// A test then says what each plugin does ([Plugin.On], [Plugin.Next], [Answer]):
// a result, an error with a code, an exit status, garbage, a flood, a delay, a
// hang, a child that is left behind. Afterwards it looks at what the plugins
// were given ([BinDir.Calls]): verb, environment and standard input, exactly.
//
//	bin := testutils.NewBinDir(t)
//	bin.Plugin("bridge").On("ADD", testutils.Answer{Error: types.NewError(11, "not now", "")})
//	...
//	require.Equal(t, []string{"ADD bridge", "DEL bridge"}, testutils.Verbs(bin.Calls(t)))
//
// [Plugin.Gate] stops a plugin in the middle of its work until the test has
// seen what it wants to see. [Plugin.Pool] makes one that keeps account of what
// it has given out, so that a leak shows; [Processes] and [FDs] show what else
// may leak.
//
// # Networks
//
// [NewConfDir] makes a directory of configurations, [List] and [ListJSON] what
// to put there, and the methods of [ConfDir] replace files in the ways in which
// network providers do.
//
// # Real networking
//
// [Sandbox] runs a test as root in namespaces of its own, without root outside
// and without touching the host; [NewNetNS] makes the namespaces of pods there.
//
// # Platforms
//
// Everything works on Linux. On other Unix systems there are no sandboxes and
// no counts of processes and descriptors, and on Windows no gates either: tests
// that ask for them are skipped. Everything builds everywhere.
package testutils
