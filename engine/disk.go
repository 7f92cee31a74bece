package engine

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/policy"
)

// factDisk is how many bytes a backend's writable disk of each container has,
// where its levels give a container a disk of its own. All of them count.
const factDisk = "disk"

// A measurement is taken for the truth for fresh, and at least for patience times
// as long as it took: measuring large trees must not become the engine's work.
const (
	fresh    = time.Second
	patience = 20
)

// diskAccount is what is known of a tenant's files.
type diskAccount struct {
	mu    sync.Mutex // held while they are measured, or bound
	bytes int64      // by the last measurement
	at    time.Time
	took  time.Duration
	bound int64 // that the kernel was told last, 0 if it was told none
}

// account is a tenant's.
func (e *Engine) account(scope string) *diskAccount {
	e.diskMu.Lock()
	defer e.diskMu.Unlock()
	a := e.accounts[scope]
	if a == nil {
		a = &diskAccount{}
		e.accounts[scope] = a
	}
	return a
}

// disks says what keeps limits on disk: nil, or why it is only measured.
func (e *Engine) disks() error {
	if e.cfg.Disks == nil {
		return fmt.Errorf("this host has no disk quotas: %w", errdefs.ErrFailedPrecondition)
	}
	return e.cfg.Disks.Problem()
}

// diskRow is how info says it.
func (e *Engine) diskRow() [2]string {
	how := "kept by the kernel (project quotas)"
	if err := e.disks(); err != nil {
		how = "measured, and nothing new is admitted to a tenant over its quota: " + reason(err)
	}
	return [2]string{"Disk quotas", how}
}

// Room is how many bytes more a scope may put on the disk, or which quota is used
// up.
func (e *Engine) Room(scope string) (int64, error) {
	_, pol := e.settings()
	q := policy.Quota{Disk: pol.QuotaOf(scope).Disk}
	if scope == "" || q.Zero() {
		return math.MaxInt64, nil
	}
	taken, err := e.taken(scope)
	if err != nil {
		return 0, err
	}
	e.quotaMu.Lock()
	defer e.quotaMu.Unlock()
	have := policy.Quota{Disk: taken + e.used(scope, "").Disk}
	if err := q.Admit(scope, have, policy.Quota{}); err != nil {
		return 0, err
	}
	return int64(q.Disk - have.Disk), nil
}

// taken is what a tenant's files take that have no limit of their own: images,
// writable layers and volumes; 0 where they are not limited. It also has the
// kernel keep the quota.
func (e *Engine) taken(scope string) (policy.Bytes, error) {
	_, pol := e.settings()
	limit := pol.QuotaOf(scope).Disk
	if scope == "" || limit == 0 || e.cfg.Disks == nil {
		return 0, nil
	}
	e.quotaMu.Lock()
	bound := max(int64(limit-e.used(scope, "").Disk), 1) // 0 would be no bound
	e.quotaMu.Unlock()
	a, home := e.account(scope), Home(e.cfg.DataRoot, scope)
	a.mu.Lock()
	defer a.mu.Unlock()
	var n int64
	var err error
	switch now := e.now(); {
	case e.cfg.Disks.Problem() == nil:
		if a.bound != bound {
			if err = os.MkdirAll(home, 0o710); err == nil {
				err = e.cfg.Disks.Limit(bound, home)
			}
			a.bound = bound
		}
		if err == nil {
			n, err = e.cfg.Disks.Used(home)
		}
	case !a.at.IsZero() && now.Before(a.at.Add(max(fresh, patience*a.took))):
		n = a.bytes
	default:
		if n, err = e.cfg.Disks.Measure(e.ctx, append(e.layersElsewhere(scope), home)...); err == nil {
			a.bytes, a.at, a.took = n, now, e.now().Sub(now)
		}
	}
	if err != nil {
		a.bound = 0
		return 0, fmt.Errorf("disk quota of tenant %s: %w", scope, err)
	}
	return policy.Bytes(n), nil
}

// layersElsewhere are the writable layers of a tenant's containers that are not
// in its home, because their image is shared.
func (e *Engine) layersElsewhere(scope string) (dirs []string) {
	home := Home(e.cfg.DataRoot, scope) + string(filepath.Separator)
	for _, c := range e.ctrs.Visible(identity.Identity{Tenant: scope}) {
		if up := e.upperDir(c.id); up != "" && !strings.HasPrefix(up, home) {
			dirs = append(dirs, up)
		}
	}
	return dirs
}

