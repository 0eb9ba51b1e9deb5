// Command attach attaches network namespaces to CNI networks from the command
// line. It is an example of what a runtime does with podcni, and of use where a
// network's configuration is to be tried without one.
//
//	attach run -- ip address           a command in a namespace of its own
//	attach add --id web --new-netns    step by step
//	attach del --id web --remove-netns
//
// See attach --help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
)

// Exit statuses of attach's own; attach run passes on its command's.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(start()) }

// start is run with the signals that end it. A second Ctrl-C does not cut short
// the clean-up that the first began: what cleans up is bounded.
func start() int {
	ctx := context.Background()
	var signals []os.Signal
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		// What our parent ignores, such as SIGHUP under nohup, stays ignored.
		if !signal.Ignored(s) {
			signals = append(signals, s)
		}
	}
	if len(signals) > 0 {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, signals...)
		defer stop()
	}
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// command is one of attach's commands.
type command struct {
	name, args, about string
	run               func(ctx context.Context, e *env) error
}

func commands() []command {
	return []command{
		{"run", "-- COMMAND...", "run COMMAND in a new namespace, attached for as long as it runs", runCommand},
		{"add", "", "attach a namespace", add},
		{"check", "", "ask the plugins whether an attachment is as it should be (CHECK)", check},
		{"del", "", "detach a namespace", del},
		{"status", "", "tell whether pods can be attached", status},
		{"networks", "", "list the networks, and the files that were not taken", networks},
		{"watch", "", "print each change of networks and readiness until interrupted", watch},
		{"list", "", "list what is attached", list},
		{"gc", "[ID...]", "detach what this program attached, except the sandboxes named", gc},
		{"forget", "ID...", "drop records without asking any plugin: the last resort", forget},
	}
}

// env is what a command is run with.
type env struct {
	flags
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// errReported says that everything was said already.
var errReported = errors.New("reported")

// statusError is the exit status of a command that attach run ran.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// lineError says what is wrong with the command line.
type lineError string

func (e lineError) Error() string { return string(e) }

func usageError(format string, args ...any) error { return lineError(fmt.Sprintf(format, args...)) }

// run is the whole program, without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(stdout)
		return exitOK
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.main(ctx, args[1:], stdin, stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "attach: there is no command %q; see attach --help\n", args[0])
	return exitUsage
}

func (c *command) main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	e := &env{stdin: stdin, stdout: stdout, stderr: stderr}
	set := e.flagSet(c.name)
	set.SetOutput(io.Discard)
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			c.help(stdout, set)
			return exitOK
		}
		fmt.Fprintf(stderr, "attach %s: %v; see attach %s --help\n", c.name, err, c.name)
		return exitUsage
	}
	e.args = set.Args()
	// Flags end at the first argument. What looks like one after it must not be
	// taken for a sandbox.
	for _, arg := range e.args {
		if c.name != "run" && strings.HasPrefix(arg, "-") {
			fmt.Fprintf(stderr, "attach %s: flags go before other arguments: move %s\n", c.name, arg)
			return exitUsage
		}
	}
	if err := e.absolute(); err != nil {
		e.complain(err)
		return exitFailed
	}
	if e.timeout > 0 && c.name != "run" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.timeout)
		defer cancel()
	}
	err := c.run(ctx, e)
	var exit statusError
	var line lineError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return int(exit)
	case errors.Is(err, errReported):
		return exitFailed
	case errors.As(err, &line):
		fmt.Fprintf(stderr, "attach %s: %v; see attach %s --help\n", c.name, line, c.name)
		return exitUsage
	}
	e.complain(err)
	return exitFailed
}

// complain reports an error, which may be several, and what may help where it
// is of rights.
func (e *env) complain(err error) {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(e.stderr, "attach: %s\n", printable(strings.TrimSuffix(line, "\n")))
	}
	if errors.Is(err, fs.ErrPermission) {
		fmt.Fprintln(e.stderr, "attach: this takes more rights; attach --help says how to do without root")
	}
}

func usage(w io.Writer) {
	fmt.Fprint(w, `attach attaches network namespaces to CNI networks.

Usage: attach COMMAND [flags] [arguments]

Commands:
`)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range commands() {
		fmt.Fprintf(t, "  %s %s\t%s\n", c.name, c.args, c.about)
	}
	t.Flush()
	fmt.Fprint(w, `
Examples:
  attach networks
  attach run --network mynet:eth0 --port 8080:80 -- python3 -m http.server 80
  attach add --id web --new-netns --ip 10.0.0.7 --json
  attach del --id web --remove-netns

Flags are the same for every command: attach COMMAND --help lists them.
Without root, in namespaces and directories of your own (D):
  unshare --user --map-root-user --net --mount attach run \
    --no-strict --netns-dir D/netns --cache-dir D/cache -- COMMAND...

The exit status is 0, 1 if something failed, 2 if the command line is wrong;
that of "attach run" is its command's.
`)
}

func (c *command) help(w io.Writer, set *flag.FlagSet) {
	fmt.Fprintf(w, "attach %s: %s.\n\nUsage: attach %s [flags] %s\n\nFlags:\n", c.name, c.about, c.name, c.args)
	set.SetOutput(w)
	set.PrintDefaults()
}
