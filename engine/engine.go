// Package engine is the neutral core: it keeps the records of containers and
// carries out the verbs of the API on images, networks and backends, one verb a
// file. It isolates nothing and knows no operating system; what a host can do is
// injected.
//
// # The life of a container
//
//	Create → [Attach, Wait] → Start → … exit … → [Start again] → Remove
//
// Create resolves the image, decides level and backend by the policy, and makes
// the writable root. Start attaches the network, writes the OCI spec, and lets
// the backend Open, Create and Start. When the backend says EXITED the engine
// records the exit, gives back network and sandbox, tells the waiters, and then
// restarts or removes the container where its configuration says so.
//
// Every act on the host is preceded by a durable record of the intent, so that
// the engine can be killed between any two steps: Restore finishes or undoes.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/events"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/engine/spec"
	"github.com/caisson-engine/caisson/engine/store"
)

// Config is everything an engine needs; nothing is read from anywhere else.
type Config struct {
	DataRoot string // durable state; made if missing
	ExecRoot string // state that a reboot may forget
	HostID   string // short, unique per engine on this host; names derive from it
	BootID   string // changes with every boot of the host; "" if unknown

	Launcher Launcher
	Images   ImageService
	Network  Network
	Disks    Disks          // nil: what is taken on disk is neither limited nor measured
	Mounts   Mounts         // nil: only paths of the host are mounted
	Policy   *policy.Policy // nil: no policy
	Defaults Defaults
	Host     Host
	// Devices resolves --device on hosts that have device nodes; nil elsewhere.
	Devices spec.Devices
	Log     *slog.Logger // nil: slog.Default()

	// Crash, if set, is called at every point where a crash would leave
	// something half done, with the point's name. Tests end the process in it.
	Crash func(point string)
}

// Defaults fill in what a client leaves open. They may change by Reload.
type Defaults struct {
	LogDriver       string // "" is json-file
	LogOpts         map[string]string
	Ulimits         []*units.Ulimit
	ShmSize         int64 // bytes; 0 is 64 MiB
	StopTimeout     int   // seconds; 0 is 10
	Init            bool
	CgroupParent    string
	CgroupnsMode    string // "" is private
	IpcMode         string // "" is private
	NoNewPrivileges bool
	SeccompProfile  string // JSON, or "unconfined"; "" is the built-in profile
	Labels          []string
}

// Host is what info tells of the machine.
type Host struct {
	Hostname        string
	KernelVersion   string
	OperatingSystem string
	OSVersion       string
	OSType          string // GOOS notation
	Arch            string // GOARCH notation
	NCPU            int
	MemTotal        int64 // bytes
	CgroupVersion   string
	CgroupDriver    string
	SecurityOptions []string
	Warnings        []string // what is missing, a sentence each
	IPv4Forwarding  bool
	ServerVersion   string
	InitBinary      string
	// SystemCPU is the processor time that the whole host has used, in
	// nanoseconds; nil where unknown.
	SystemCPU func() (uint64, error)
}

// BackendBinary is a backend found on disk.
type BackendBinary struct {
	Name string // what follows caisson-backend-
	Path string
}

// BackendProcess is a connection to a running backend. It may also implement
// the optional interfaces of package backend, as its capabilities say.
type BackendProcess interface {
	backend.Backend
	// Done is closed when the backend died or the connection broke.
	Done() <-chan struct{}
	// PID of the process, 0 if it has none of its own.
	PID() int
	// Disconnect ends the connection and leaves the process running.
	Disconnect() error
}

// Launcher finds backends and starts them; cmd/caissond makes one from
// engine/backend/plugin.
type Launcher interface {
	// Discover lists the backends there are, best first.
	Discover() ([]BackendBinary, error)
	// Launch starts a backend, or connects to the one that already runs.
	Launch(ctx context.Context, b BackendBinary) (BackendProcess, error)
}

// Engine is the core. Make one with New, bring it to life with Run.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	journal *store.Journal
	ctrs    *store.Index[*ctr]
	bus     *events.Bus
	thermal []string // masked paths of this host's processors

	mu       sync.RWMutex // guards what Reload changes
	defaults Defaults
	policy   *policy.Policy

	// images lets many create from images, or one delete them.
	images sync.RWMutex

	netMu sync.Mutex // held while a network is made, so that its quota holds

	execMu sync.Mutex
	execs  map[string]*execution // by id

	quotaMu sync.Mutex                   // guards pending
	pending map[string]*container.Record // admitted, and not in ctrs yet; by id

	vols volumes

	diskMu   sync.Mutex              // guards accounts
	accounts map[string]*diskAccount // by tenant

	backendMu sync.Mutex // guards the list, not its elements
	backends  []*isolator

	ctx     context.Context // of the engine's own work
	cancel  context.CancelFunc
	spawnMu sync.RWMutex // nothing is spawned once Close has it
	work    sync.WaitGroup
	ready   chan struct{} // closed when the restore is done
	booted  string        // boot id that the records are of
}

