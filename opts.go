package podcni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
)

// Option changes how a [Plugin] works. Options only record: New applies the
// defaults, then every option, checks the whole and builds it once, so that
// their order does not matter except that the last of two equal ones wins.
type Option interface{ apply(*options) }

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

const (
	defaultRetry    = 5
	defaultGrace    = 30 * time.Second
	longVerbTimeout = 2 * time.Minute
	quickTimeout    = 10 * time.Second
	maxPrefix       = 12 // leaves room for a number within the kernel's 15 bytes
)

type options struct {
	confDir        string
	binDirs        []string
	cacheDir       string
	defaultNetwork string
	confLists      [][]byte
	confTemplate   string
	hasTemplate    bool
	watch          bool
	ifPrefix       string
	timeouts       map[string]time.Duration
	grace          time.Duration
	maxConcurrent  int
	retry          int
	checkStatus    bool // GetPodNetworkStatus runs CHECK
	parallelAttach bool
	owner          string
	pluginEnv      []string
	passCNIArgs    bool // CNI_ARGS of our environment reach plugins
	exec           invoke.Exec
	log            *slog.Logger
	sync           bool
	strict         bool
}

func newOptions(opts []Option) (*options, error) {
	o := &options{
		confDir:   DefaultConfDir,
		binDirs:   []string{DefaultBinDir},
		cacheDir:  defaultCacheDir,
		watch:     true,
		ifPrefix:  strings.TrimRight(DefaultInterfaceName, "0123456789"),
		grace:     defaultGrace,
		retry:     defaultRetry,
		pluginEnv: defaultPluginEnv,
		log:       slog.New(slog.DiscardHandler),
		timeouts: map[string]time.Duration{
			verbAdd: longVerbTimeout, verbDel: longVerbTimeout, verbGC: longVerbTimeout,
			verbCheck: quickTimeout, verbStatus: quickTimeout, verbVersion: quickTimeout,
		},
	}
	for _, opt := range opts {
		if opt != nil {
			opt.apply(o)
		}
	}
	return o, o.validate()
}

var (
	errNotAbsolute = errors.New("it must be an absolute path")
	errNegative    = errors.New("it must not be negative")
	errBadVerb     = errors.New("it is not a CNI verb")
	errHasNUL      = errors.New("it must not hold a NUL byte")
)

func (o *options) validate() error {
	bad := func(option, value string, err error) error {
		return invalidField(ErrInvalidOption, option, value, err)
	}
	for option, path := range map[string]string{"WithConfDir": o.confDir, "WithCacheDir": o.cacheDir} {
		if err := checkDir(path); err != nil {
			return bad(option, path, err)
		}
	}
	if len(o.binDirs) == 0 {
		return bad("WithBinDirs", "", errors.New("at least one directory is needed"))
	}
	for _, dir := range o.binDirs {
		if err := checkDir(dir); err != nil {
			return bad("WithBinDirs", dir, err)
		}
	}
	if o.defaultNetwork != "" {
		if err := checkNetworkName(o.defaultNetwork); err != nil {
			return bad("WithDefaultNetwork", o.defaultNetwork, err)
		}
	}
	if err := checkInterfaceName(o.ifPrefix + "0"); err != nil || len(o.ifPrefix) > maxPrefix {
		return bad("WithInterfacePrefix", o.ifPrefix,
			fmt.Errorf("with a number after it, it must be an interface's name of at most %d bytes", maxPrefix+3))
	}
	for verb, d := range o.timeouts {
		if _, ok := knownVerbs[verb]; !ok {
			return bad("WithPluginTimeout", verb, errBadVerb)
		}
		if d < 0 {
			return bad("WithPluginTimeout", d.String(), errNegative)
		}
	}
	switch {
	case o.grace < 0:
		return bad("WithTeardownGrace", o.grace.String(), errNegative)
	case o.maxConcurrent < 0:
		return bad("WithMaxConcurrent", fmt.Sprint(o.maxConcurrent), errNegative)
	case o.retry < 0:
		return bad("WithRetry", fmt.Sprint(o.retry), errNegative)
	case strings.ContainsRune(o.owner, 0):
		return bad("WithOwner", o.owner, errHasNUL)
	}
	for _, env := range o.pluginEnv {
		if strings.ContainsRune(env, 0) || env == "" || env[0] == '=' {
			return bad("WithPluginEnv", env, errors.New("it must be NAME, NAME=value or PREFIX*"))
		}
	}
	return nil
}

