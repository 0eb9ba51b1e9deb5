// The command bench measures what podcni adds to the plugins that it runs,
// beside libcni and go-cni, which do the same work in turn within one run, and
// beside the floor, which only starts the plugins' processes. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// settings are the command line.
type settings struct {
	jsonPath string
	plotsDir string
	only     *regexp.Regexp
	smoke    bool
	plugins  string // directory of the reference plugins; empty: left out
	dir      string // where the work directory is made
	workDir  string // it, in the sandbox; empty: not in the sandbox yet
	goNoop   bool   // noop is the Go one: there is no C compiler
	profiles profiles
}

func parse(args []string, stderr io.Writer) (settings, error) {
	s := settings{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.jsonPath, "json", "", "write everything that was measured to this `file`")
	flags.StringVar(&s.plotsDir, "plots", "", "write one SVG per figure to this `directory`")
	flags.BoolVar(&s.smoke, "smoke", false, "run each figure once, small: to see that it works, not how fast")
	flags.StringVar(&s.plugins, "plugins", os.Getenv("PODCNI_PLUGINS"), "`directory` of the CNI reference plugins")
	flags.StringVar(&s.profiles.cpu, "cpuprofile", "", "write a CPU profile to this `file`")
	flags.StringVar(&s.profiles.block, "blockprofile", "", "write a profile of blocking to this `file`")
	flags.StringVar(&s.profiles.mutex, "mutexprofile", "", "write a profile of contended mutexes to this `file`")
	flags.StringVar(&s.dir, "dir", "", "`directory` to keep records and configurations in while it runs (default: out/ of the checkout)")
	flags.StringVar(&s.workDir, "inside", "", "for the command's own use")
	flags.BoolVar(&s.goNoop, "gonoop", false, "for the command's own use")
	only := flags.String("only", "", "measure only figures whose names match this `regexp`")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("what is %q?", flags.Arg(0))
	}
	var err error
	s.only, err = regexp.Compile(*only)
	return s, err
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == startUpCommand {
		exit(startUp(os.Args[2:], os.Stdout))
	}
	s, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if s.workDir == "" {
		err = outside(ctx, s)
	} else {
		err = inside(ctx, s)
	}
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// inside measures, in the sandbox.
func inside(ctx context.Context, s settings) error {
	b, err := newBench(s)
	if err != nil {
		return err
	}
	stopProfiles, err := s.profiles.start()
	if err != nil {
		return err
	}
	rep := report{Machine: describeMachine(s), Started: time.Now(), Smoke: s.smoke}
	for _, f := range figures() {
		if !s.only.MatchString(f.name) || ctx.Err() != nil {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%-11s %s", f.name, f.what)
		out, err := b.figure(ctx, f)
		if err != nil {
			fmt.Fprintln(os.Stderr)
			// The cause says which signal it was, if it was one.
			return errors.Join(fmt.Errorf("%s: %w", f.name, err), context.Cause(ctx), stopProfiles())
		}
		fmt.Fprintf(os.Stderr, ": %.1f s\n", time.Since(began).Seconds())
		rep.Figures = append(rep.Figures, out)
	}
	rep.Seconds = time.Since(rep.Started).Seconds()
	rep.LoadAfter = loadAverage()
	return errors.Join(context.Cause(ctx), stopProfiles(), rep.write(os.Stdout, s))
}
