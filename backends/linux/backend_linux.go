package linux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	goruntime "runtime"
	"slices"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/platform_linux/cgroup"
	"github.com/caisson-engine/caisson/platform_linux/runtime"
)

// Name of this backend, as in its binary's.
const Name = "linux"

// LevelProcess is the one level it offers.
const LevelProcess = "process"

// Config says where a Backend lives.
type Config struct {
	StateDir string // backend.EnvStateDir; its path must be short enough for sockets
	// CgroupParent is the group under which containers live that name no other.
	CgroupParent         string
	Version              string
	InitPath, KeeperPath string // of caisson-init and caisson-keeper
	// PatientReaders has a process wait for an attached client that reads nothing
	// for as long as it takes, and after less output: for a backend in a virtual
	// machine, whose one client keeps everything that it reads.
	PatientReaders bool
	Log            *slog.Logger
}

// Backend runs containers as processes of this host's kernel. It is
// backend.Backend with all optional capabilities.
type Backend struct {
	cfg     Config
	log     *slog.Logger
	cgroups *cgroup.Host
	runtime *runtime.Runtime
	journal *kit.Journal
	pumps   *kit.Pumps

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	profiles   []*specs.LinuxSeccomp // the last few different ones, shared by containers
}

var (
	_ backend.Backend       = (*Backend)(nil)
	_ backend.Pauser        = (*Backend)(nil)
	_ backend.ProcessLister = (*Backend)(nil)
	_ backend.Files         = (*Backend)(nil)
)

// Open carries on with what runs below cfg.StateDir.
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
	if err := kit.ForgetEarlierBoot(cfg.StateDir, "events", "runtime", "sandboxes", "containers"); err != nil {
		return nil, err
	}
	for _, dir := range []string{"runtime", "sandboxes", "containers"} {
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
	if cfg.PatientReaders {
		b.pumps.Patient()
	}
	if b.runtime, err = runtime.Open(ctx, runtime.Config{
		Dir: filepath.Join(cfg.StateDir, "runtime"), InitPath: cfg.InitPath, KeeperPath: cfg.KeeperPath, Log: cfg.Log,
	}); err != nil {
		return nil, err
	}
	if err = b.recover(ctx); err != nil {
		return nil, err
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
	if b.pumps != nil {
		errs = append(errs, b.pumps.Close())
	}
	if b.journal != nil {
		errs = append(errs, b.journal.Close())
	}
	if b.runtime != nil {
		errs = append(errs, b.runtime.Close())
	}
	return errors.Join(errs...)
}

// Runtime is the runtime under this backend.
func (b *Backend) Runtime() *runtime.Runtime { return b.runtime }

// Info is backend.Backend.
func (b *Backend) Info(context.Context) (*backendpb.InfoReply, error) {
	f := runtime.ProbeFeatures()
	r := &backendpb.InfoReply{
		Name: Name, Version: b.cfg.Version, Os: "linux", Arch: goruntime.GOARCH,
		Levels:       []*backendpb.Level{{Name: LevelProcess, Strength: backend.StrengthProcess}},
		DefaultLevel: LevelProcess,
		Capabilities: []string{backend.CapPause, backend.CapProcesses, backend.CapFiles},
		Warnings:     slices.Concat(b.cgroups.Warnings(), f.Missing()),
	}
	if f.UserNS {
		r.Capabilities = append(r.Capabilities, backend.CapUserNS)
	}
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	for _, fact := range []struct{ key, value string }{
		{"kernel.version", unix.ByteSliceToString(uts.Release[:])},
		{"cgroup.version", strconv.Itoa(b.cgroups.Version())},
		{"cgroup.hybrid", strconv.FormatBool(b.cgroups.Hybrid())},
		{"cgroup.driver", "cgroupfs"},
		{"cgroup.memory", strconv.FormatBool(b.cgroups.Has("memory"))},
		{"cgroup.cpu", strconv.FormatBool(b.cgroups.Has("cpu"))},
		{"cgroup.cpuset", strconv.FormatBool(b.cgroups.Has("cpuset"))},
		{"cgroup.pids", strconv.FormatBool(b.cgroups.Has("pids"))},
		{"cgroup.io", strconv.FormatBool(b.cgroups.Has("io"))},
		{"seccomp", strconv.FormatBool(f.Seccomp)},
		{"apparmor", strconv.FormatBool(f.AppArmor)},
		{"userns", strconv.FormatBool(f.UserNS)},
		{"timens", strconv.FormatBool(f.TimeNS)},
		{"exit-codes-survive-keeper", strconv.FormatBool(f.PidfdExit)},
	} {
		r.Facts = append(r.Facts, &backendpb.Fact{Key: fact.key, Value: fact.value})
	}
	return r, nil
}

// Events is backend.Backend.
func (b *Backend) Events(ctx context.Context, after uint64) (backend.EventStream, error) {
	return b.journal.Events(ctx, after), nil
}

// shared returns a profile equal to p that other containers use as well: decoded
// profiles are large, and nearly all containers have the same one.
func (b *Backend) shared(p *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	if p == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, q := range b.profiles {
		if reflect.DeepEqual(p, q) {
			b.profiles[0], b.profiles[i] = q, b.profiles[0]
			return q
		}
	}
	b.profiles = append([]*specs.LinuxSeccomp{p}, b.profiles[:min(len(b.profiles), 7)]...)
	return p
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

// validID holds what may become a file's and a cgroup's name.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func checkID(what, id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("invalid %s id %q, want letters, digits, _, . and -: %w", what, id, errdefs.ErrInvalidArgument)
	}
	return nil
}