func checkDir(path string) error {
	if strings.ContainsRune(path, 0) {
		return errHasNUL
	}
	if !filepath.IsAbs(path) {
		return errNotAbsolute
	}
	return nil
}

// WithConfDir sets the directory to load networks from. It need not exist, and
// is never created. The default is [DefaultConfDir]. The path must be absolute.
func WithConfDir(dir string) Option {
	return optionFunc(func(o *options) { o.confDir = dir })
}

// WithBinDirs sets the directories to look for plugins in; the first that has
// an executable regular file of the plugin's name wins. The default is
// [DefaultBinDir]. The paths must be absolute.
func WithBinDirs(dirs ...string) Option {
	dirs = slices.Clone(dirs)
	return optionFunc(func(o *options) { o.binDirs = dirs })
}

// WithCacheDir sets the directory below which the records of attachments live,
// in results/. It is created, with mode 0700, when the first record is written.
// The default is libcni's, /var/lib/cni, so that runtimes can be exchanged on a
// node with its pods running. The path must be absolute.
func WithCacheDir(dir string) Option {
	return optionFunc(func(o *options) { o.cacheDir = dir })
}

// WithDefaultNetwork names the network of pods that name none. While it is not
// loaded there is no default. Empty, the default, takes the first network.
func WithDefaultNetwork(name string) Option {
	return optionFunc(func(o *options) { o.defaultNetwork = name })
}

// WithConfList adds a network that is in no file, before those of the
// directory; given several times, in order. New fails if it does not parse.
func WithConfList(conf []byte) Option {
	conf = slices.Clone(conf)
	return optionFunc(func(o *options) { o.confLists = append(o.confLists, conf) })
}

// WithConfTemplate adds a network that UpdatePodCIDRs renders from this
// text/template, in memory, before those of the directory and after those of
// WithConfList. The template sees .PodCIDR (the first), .PodCIDRs (all, in
// order), and .Routes (the default route of each family among them, in the
// same order). New fails if it does not parse.
func WithConfTemplate(text string) Option {
	return optionFunc(func(o *options) { o.confTemplate, o.hasTemplate = text, true })
}

// WithoutWatch loads networks once, in New, and then only in Reload.
func WithoutWatch() Option {
	return optionFunc(func(o *options) { o.watch = false })
}

// WithInterfacePrefix sets what the names of interfaces that the caller does
// not name begin with; a number follows. The default is "eth".
func WithInterfacePrefix(prefix string) Option {
	return optionFunc(func(o *options) { o.ifPrefix = prefix })
}

// WithPluginTimeout sets how long one run of a plugin may take for a verb: ADD,
// DEL, CHECK, GC, STATUS or VERSION. The caller's context may end it sooner.
// The defaults are 2 minutes for ADD, DEL and GC, and 10 seconds for the others;
// 0 means no limit but the context's.
func WithPluginTimeout(verb string, d time.Duration) Option {
	return optionFunc(func(o *options) {
		o.timeouts = maps.Clone(o.timeouts)
		o.timeouts[verb] = d
	})
}

// WithTeardownGrace sets how long detaching may go on once the caller's context
// is over, whether in TearDownPod or after a failed SetUpPod. The pod's
// attachments share it, so that one that hangs leaves the others their part. The
// default, also for 0, is 30 seconds.
func WithTeardownGrace(d time.Duration) Option {
	return optionFunc(func(o *options) {
		o.grace = d
		if d == 0 {
			o.grace = defaultGrace
		}
	})
}

