package podcni

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/podcni/podcni/internal/confdir"
	"github.com/podcni/podcni/internal/journal"
	"github.com/podcni/podcni/internal/plugin"
	"github.com/podcni/podcni/internal/spec"
)

// Option changes how a [CNI] works. Options only record. New applies the defaults,
// then every option, and checks the whole: their order does not matter, except
// that the last of two equal ones counts. The zero value of an option's argument
// means the default.
type Option interface{ apply(*options) }

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

// NoLimit removes the limit that an option sets.
const NoLimit = -1

// The directories that New uses by default.
const (
	// DefaultConfDir is where networks are loaded from.
	DefaultConfDir = confdir.DefaultDir
	// DefaultBinDir is where plugins are looked for.
	DefaultBinDir = plugin.DefaultBinDir
	// DefaultCacheDir is where attachments are recorded. It is libcni's.
	DefaultCacheDir = journal.DefaultCacheDir
)

// The verbs of the specification (section 2), for [WithPluginTimeout].
const (
	VerbAdd     = spec.Add
	VerbDel     = spec.Del
	VerbCheck   = spec.Check
	VerbGC      = spec.GC
	VerbStatus  = spec.Status
	VerbVersion = spec.Version
)

const (
	defaultAttempts = 5
	defaultGrace    = 30 * time.Second
	longTimeout     = 2 * time.Minute
	quickTimeout    = 10 * time.Second
	maxPrefix       = 12 // leaves room for a number within the kernel's 15 bytes
)

type options struct {
	confDir            string
	binDirs            []string
	cacheDir           string
	defaultNetwork     string
	confLists          [][]byte
	confTemplate       string
	hasTemplate        bool
	watch              bool
	ifPrefix           string
	timeouts           map[string]time.Duration
	grace              time.Duration
	maxConcurrent      int
	maxAttempts        int
	checkStatus        bool // GetPodNetworkStatus runs CHECK
	parallelAttach     bool
	owner              string
	pluginEnv          []string
	passCNIArgs        bool // CNI_ARGS of our environment reach plugins
	exec               invoke.Exec
	log                *slog.Logger
	fsync              bool
	strict             bool
	strictCapabilities bool
}