// Keys of the journal.
const (
	keyRecord  = "c/"   // + container id: container.Record
	keyStatus  = "s/"   // + container id: container.Status
	keyCreate  = "i/"   // + container id: creation, an intent
	keyUpdate  = "u/"   // + container id: an update under way
	keyExec    = "x/"   // + exec id: execRecord
	keyBackend = "b/"   // + backend name: cursor
	keyHealth  = "h/"   // + container id: results of its health check
	keyVolume  = "v/"   // + [tenant/]name: volumeRecord
	keyNetwork = "n/"   // + network id: network.Network
	keyBoot    = "boot" // the boot that statuses are of
)

// New opens the records under cfg.DataRoot. It launches nothing: Run does.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Policy == nil {
		cfg.Policy = &policy.Policy{}
	}
	if cfg.Crash == nil {
		cfg.Crash = func(string) {}
	}
	j, err := store.Open(filepath.Join(cfg.DataRoot, "store", "journal"))
	if err != nil {
		return nil, err
	}
	if n := j.Damaged(); n > 0 {
		cfg.Log.Warn("the journal has damaged lines; what they said is lost", "lines", n)
	}
	e := &Engine{
		cfg: cfg, log: cfg.Log, now: time.Now, journal: j,
		ctrs:     store.NewIndex[*ctr]("container"),
		bus:      events.New(),
		thermal:  spec.ThermalPaths(),
		defaults: cfg.Defaults, policy: cfg.Policy,
		execs: map[string]*execution{}, pending: map[string]*container.Record{},
		accounts: map[string]*diskAccount{},
		ready:    make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if err := e.load(); err != nil {
		_ = j.Close() // there is a better error already
		return nil, err
	}
	return e, nil
}

// Run restores what was, and supervises backends until ctx ends. Verbs may be
// called from the moment New returned; those that act wait for the restore.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.Restore(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-e.ctx.Done():
	}
	return nil
}

// Ready is closed when the restore is done.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// closeWait is how long Close waits for work under way. What is cut off then is
// as after a crash: the next restore finishes or undoes it.
const closeWait = 5 * time.Second

// Close ends the engine and leaves containers and backends running.
func (e *Engine) Close() error {
	e.spawnMu.Lock()
	e.cancel()
	e.spawnMu.Unlock()
	for _, c := range e.ctrs.All() {
		c.mu.Lock()
		if c.timer != nil {
			c.timer.Stop()
		}
		if c.probe != nil {
			c.probe.Stop()
		}
		c.mu.Unlock()
	}
	done := make(chan struct{})
	go func() {
		e.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closeWait):
		e.log.Warn("work under way was cut off; the next start finishes it")
	}
	return e.journal.Close()
}

// Reload takes new defaults and, unless nil, a new policy for what is created
// from now on. What exists and is not allowed any more goes on, and is logged.
func (e *Engine) Reload(d Defaults, p *policy.Policy) {
	e.mu.Lock()
	e.defaults = d
	if p != nil {
		e.policy = p
	}
	e.mu.Unlock()
	e.reviewed()
	e.diskMu.Lock()
	e.accounts = map[string]*diskAccount{}
	e.diskMu.Unlock()
	e.spawn(func(context.Context) { e.keepQuotas() })
}

// settings are what Reload changes, at one moment.
func (e *Engine) settings() (Defaults, *policy.Policy) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.defaults, e.policy
}

// await waits until the restore is done.
func (e *Engine) await(ctx context.Context) error {
	select {
	case <-e.ready:
		return nil
	default:
	}
	select {
	case <-e.ready:
		return nil
	case <-e.ctx.Done():
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errClosed = fmt.Errorf("the engine is shutting down: %w", errdefs.ErrUnavailable)

// spawn runs f on the engine's behalf; Close waits for it.
func (e *Engine) spawn(f func(ctx context.Context)) {
	e.spawnMu.RLock()
	defer e.spawnMu.RUnlock()
	if e.ctx.Err() != nil {
		return
	}
	e.work.Go(func() { f(e.ctx) })
}

// acting is a context for the acts of a verb: they are carried through even if
// the client leaves, within a bound.
func acting(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), actTimeout)
}

// actTimeout bounds the acts of one verb. It is far above what any takes: it
// only keeps a hung backend from holding a container's lock for ever.
const actTimeout = 2 * time.Minute

// put makes a journal entry of v.
func put(key string, v any) (store.Op, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return store.Op{}, fmt.Errorf("encode %s: %w", key, err)
	}
	return store.Op{Key: key, Value: b}, nil
}

// reason is an error's message without the kind that errdefs puts last.
func reason(err error) string {
	msg := err.Error()
	for _, kind := range []error{
		errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrUnavailable, errdefs.ErrInternal,
		errdefs.ErrFailedPrecondition, errdefs.ErrConflict, errdefs.ErrNotImplemented, errdefs.ErrUnknown,
	} {
		if errors.Is(err, kind) {
			if cut := len(msg) - len(kind.Error()) - 2; cut > 0 && msg[cut:] == ": "+kind.Error() {
				return msg[:cut]
			}
		}
	}
	return msg
}
