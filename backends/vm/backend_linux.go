package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/platform_linux/cgroup"
	"github.com/caisson-engine/caisson/vmshim/blockimage"
)

// Name of this backend, as in its binary's.
const Name = "vm"

// LevelVM is the one level it offers.
const LevelVM = "vm"

// Config says where a Backend lives and what its machines are like.
type Config struct {
	StateDir     string // backend.EnvStateDir
	CgroupParent string
	Version      string
	ShimPath     string // of caisson-vmshim
	ImageDir     string // of images made for machines; "" is StateDir
	GuestDirs    []string
	Options      Options
	Log          *slog.Logger
}

// Backend runs containers in virtual machines.
type Backend struct {
	cfg     Config
	log     *slog.Logger
	cgroups *cgroup.Host
	journal *kit.Journal
	pumps   *kit.Pumps
	images  *blockimage.Store
	host    *hostParts
	pool    pool
	serial  atomic.Int64
	shared  atomic.Uint32 // shares so far

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	uids       map[int]bool      // in use
	machines   map[*machine]bool // that this process started
}

var (
	_ backend.Backend       = (*Backend)(nil)
	_ backend.Pauser        = (*Backend)(nil)
	_ backend.ProcessLister = (*Backend)(nil)
	_ backend.Measurer      = (*Backend)(nil)
	_ backend.Files         = (*Backend)(nil)
)

// Open carries on with what runs below cfg.StateDir. A host that cannot run
// machines is no error: Info tells what is missing, and Open of a sandbox fails.
func Open(ctx context.Context, cfg Config) (_ *Backend, err error) {
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = "/caisson"
	}
	if cfg.ImageDir == "" {
		cfg.ImageDir = cfg.StateDir
	}
	b := &Backend{
		cfg: cfg, log: cfg.Log, sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, uids: map[int]bool{}, machines: map[*machine]bool{}, pool: pool{filling: map[string]bool{}},
	}
	defer func() {
		if err != nil {
			_ = b.Shutdown()
		}
	}()
	if err := forgetEarlierBoot(cfg.StateDir); err != nil {
		return nil, err
	}
	for _, dir := range []string{"sandboxes", "containers", "vms", "jail"} {
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
	if b.images, err = openImages(cfg); err != nil {
		return nil, err
	}
	b.host = newHost(cfg)
	if err = b.recover(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// forgetEarlierBoot removes what is in the state directory if it was written
// before the host was last booted: nothing of it is true any more. Images are.
func forgetEarlierBoot(dir string) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("boot id: %w", err)
	}
	mark := filepath.Join(dir, "boot")
	if was, err := os.ReadFile(mark); err == nil && bytes.Equal(was, boot) {
		return nil
	}
	for _, name := range []string{"events", "sandboxes", "containers", "vms", "jail"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	if err := os.WriteFile(mark, boot, 0o600); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// Shutdown closes what is open here. Machines go on.
func (b *Backend) Shutdown() error {
	var errs []error
	b.mu.Lock()
	idle := len(b.sandboxes) == 0
	b.mu.Unlock()
	b.closePool()
	errs = append(errs, b.endTransient())
	if b.host != nil {
		b.host.close(b)
	}
	if idle && b.cgroups != nil {
		errs = append(errs, b.cgroups.DeleteParent(b.cfg.CgroupParent))
	}
	if b.pumps != nil {
		errs = append(errs, b.pumps.Close())
	}
	if b.journal != nil {
		errs = append(errs, b.journal.Close())
	}
	return errors.Join(errs...)
}

// endTransient ends the machines that no sandbox has: what becomes a template, what
// is kept ready, what serves files.
func (b *Backend) endTransient() error {
	b.mu.Lock()
	var list []*machine
	for m := range b.machines {
		list = append(list, m)
	}
	for _, s := range b.sandboxes {
		list = slices.DeleteFunc(list, func(m *machine) bool { return m == s.machine || m.name == s.id })
	}
	b.mu.Unlock()
	var errs []error
	for _, m := range list {
		errs = append(errs, m.destroy(context.Background()))
	}
	return errors.Join(errs...)
}

// Info is backend.Backend.
func (b *Backend) Info(context.Context) (*backendpb.InfoReply, error) {
	facts, warnings := b.host.describe()
	facts = append(facts, &backendpb.Fact{Key: "disk", Value: strconv.FormatInt(b.cfg.Options.Disk, 10)})
	r := &backendpb.InfoReply{
		Name: Name, Version: b.cfg.Version, Os: "linux", Arch: goruntime.GOARCH,
		Levels:       []*backendpb.Level{{Name: LevelVM, Strength: backend.StrengthVM}},
		DefaultLevel: LevelVM,
		Capabilities: []string{backend.CapPause, backend.CapProcesses, backend.CapFiles, backend.CapUsage, backend.CapOwnStack},
		Facts:        facts, Warnings: warnings,
	}
	if b.host.problem != nil {
		r.Levels, r.DefaultLevel = nil, "" // the engine shows the warning as why
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

// validID holds what may become a file's and a cgroup's name.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func checkID(what, id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("invalid %s id %q, want letters, digits, _, . and -: %w", what, id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// uid takes one that no other machine has.
func (b *Backend) uid() (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid := b.cfg.Options.FirstUID; uid < b.cfg.Options.FirstUID+b.cfg.Options.UIDs; uid++ {
		if !b.uids[uid] {
			b.uids[uid] = true
			return uid, nil
		}
	}
	return 0, fmt.Errorf("all %d user ids for virtual machines are in use: %w", b.cfg.Options.UIDs, errdefs.ErrResourceExhausted)
}

// serialName names a machine that is no sandbox's. No sandbox has a "~" in its id.
func (b *Backend) serialName(what string) string {
	return fmt.Sprintf("%s~%d", what, b.serial.Add(1))
}

// nextShare numbers shares. A machine that an earlier backend started gets no more.
func (b *Backend) nextShare() uint32 { return b.shared.Add(1) }

func (b *Backend) freeUID(uid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.uids, uid)
}