// WithMaxConcurrent bounds how many plugin processes run at once. Set-ups and
// teardowns take turns when both wait. STATUS and VERSION, of which few run at a
// time anyway, do not count. The default, 0, sets no bound.
func WithMaxConcurrent(n int) Option {
	return optionFunc(func(o *options) { o.maxConcurrent = n })
}

// WithRetry sets how often a plugin that answers "try again later" (code 11) is
// run in all, within the caller's time. The default is 5; 0 and 1 never retry.
func WithRetry(attempts int) Option {
	return optionFunc(func(o *options) { o.retry = attempts })
}

// WithStatusCheck makes GetPodNetworkStatus run CHECK for networks of version
// 0.4.0 and later, as ocicni does. By default the record answers alone.
func WithStatusCheck() Option {
	return optionFunc(func(o *options) { o.checkStatus = true })
}

// WithParallelAttach attaches the networks of one pod at the same time. The
// specification forbids it ("Lifecycle and ordering"): use it only with plugins
// that are known not to mind. Results keep their order, and a failure still
// detaches all.
func WithParallelAttach() Option {
	return optionFunc(func(o *options) { o.parallelAttach = true })
}

// WithOwner names this runtime in its records, so that runtimes which share a
// cache directory leave each other's attachments alone in GC. The default is
// no name.
func WithOwner(name string) Option {
	return optionFunc(func(o *options) { o.owner = name })
}

// WithPluginEnv sets what of the runtime's environment plugins see: NAME passes
// a variable on, PREFIX* every one that begins so, "*" all, and NAME=value sets
// one. It replaces the default list: PATH, HOME, TMPDIR, and on Windows what the
// system itself needs. It is read once, in New, so that ADD and DEL agree.
// Variables that begin with CNI_ are never passed on.
func WithPluginEnv(env ...string) Option {
	env = slices.Clone(env)
	return optionFunc(func(o *options) { o.pluginEnv = env })
}

// WithExec replaces how plugins are found and run, for tests and for runtimes
// that run plugins elsewhere. podcni then sets the time limits of
// WithPluginTimeout on the context that it passes, and relies on exec to heed
// it. nil, the default, runs processes of podcni's own.
func WithExec(exec invoke.Exec) Option {
	return optionFunc(func(o *options) { o.exec = exec })
}

// WithLogger sets where podcni logs: how networks and readiness change, as
// warnings what no error tells the caller, and at debug what plugins write to
// stderr. nil, the default, discards.
func WithLogger(log *slog.Logger) Option {
	return optionFunc(func(o *options) {
		o.log = log
		if log == nil {
			o.log = slog.New(slog.DiscardHandler)
		}
	})
}

// WithSync makes records durable against a loss of power (fsync of the file and
// its directory). By default they are durable against the death of the process.
func WithSync() Option {
	return optionFunc(func(o *options) { o.sync = true })
}

// WithStrictPermissions rejects a network when its file, a plugin of it, or a
// directory on the way to either could be written by anyone but root and the
// runtime's own user. Plugins run with the runtime's rights.
func WithStrictPermissions() Option {
	return optionFunc(func(o *options) { o.strict = true })
}

// passCNIArgs passes on CNI_ARGS of the environment, as InitCNI does and New
// does not.
func passCNIArgs() Option {
	return optionFunc(func(o *options) { o.passCNIArgs = true })
}

// verbTimeout bounds ctx by the verb's time limit.
func (o *options) verbTimeout(ctx context.Context, verb string) (context.Context, context.CancelFunc) {
	if d := o.timeouts[verb]; d > 0 {
		return context.WithTimeout(ctx, d)
	}
	return context.WithCancel(ctx)
}