// upperDir is the directory of a container's writable layer, "" if it has none.
func (e *Engine) upperDir(id string) string {
	mounts, err := e.cfg.Images.Mounts(e.ctx, id)
	if err != nil || len(mounts) != 1 {
		return ""
	}
	return overlayDirs(mounts[0].Options)["UpperDir"]
}

// confine is what a container's writable layer is bound by as it is made: a size
// of its own, or its tenant's quota. nil where nothing bounds it.
func (e *Engine) confine(rec *container.Record) func(dirs ...string) error {
	if size := rec.Disk; size > 0 && len(rec.Host.StorageOpt) > 0 {
		return func(dirs ...string) error { return e.cfg.Disks.Limit(size, dirs...) }
	}
	_, pol := e.settings()
	if rec.Tenant == "" || pol.QuotaOf(rec.Tenant).Disk == 0 || e.disks() != nil {
		return nil
	}
	return func(dirs ...string) error { return e.cfg.Disks.Join(Home(e.cfg.DataRoot, rec.Tenant), dirs...) }
}

// unconfine forgets the bound of a writable layer that goes.
func (e *Engine) unconfine(rec *container.Record) {
	if len(rec.Host.StorageOpt) == 0 || e.disks() != nil {
		return
	}
	if up := e.upperDir(rec.ID); up != "" {
		if err := e.cfg.Disks.Limit(0, up); err != nil {
			e.log.Warn("cannot lift a disk quota", "container", rec.ID, "error", err)
		}
	}
}

// fillDisk reads --storage-opt and notes how much of the disk a container has for
// itself, in full: a size that was asked for, or its virtual machine's disk.
func (e *Engine) fillDisk(rec *container.Record) error {
	opts := rec.Host.StorageOpt
	var size int64
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		if k != "size" {
			return invalid("unknown storage option %q: there is size", k)
		}
		var err error
		if size, err = units.RAMInBytes(opts[k]); err != nil || size <= 0 {
			return invalid("invalid storage option size=%s: want an amount such as 10g", opts[k])
		}
	}
	if own := e.diskOf(rec.Decision.Backend); own > 0 {
		if size > 0 {
			return fmt.Errorf("--storage-opt size cannot be chosen at level %s: every container there has a disk of %s; the host's owner sets how large with the backend's option disk: %w",
				rec.Decision.Level, units.BytesSize(float64(own)), errdefs.ErrNotImplemented)
		}
		rec.Disk = own
		return nil
	}
	if rec.Disk = size; size == 0 {
		return nil
	}
	if err := e.disks(); err != nil {
		return fmt.Errorf("--storage-opt size: %s: %w", reason(err), errdefs.ErrInvalidArgument)
	}
	return nil
}

// diskOf is the size of the disk that a backend gives each container, 0 if they
// share the host's.
func (e *Engine) diskOf(backend string) int64 {
	e.backendMu.Lock()
	defer e.backendMu.Unlock()
	for _, b := range e.backends {
		if b.bin.Name == backend {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, f := range b.info.GetFacts() {
				if f.GetKey() == factDisk {
					n, _ := strconv.ParseInt(f.GetValue(), 10, 64)
					return n
				}
			}
		}
	}
	return 0
}

// keepQuotas tells the kernel the quotas of all tenants that have files here.
func (e *Engine) keepQuotas() {
	entries, err := os.ReadDir(filepath.Dir(Home(e.cfg.DataRoot, "x")))
	if err != nil || e.disks() != nil {
		return
	}
	_, pol := e.settings()
	for _, en := range entries {
		scope, ok := identity.ScopeOf(en.Name())
		if !ok {
			continue
		}
		if pol.QuotaOf(scope).Disk > 0 {
			_, err = e.taken(scope)
		} else {
			err = e.unlimit(scope)
		}
		if err != nil {
			e.log.Error("cannot keep a tenant's disk quota", "tenant", scope, "error", err)
		}
	}
}

// unlimit takes back what the kernel was told of a tenant, now or by an earlier
// engine.
func (e *Engine) unlimit(scope string) error {
	a, home := e.account(scope), Home(e.cfg.DataRoot, scope)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bound = 0
	if used, err := e.cfg.Disks.Used(home); err != nil || used == 0 {
		return err // it was never of a project
	}
	return e.cfg.Disks.Limit(0, home)
}
