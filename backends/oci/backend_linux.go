package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"slices"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/backends/oci/monitor"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/platform_linux/cgroup"
)

// Config says what a Backend drives and where it lives.
type Config struct {
	Runtime      *Runtime
	StateDir     string
	CgroupParent string // the group under which containers live that name no other
	Version      string
	// Monitor is the command that starts a monitor; its last argument will be
	// the monitor's directory.
	Monitor []string
	Log     *slog.Logger
}

// Backend runs containers through a runtime. It is backend.Backend with the
// optional capabilities that the runtime allows.
type Backend struct {
	cfg     Config
	log     *slog.Logger
	cgroups *cgroup.Host
	monitor *monitor.Client
	journal *kit.Journal
	pumps   *kit.Pumps

	// dialect changes only while the runtime cannot be used.
	dialect dialect

	mu         sync.Mutex
	version    string
	problem    error // why the runtime cannot be used
	sandboxes  map[string]*sandbox
	containers map[string]*container
}

var (
	_ backend.Backend       = (*Backend)(nil)
	_ backend.Pauser        = (*Backend)(nil)
	_ backend.ProcessLister = (*Backend)(nil)
	_ backend.Files         = (*Backend)(nil)
)

// Open carries on with what runs below cfg.StateDir. A runtime that cannot be
// used is no error: Info tells of it.
func Open(ctx context.Context, cfg Config) (_ *Backend, err error) {
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = "/caisson"
	}
	b := &Backend{cfg: cfg, log: cfg.Log, sandboxes: map[string]*sandbox{}, containers: map[string]*container{}}
	defer func() {
		if err != nil {
			_ = b.Shutdown()
		}
	}()
	dirs := []string{"monitor", "runtime", "sandboxes", "containers"}
	if err := kit.ForgetEarlierBoot(cfg.StateDir, append(dirs, "events")...); err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(cfg.StateDir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
	}
	if b.cgroups, err = cgroup.Open(); err != nil {
		return nil, err
	}
	if b.journal, err = kit.OpenJournal(filepath.Join(cfg.StateDir, "events")); err != nil {
		return nil, err
	}
	if b.pumps, err = kit.NewPumps(cfg.Log); err != nil {
		return nil, err
	}
	dir := filepath.Join(cfg.StateDir, "monitor")
	b.monitor = monitor.Open(monitor.Config{Dir: dir, Argv: append(slices.Clone(cfg.Monitor), dir), Log: cfg.Log})
	b.identify(ctx)
	if err := b.recover(ctx); err != nil {
		return nil, err
	}
	// What runs proves more than a trial would.
	if b.problem == nil && len(b.containers) == 0 {
		b.problem = b.try(ctx)
	}
	return b, nil
}

// Shutdown closes what is open here. Containers go on.
func (b *Backend) Shutdown() error {
	var errs []error
	b.mu.Lock()
	idle := len(b.sandboxes) == 0
	b.mu.Unlock()
	if idle && b.cgroups != nil {
		errs = append(errs, b.cgroups.DeleteParent(b.cfg.CgroupParent))
	}
	if b.monitor != nil {
		errs = append(errs, b.monitor.Close())
	}
	if b.pumps != nil {
		errs = append(errs, b.pumps.Close())
	}
	if b.journal != nil {
		errs = append(errs, b.journal.Close())
	}
	return errors.Join(errs...)
}

// usable tells why the runtime cannot be used, nil if it can. One that could not
// is asked again: it may have been installed since.
func (b *Backend) usable(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.problem == nil {
		return nil
	}
	b.identify(ctx)
	if b.problem == nil {
		b.problem = b.try(ctx)
	}
	return b.problem
}

// identify asks the runtime what it is, and writes it down: what runs is to be
// treated as what it is also when the runtime has been taken away.
func (b *Backend) identify(ctx context.Context) {
	b.dialect, b.version, b.problem = b.cfg.Runtime.identify(ctx)
	note := filepath.Join(b.cfg.StateDir, "kind")
	if b.problem == nil {
		if err := os.WriteFile(note, []byte(b.dialect.kind), 0o600); err != nil {
			b.log.Warn("the kind of runtime cannot be written down", "err", err)
		}
	} else if kind, err := os.ReadFile(note); err == nil && b.cfg.Runtime.Kind == "" {
		b.dialect = dialectOf(string(kind))
	}
}

// Info is backend.Backend.
func (b *Backend) Info(ctx context.Context) (*backendpb.InfoReply, error) {
	rt := b.cfg.Runtime
	r := &backendpb.InfoReply{Name: rt.Name, Version: b.cfg.Version, Os: "linux", Arch: goruntime.GOARCH}
	if err := b.usable(ctx); err != nil {
		r.Warnings = []string{err.Error()}
		return r, nil //nolint:nilerr // told in the reply
	}
	r.Levels = []*backendpb.Level{{Name: rt.Level, Strength: rt.Strength}}
	r.DefaultLevel = rt.Level
	r.Capabilities = []string{backend.CapFiles, backend.CapPause}
	if b.dialect.ownKernel {
		r.Capabilities = append(r.Capabilities, backend.CapOwnStack)
	} else {
		r.Capabilities = append(r.Capabilities, backend.CapProcesses)
		if rt.Strength > backend.StrengthProcess {
			r.Warnings = append(r.Warnings, fmt.Sprintf("level %s has strength %d by the host owner's word alone: containers of %s (%s) share the host's kernel, as far as this engine knows",
				rt.Level, rt.Strength, rt.Name, b.dialect.kind))
		}
	}
	r.Warnings = append(r.Warnings, b.cgroups.Warnings()...)
	facts := maps.Clone(rt.Facts)
	if facts == nil {
		facts = map[string]string{}
	}
	for key, value := range map[string]string{
		"runtime.kind": b.dialect.kind, "runtime.version": b.version, "runtime.path": rt.Path,
		"runtime.own-kernel": strconv.FormatBool(b.dialect.ownKernel), "level.declared-by": "the host owner",
	} {
		facts[key] = value
	}
	for _, key := range sortedKeys(facts) {
		r.Facts = append(r.Facts, &backendpb.Fact{Key: key, Value: facts[key]})
	}
	return r, nil
}

// Events is backend.Backend.
func (b *Backend) Events(ctx context.Context, after uint64) (backend.EventStream, error) {
	return b.journal.Events(ctx, after), nil
}

// container finds one. NotFound if there is none, or it is being made or gone.
func (b *Backend) container(id string) (*container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.containers[id]; c != nil && c.ready {
		return c, nil
	}
	return nil, fmt.Errorf("no container %q: %w", id, errdefs.ErrNotFound)
}

// process finds a container's first process or an exec.
func (b *Backend) process(ref *backendpb.ProcessRef) (*container, *process, error) {
	c, err := b.container(ref.GetContainer())
	if err != nil {
		return nil, nil, err
	}
	p, err := c.process(ref.GetExec())
	return c, p, err
}

// validID holds what may become a file's, a cgroup's and a runtime's name.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func checkID(what, id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("invalid %s id %q, want letters, digits, _, . and -: %w", what, id, errdefs.ErrInvalidArgument)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