func newOptions(opts []Option) (*options, error) {
	o := &options{watch: true, timeouts: map[string]time.Duration{}}
	for _, opt := range opts {
		if opt != nil {
			opt.apply(o)
		}
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	o.setDefaults()
	return o, nil
}

// setDefaults gives every option that was not set, or set to zero, its value.
func (o *options) setDefaults() {
	setDefault(&o.confDir, DefaultConfDir)
	setDefault(&o.cacheDir, DefaultCacheDir)
	setDefault(&o.ifPrefix, strings.TrimRight(DefaultInterfaceName, "0123456789"))
	setDefault(&o.grace, defaultGrace)
	setDefault(&o.maxAttempts, defaultAttempts)
	setDefault(&o.log, slog.New(slog.DiscardHandler))
	if len(o.binDirs) == 0 {
		o.binDirs = []string{DefaultBinDir}
	}
	if len(o.pluginEnv) == 0 {
		o.pluginEnv = defaultPluginEnv()
	}
	timeouts := map[string]time.Duration{
		VerbAdd: longTimeout, VerbDel: longTimeout, VerbGC: longTimeout,
		VerbCheck: quickTimeout, VerbStatus: quickTimeout, VerbVersion: quickTimeout,
	}
	for verb, d := range o.timeouts {
		if d != 0 {
			timeouts[verb] = max(d, 0) // NoLimit is 0 from here on
		}
	}
	o.timeouts = timeouts
	if o.grace == NoLimit {
		o.grace = math.MaxInt64 / 2
	}
	if o.maxAttempts == NoLimit {
		o.maxAttempts = math.MaxInt
	}
}

// defaultPluginEnv is what plugins see of our environment: what hardly any program
// can do without.
func defaultPluginEnv() []string {
	env := []string{"PATH", "HOME", "TMPDIR"}
	if runtime.GOOS == "windows" {
		env = append(env, "SystemRoot", "SystemDrive", "COMSPEC", "TEMP", "TMP", "USERPROFILE", "ProgramData")
	}
	return env
}

func setDefault[T comparable](v *T, to T) {
	if *v == *new(T) {
		*v = to
	}
}

var (
	errNotAbsolute = errors.New("it must be an absolute path")
	errNegative    = errors.New("it must not be negative, except for NoLimit")
	errBadVerb     = errors.New("it is not a CNI verb")
	errEnvPattern  = errors.New("it must be NAME, NAME=value or PREFIX*")
)

func (o *options) validate() error {
	for _, dir := range append([]string{o.confDir, o.cacheDir}, o.binDirs...) {
		if dir != "" && !filepath.IsAbs(dir) {
			return invalidField(ErrInvalidOption, o.optionOf(dir), dir, errNotAbsolute)
		}
		if err := checkPath(dir); err != nil {
			return invalidField(ErrInvalidOption, o.optionOf(dir), dir, err)
		}
	}
	if slices.Contains(o.binDirs, "") {
		return invalidField(ErrInvalidOption, "WithBinDirs", "", spec.ErrEmpty)
	}
	if o.defaultNetwork != "" {
		if err := spec.CheckNetworkName(o.defaultNetwork); err != nil {
			return invalidField(ErrInvalidOption, "WithDefaultNetwork", o.defaultNetwork, err)
		}
	}
	if o.ifPrefix != "" && (spec.CheckIfName(o.ifPrefix+"0") != nil || len(o.ifPrefix) > maxPrefix) {
		return invalidField(ErrInvalidOption, "WithInterfacePrefix", o.ifPrefix,
			fmt.Errorf("with a number after it, it must be an interface's name of at most %d bytes", maxPrefix+3))
	}
	for verb, d := range o.timeouts {
		if !spec.IsVerb(verb) {
			return invalidField(ErrInvalidOption, "WithPluginTimeout", verb, errBadVerb)
		}
		if d < NoLimit {
			return invalidField(ErrInvalidOption, "WithPluginTimeout", d.String(), errNegative)
		}
	}
	switch {
	case o.grace < NoLimit:
		return invalidField(ErrInvalidOption, "WithTeardownGrace", o.grace.String(), errNegative)
	case o.maxConcurrent < NoLimit:
		return invalidField(ErrInvalidOption, "WithMaxConcurrent", fmt.Sprint(o.maxConcurrent), errNegative)
	case o.maxAttempts < NoLimit:
		return invalidField(ErrInvalidOption, "WithMaxAttempts", fmt.Sprint(o.maxAttempts), errNegative)
	}
	if err := checkText(o.owner); err != nil {
		return invalidField(ErrInvalidOption, "WithOwner", o.owner, err)
	}
	for _, env := range o.pluginEnv {
		if env == "" || env[0] == '=' || strings.ContainsRune(env, 0) {
			return invalidField(ErrInvalidOption, "WithPluginEnv", env, errEnvPattern)
		}
	}
	return nil
}

// optionOf names the option that a directory was given with.
func (o *options) optionOf(dir string) string {
	switch dir {
	case o.confDir:
		return "WithConfDir"
	case o.cacheDir:
		return "WithCacheDir"
	}
	return "WithBinDirs"
}

// WithConfDir sets the directory to load networks from. It need not exist, and is
// never created. The default is [DefaultConfDir]. The path must be absolute.
func WithConfDir(dir string) Option {
	return optionFunc(func(o *options) { o.confDir = dir })
}

// WithBinDirs sets the directories to look for plugins in. The first that has an
// executable regular file of the plugin's name wins. The default is
// [DefaultBinDir]. The paths must be absolute.
func WithBinDirs(dirs ...string) Option {
	dirs = slices.Clone(dirs)
	return optionFunc(func(o *options) { o.binDirs = dirs })
}

// WithCacheDir sets the directory below which attachments are recorded: podcni's
// journals in podcni/, libcni's results in results/. Both are created, with mode
// 0700, by the first set-up. The default, [DefaultCacheDir], is libcni's, so that
// runtimes can be exchanged on a node with its pods running. The path must be
// absolute.
func WithCacheDir(dir string) Option {
	return optionFunc(func(o *options) { o.cacheDir = dir })
}

// WithDefaultNetwork names the network of pods that name none. While it is not
// loaded, such pods cannot be attached. The default is the first network.
func WithDefaultNetwork(name string) Option {
	return optionFunc(func(o *options) { o.defaultNetwork = name })
}

// WithConfList adds a network from memory. It comes before the networks of the
// directory. The option may be given several times. New fails if a network does not
// parse.
func WithConfList(conf []byte) Option {
	conf = slices.Clone(conf)
	return optionFunc(func(o *options) { o.confLists = append(o.confLists, conf) })
}

// WithConfTemplate adds a network that [CNI.UpdatePodCIDRs] renders from this
// text/template. It comes after those of WithConfList and before those of the
// directory. The template sees .PodCIDR (the first), .PodCIDRs (all, in order),
// and .Routes (the default route of each family among them, in the same order).
// New fails if it does not parse.
func WithConfTemplate(text string) Option {
	return optionFunc(func(o *options) { o.confTemplate, o.hasTemplate = text, text != "" })
}

// WithoutWatch loads networks once, in New, and then only in Reload.
func WithoutWatch() Option {
	return optionFunc(func(o *options) { o.watch = false })
}

// WithInterfacePrefix sets the prefix of the interface names that podcni chooses. A
// number follows. The default is "eth".
func WithInterfacePrefix(prefix string) Option {
	return optionFunc(func(o *options) { o.ifPrefix = prefix })
}

// WithPluginTimeout sets how long one run of a plugin may take for a verb, such as
// [VerbAdd]. The caller's context may end it sooner. The defaults are 2 minutes
// for ADD, DEL and GC, and 10 seconds for CHECK, STATUS and VERSION. [NoLimit]
// leaves the end to the context.
func WithPluginTimeout(verb string, d time.Duration) Option {
	return optionFunc(func(o *options) {
		o.timeouts = maps.Clone(o.timeouts)
		o.timeouts[verb] = d
	})
}

// WithTeardownGrace sets how long detaching may go on after the end of the caller's
// context, in TearDownPod and after a failed SetUpPod. The pod's attachments share
// that time, so that one that hangs leaves the others their part. The default is
// 30 seconds.
func WithTeardownGrace(d time.Duration) Option {
	return optionFunc(func(o *options) { o.grace = d })
}

// WithMaxConcurrent bounds how many plugins run at once. Set-ups and tear-downs do
// not starve each other. STATUS and VERSION do not count: few of them run at a
// time. The default is no bound.
func WithMaxConcurrent(n int) Option {
	return optionFunc(func(o *options) { o.maxConcurrent = n })
}

// WithMaxAttempts sets how often ADD and DEL are tried in all when a plugin returns
// "try again later" (code 11), within the caller's time. A DEL comes before each
// further ADD. The default is 5; 1 never tries again.
func WithMaxAttempts(n int) Option {
	return optionFunc(func(o *options) { o.maxAttempts = n })
}

// WithCheckOnGetStatus makes GetPodNetworkStatus run CHECK for networks of version
// 0.4.0 and later, as ocicni does. By default it returns what was recorded.
func WithCheckOnGetStatus() Option {
	return optionFunc(func(o *options) { o.checkStatus = true })
}

// WithParallelAttach attaches the networks of one pod at the same time. The
// specification forbids it (section 3, "Lifecycle & Ordering"): use it only with
// plugins that are known not to mind. Results keep their order, and a failure still
// detaches all.
func WithParallelAttach() Option {
	return optionFunc(func(o *options) { o.parallelAttach = true })
}

// WithStrictCapabilities makes two things an error: a pod asks a network for a
// capability that none of its plugins declares, such as a port mapping without
// portmap; or a RuntimeConfig is for a network that the pod is not attached to. By
// default podcni only logs a warning, because some networks serve such requests by
// other means.
func WithStrictCapabilities() Option {
	return optionFunc(func(o *options) { o.strictCapabilities = true })
}

// WithOwner names this runtime in its records. GC then detaches only this runtime's
// attachments, where several share a cache directory. The default is no name.
func WithOwner(name string) Option {
	return optionFunc(func(o *options) { o.owner = name })
}

// WithPluginEnv sets what plugins see of the runtime's environment: NAME passes a
// variable on, PREFIX* all variables with that prefix, "*" all, and NAME=value sets
// one. It
// replaces the default list: PATH, HOME, TMPDIR, and on Windows what the system
// itself needs. It is read once, in New, so that ADD and DEL agree. Variables that
// begin with CNI_ are not passed on, except CNI_NETNS_OVERRIDE if it is named.
func WithPluginEnv(env ...string) Option {
	env = slices.Clone(env)
	return optionFunc(func(o *options) { o.pluginEnv = env })
}

// WithExec replaces how plugins are found and run, for tests and for runtimes that
// run plugins elsewhere. podcni sets the time limits of WithPluginTimeout on the
// context that it passes, and relies on exec to heed it. By default podcni runs
// processes of its own.
func WithExec(exec invoke.Exec) Option {
	return optionFunc(func(o *options) { o.exec = exec })
}

// WithLogger sets where podcni logs: changes of the networks and of the readiness,
// warnings about what no error tells the caller, and at debug level what plugins
// write to stderr. By default nothing is logged.
func WithLogger(log *slog.Logger) Option {
	return optionFunc(func(o *options) { o.log = log })
}

// WithFsync makes records durable against a loss of power: fsync of the file and
// its directory. By default they are durable against the death of the process.
func WithFsync() Option {
	return optionFunc(func(o *options) { o.fsync = true })
}

// WithStrictPermissions rejects a network if a user other than root and the
// runtime's own can write its file, its plugins, or a directory on their paths.
// Plugins run with the runtime's rights.
func WithStrictPermissions() Option {
	return optionFunc(func(o *options) { o.strict = true })
}

// passCNIArgs passes on CNI_ARGS of the environment, as InitCNI does and New does
// not.
func passCNIArgs() Option {
	return optionFunc(func(o *options) { o.passCNIArgs = true })
}
