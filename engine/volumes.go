package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	apivolume "github.com/moby/moby/api/types/volume"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/engine/store"
	"github.com/caisson-engine/caisson/engine/volume"
)

// volumeRecord is the durable form of a volume.
type volumeRecord struct {
	V       int               `json:"v"`
	Name    string            `json:"name"`
	Tenant  string            `json:"tenant,omitempty"` // the scope that its name is of
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"`
	// Removing says that its files are being deleted.
	Removing bool `json:"removing,omitempty"`
}

// key is where it is kept: a name may have no slash.
func (r *volumeRecord) key() volumeKey { return volumeKey{r.Tenant, r.Name} }

// volumeKey is a volume's whole name.
type volumeKey struct{ scope, name string }

// String is the name by which its record is kept, and by which an admin calls it.
func (k volumeKey) String() string {
	if k.scope == "" {
		return k.name
	}
	return k.scope + "/" + k.name
}

// vol is one volume in memory.
//
//	made by a client or a container → [mounted while containers have it] → removed
type vol struct {
	// act is held while it is mounted, unmounted, filled or deleted. It is taken
	// before volumes.mu.
	act sync.Mutex

	rec    volumeRecord
	device volume.Device
	claims map[string]bool // containers that are being made with it; guarded by volumes.mu
}

// volumes are all there are.
type volumes struct {
	mu sync.Mutex
	m  map[volumeKey]*vol
}

// labelAnonymous marks volumes that have no name of a client's choice.
const labelAnonymous = "com.docker.volume.anonymous"

// loadVolumes reads the records.
func (e *Engine) loadVolumes() {
	e.vols.m = map[volumeKey]*vol{}
	for _, key := range e.journal.Keys(keyVolume) {
		v := &vol{claims: map[string]bool{}}
		b, err := e.journal.Get(key)
		if err == nil {
			err = container.Decode(b, &v.rec)
		}
		if err == nil {
			v.device, err = volume.ParseDevice(v.rec.Options)
		}
		if err != nil {
			e.log.Error("cannot read a volume's record; it is left alone", "volume", key, "error", err)
			continue
		}
		e.vols.m[v.rec.key()] = v
	}
}

// restoreVolumes finishes removals, unmounts what no container has any more, and
// takes in directories of engines that kept no records.
func (e *Engine) restoreVolumes(ctx context.Context) {
	for _, scope := range e.homes() {
		for _, name := range e.local(scope).Names() {
			k := volumeKey{scope, name}
			e.vols.mu.Lock()
			_, known := e.vols.m[k]
			e.vols.mu.Unlock()
			if known {
				continue
			}
			rec := volumeRecord{V: container.Version, Name: name, Tenant: scope, Created: e.now().UTC()}
			if st, err := os.Stat(e.local(scope).Path(name)); err == nil {
				rec.Created = st.ModTime().UTC()
			}
			if len(name) == 64 && strings.Trim(name, "0123456789abcdef") == "" {
				rec.Labels = map[string]string{labelAnonymous: ""}
			}
			if _, _, err := e.addVolume(rec, volume.Device{}, ""); err != nil {
				e.log.Error("cannot take in a volume", "volume", k, "error", err)
			}
		}
	}
	for _, v := range e.vols.all() {
		if err := e.finishVolume(v); err != nil {
			e.log.Error("cannot finish the removal of a volume", "volume", v.rec.key(), "error", err)
		}
		if err := e.unmountVolume(v, ""); err != nil {
			e.log.Error("cannot unmount a volume", "volume", v.rec.key(), "error", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// finishVolume deletes a volume whose removal was interrupted.
func (e *Engine) finishVolume(v *vol) error {
	v.act.Lock()
	defer v.act.Unlock()
	e.vols.mu.Lock()
	due := v.rec.Removing && e.vols.m[v.rec.key()] == v
	e.vols.mu.Unlock()
	if !due {
		return nil
	}
	return e.deleteVolume(v)
}

// homes are the scopes that have a directory.
func (e *Engine) homes() []string {
	out := []string{""}
	entries, _ := os.ReadDir(filepath.Dir(Home(e.cfg.DataRoot, "x"))) // there are no tenants yet
	for _, en := range entries {
		if scope, ok := identity.ScopeOf(en.Name()); ok {
			out = append(out, scope)
		}
	}
	return out
}

func (vs *volumes) all() []*vol {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	return slices.Collect(maps.Values(vs.m))
}

// addVolume takes in a new volume, or finds the one there is; claim, unless "",
// is the container that is being made with it.
func (e *Engine) addVolume(rec volumeRecord, d volume.Device, claim string) (v *vol, made bool, err error) {
	e.vols.mu.Lock()
	defer e.vols.mu.Unlock()
	v = e.vols.m[rec.key()]
	if v == nil {
		op, err := put(keyVolume+rec.key().String(), rec)
		if err == nil {
			err = e.journal.Apply(false, op)
		}
		if err != nil {
			return nil, false, err
		}
		v, made = &vol{rec: rec, device: d, claims: map[string]bool{}}, true
		e.vols.m[rec.key()] = v
	}
	if v.rec.Removing {
		return nil, false, fmt.Errorf("volume %s is being removed: try again: %w", rec.Name, errdefs.ErrConflict)
	}
	if claim != "" {
		v.claims[claim] = true
	}
	return v, made, nil
}

// admitVolume is addVolume under the tenant's quota.
func (e *Engine) admitVolume(rec volumeRecord, d volume.Device, claim string) (v *vol, made bool, err error) {
	_, pol := e.settings()
	q := policy.Quota{Disk: pol.QuotaOf(rec.Tenant).Disk}
	if rec.Tenant == "" || d.Size == 0 || q.Zero() {
		return e.addVolume(rec, d, claim)
	}
	e.quotaMu.Lock()
	defer e.quotaMu.Unlock()
	have := policy.Quota{Disk: e.used(rec.Tenant, "").Disk}
	if v, made, err = e.addVolume(rec, d, claim); err != nil || !made {
		return v, made, err
	}
	if err := q.Admit(rec.Tenant, have, policy.Quota{Disk: policy.Bytes(d.Size)}); err != nil {
		return nil, false, errors.Join(err, e.dropVolume(v))
	}
	return v, made, nil
}

// reservedBy is what a tenant's volumes have of the disk for themselves.
func (vs *volumes) reservedBy(scope string) (sum policy.Bytes) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for k, v := range vs.m {
		if k.scope == scope {
			sum += policy.Bytes(v.device.Size)
		}
	}
	return sum
}

// makeVolume makes a volume unless it is there. What is new is told.
func (e *Engine) makeVolume(rec volumeRecord, d volume.Device, claim string) (*vol, error) {
	rec.V, rec.Created = container.Version, e.now().UTC()
	v, made, err := e.admitVolume(rec, d, claim)
	if err != nil {
		return nil, err
	}
	v.act.Lock()
	defer v.act.Unlock()
	err = e.local(rec.Tenant).Make(rec.Name)
	if err == nil && made && d.Size > 0 {
		err = e.cfg.Disks.Limit(d.Size, e.local(rec.Tenant).Path(rec.Name))
	}
	if err != nil {
		if made {
			err = errors.Join(err, e.dropVolume(v))
		}
		return nil, err
	}
	if made {
		e.emitVolume(v, events.ActionCreate)
	}
	return v, nil
}

// unclaim ends the claims of a container that was made, or was not.
func (e *Engine) unclaim(id string) {
	e.vols.mu.Lock()
	defer e.vols.mu.Unlock()
	for _, v := range e.vols.m {
		delete(v.claims, id)
	}
}

// readOptions reads a volume's options and says whether this host can have such.
func (e *Engine) readOptions(opts map[string]string) (volume.Device, error) {
	d, err := volume.ParseDevice(opts)
	if err != nil {
		return d, err
	}
	if d.Size > 0 {
		if err := e.disks(); err != nil {
			return d, fmt.Errorf("volume option size: %s: %w", reason(err), errdefs.ErrInvalidArgument)
		}
	}
	return d, e.canMount(d.Mounted(), "a volume of type "+d.Type)
}

// CreateVolume makes a volume, or finds the one of that name.
func (e *Engine) CreateVolume(ctx context.Context, r apivolume.CreateRequest) (apivolume.Volume, error) {
	none := apivolume.Volume{}
	if err := e.await(ctx); err != nil {
		return none, err
	}
	rec := volumeRecord{Name: r.Name, Tenant: identity.From(ctx).Scope(), Labels: r.Labels, Options: r.DriverOpts}
	if rec.Name == "" {
		rec.Name, rec.Labels = volume.NewName(), maps.Clone(r.Labels)
		if rec.Labels == nil {
			rec.Labels = map[string]string{}
		}
		rec.Labels[labelAnonymous] = ""
	}
	if err := volume.ValidName(rec.Name); err != nil {
		return none, err
	}
	if r.Driver != "" && r.Driver != "local" {
		return none, fmt.Errorf("create %s: error looking up volume plugin %s: plugin %q not found: %w", rec.Name, r.Driver, r.Driver, errdefs.ErrNotFound)
	}
	d, err := e.readOptions(r.DriverOpts)
	if err != nil {
		return none, fmt.Errorf("create %s: %w", rec.Name, err)
	}
	// Containers are judged again when they want it: rules may look at their image.
	_, pol := e.settings()
	asks := policy.Asks(&apicontainer.HostConfig{}, volume.OptionBinds(r.DriverOpts), policy.Base{})
	if err := pol.Permit(policy.Input{Identity: identity.From(ctx), Asks: asks}); err != nil {
		return none, err
	}
	if _, err := e.Room(rec.Tenant); err != nil {
		return none, err
	}
	v, err := e.makeVolume(rec, d, "")
	if err != nil {
		return none, err
	}
	return e.volumeShape(ctx, v), nil
}

// findVolume finds what a client means: a volume of its own, for an admin also
// one of a tenant's, by its name alone if no other has it, else by tenant/name.
func (e *Engine) findVolume(ctx context.Context, ref string) (*vol, error) {
	who := identity.From(ctx)
	e.vols.mu.Lock()
	defer e.vols.mu.Unlock()
	if v := e.vols.m[volumeKey{who.Scope(), ref}]; v != nil {
		return v, nil
	}
	if who.Admin {
		var found []*vol
		for k, v := range e.vols.m {
			if k.String() == ref {
				return v, nil
			}
			if k.name == ref {
				found = append(found, v)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return nil, invalid("several tenants have a volume %s: say tenant/%s", ref, ref)
		}
	}
	return nil, fmt.Errorf("get %s: no such volume: %w", ref, errdefs.ErrNotFound)
}

// visibleVolumes are those that a client sees, sorted.
func (e *Engine) visibleVolumes(ctx context.Context) []*vol {
	who := identity.From(ctx)
	out := slices.DeleteFunc(e.vols.all(), func(v *vol) bool { return !who.Sees(v.rec.Tenant) })
	slices.SortFunc(out, func(a, b *vol) int {
		return cmp.Or(cmp.Compare(a.rec.Tenant, b.rec.Tenant), cmp.Compare(a.rec.Name, b.rec.Name))
	})
	return out
}

// volumeUsers are the containers that have each volume, whether they run or not.
func (e *Engine) volumeUsers() map[volumeKey][]string {
	users := map[volumeKey][]string{}
	for _, c := range e.ctrs.All() {
		rec, _ := c.view()
		for _, m := range rec.Mounts {
			if k := (volumeKey{m.Tenant, m.Name}); m.Type == mount.TypeVolume && !slices.Contains(users[k], c.id) {
				users[k] = append(users[k], c.id)
			}
		}
	}
	return users
}

// volumeShape is a volume as the API has it.
func (e *Engine) volumeShape(ctx context.Context, v *vol) apivolume.Volume {
	out := apivolume.Volume{
		Name: v.rec.Name, Driver: "local", Scope: "local", Mountpoint: e.local(v.rec.Tenant).Path(v.rec.Name),
		CreatedAt: v.rec.Created.Format(time.RFC3339), Labels: v.rec.Labels, Options: v.rec.Options,
	}
	if v.rec.Tenant != identity.From(ctx).Scope() {
		out.Name = v.rec.key().String() // an admin looks at a tenant's
	}
	return out
}

// InspectVolume tells all about a volume.
func (e *Engine) InspectVolume(ctx context.Context, ref string) (apivolume.Volume, error) {
	v, err := e.findVolume(ctx, ref)
	if err != nil {
		return apivolume.Volume{}, err
	}
	return e.volumeShape(ctx, v), nil
}

// volumeFilters tell for each filter whether a volume passes one of its values.
var volumeFilters = map[string]func(v *vol, used bool, value string) (bool, error){
	"dangling": func(_ *vol, used bool, value string) (bool, error) {
		b, err := strconv.ParseBool(value)
		if err != nil {
			return false, invalid("invalid filter 'dangling=%s'", value)
		}
		return b != used, nil
	},
	"driver": func(_ *vol, _ bool, value string) (bool, error) { return value == "local", nil },
	"name": func(v *vol, _ bool, value string) (bool, error) {
		re, err := nameFilter(value)
		return err == nil && re.MatchString(v.rec.Name), err
	},
	"label":  func(v *vol, _ bool, value string) (bool, error) { return hasLabel(v.rec.Labels, value), nil },
	"label!": func(v *vol, _ bool, value string) (bool, error) { return !hasLabel(v.rec.Labels, value), nil },
}

// passes says whether a volume matches: one value of each filter, all of labels.
func (v *vol) passes(used bool, f map[string][]string) (bool, error) {
	for key, values := range f {
		test := volumeFilters[key]
		if test == nil {
			return false, invalid("invalid filter '%s'", key)
		}
		any := false
		for _, value := range values {
			ok, err := test(v, used, value)
			if err != nil || !ok && needsAll[key] {
				return false, err
			}
			any = any || ok
		}
		if !any && len(values) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// Volumes lists what a client sees.
func (e *Engine) Volumes(ctx context.Context, f map[string][]string) ([]apivolume.Volume, error) {
	out := []apivolume.Volume{}
	if _, err := (&vol{}).passes(false, f); err != nil {
		return nil, err
	}
	users := e.volumeUsers()
	for _, v := range e.visibleVolumes(ctx) {
		if ok, err := v.passes(len(users[v.rec.key()]) > 0, f); err != nil {
			return nil, err
		} else if ok {
			out = append(out, e.volumeShape(ctx, v))
		}
	}
	return out, nil
}

// volumeUsage is Volumes with what each takes.
func (e *Engine) volumeUsage(ctx context.Context) ([]apivolume.Volume, error) {
	users := e.volumeUsers()
	out := []apivolume.Volume{}
	for _, v := range e.visibleVolumes(ctx) {
		s := e.volumeShape(ctx, v)
		s.UsageData = &apivolume.UsageData{RefCount: int64(len(users[v.rec.key()])), Size: e.volumeSize(ctx, v)}
		out = append(out, s)
	}
	return out, ctx.Err()
}

// volumeSize is what a volume takes; -1 where that is not known.
func (e *Engine) volumeSize(ctx context.Context, v *vol) int64 {
	if v.device.Mounted() || e.cfg.Disks == nil {
		return -1
	}
	n, err := e.cfg.Disks.Measure(ctx, filepath.Dir(e.local(v.rec.Tenant).Path(v.rec.Name)))
	if err != nil {
		return -1
	}
	return n
}

// RemoveVolume deletes a volume that no container has.
func (e *Engine) RemoveVolume(ctx context.Context, ref string, force bool) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	v, err := e.findVolume(ctx, ref)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	return e.removeVolume(v, "")
}

// removeVolume deletes a volume unless a container other than one has it.
func (e *Engine) removeVolume(v *vol, but string) error {
	v.act.Lock()
	defer v.act.Unlock()
	e.vols.mu.Lock()
	users := append(slices.Collect(maps.Keys(v.claims)), e.volumeUsers()[v.rec.key()]...)
	users = slices.DeleteFunc(users, func(id string) bool { return id == but })
	gone := e.vols.m[v.rec.key()] != v
	if len(users) == 0 && !gone {
		v.rec.Removing = true
	}
	rec := v.rec
	e.vols.mu.Unlock()
	switch {
	case gone:
		return fmt.Errorf("get %s: no such volume: %w", rec.Name, errdefs.ErrNotFound)
	case len(users) > 0:
		return fmt.Errorf("remove %s: volume is in use - [%s]: %w", rec.Name, strings.Join(users, ", "), errdefs.ErrConflict)
	}
	op, err := put(keyVolume+rec.key().String(), rec)
	if err == nil {
		err = e.journal.Apply(false, op)
	}
	e.cfg.Crash("volume.removing")
	if err == nil {
		err = e.deleteVolume(v)
	}
	if err != nil {
		e.vols.mu.Lock()
		v.rec.Removing = false // it can be tried again
		e.vols.mu.Unlock()
	}
	return err
}

// deleteVolume deletes the files of a volume that is marked so, and its record.
func (e *Engine) deleteVolume(v *vol) error {
	dir := e.local(v.rec.Tenant).Path(v.rec.Name)
	if v.device.Mounted() {
		if err := e.cfg.Mounts.Unmount(dir); err != nil {
			return fmt.Errorf("remove %s: %w", v.rec.Name, err)
		}
	}
	if v.device.Size > 0 && e.disks() == nil {
		if err := e.cfg.Disks.Limit(0, dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			e.log.Warn("cannot lift a volume's disk quota", "volume", v.rec.key(), "error", err)
		}
	}
	if err := e.dropVolume(v); err != nil {
		return err
	}
	e.emitVolume(v, events.ActionDestroy)
	return nil
}

// dropVolume deletes what is left of a volume.
func (e *Engine) dropVolume(v *vol) error {
	if err := e.local(v.rec.Tenant).Remove(v.rec.Name, v.device.Mounted()); err != nil {
		return err
	}
	e.vols.mu.Lock()
	defer e.vols.mu.Unlock()
	if err := e.journal.Apply(false, store.Op{Key: keyVolume + v.rec.key().String()}); err != nil {
		return err
	}
	delete(e.vols.m, v.rec.key())
	return nil
}

// dropAnonymous deletes a volume that goes with its container.
func (e *Engine) dropAnonymous(k volumeKey, id string) error {
	e.vols.mu.Lock()
	v := e.vols.m[k]
	e.vols.mu.Unlock()
	if v == nil {
		return e.local(k.scope).Remove(k.name, false)
	}
	err := e.removeVolume(v, id)
	if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
		return nil // another container has it too, or it is gone
	}
	return err
}

// PruneVolumes deletes the volumes that no container has and that match: unless
// all is among the filters only those without a name of a client's choice.
func (e *Engine) PruneVolumes(ctx context.Context, f map[string][]string) (apivolume.PruneReport, error) {
	report := apivolume.PruneReport{VolumesDeleted: []string{}}
	if err := e.await(ctx); err != nil {
		return report, err
	}
	f = maps.Clone(f)
	all := false
	for _, v := range f["all"] {
		var err error
		if all, err = strconv.ParseBool(v); err != nil {
			return report, invalid("invalid filter 'all=%s'", v)
		}
	}
	delete(f, "all")
	if _, err := (&vol{}).passes(false, f); err != nil {
		return report, err
	}
	users := e.volumeUsers()
	for _, v := range e.visibleVolumes(ctx) {
		_, anonymous := v.rec.Labels[labelAnonymous]
		match, err := v.passes(false, f)
		if err != nil {
			return report, err
		}
		if !match || !all && !anonymous || len(users[v.rec.key()]) > 0 {
			continue
		}
		size := e.volumeSize(ctx, v)
		switch err := e.removeVolume(v, ""); {
		case errdefs.IsConflict(err), errdefs.IsNotFound(err):
			continue // somebody took or removed it meanwhile
		case err != nil:
			return report, err
		}
		report.VolumesDeleted = append(report.VolumesDeleted, e.volumeShape(ctx, v).Name)
		report.SpaceReclaimed += uint64(max(size, 0))
	}
	e.publish(identity.From(ctx).Scope(), events.VolumeEventType, events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)})
	return report, nil
}

// emitVolume publishes an event of a volume.
func (e *Engine) emitVolume(v *vol, action events.Action, pairs ...string) {
	attrs := map[string]string{"driver": "local"}
	for i := 0; i+1 < len(pairs); i += 2 {
		attrs[pairs[i]] = pairs[i+1]
	}
	e.publish(v.rec.Tenant, events.VolumeEventType, action, v.rec.Name, attrs)
}

// ExportVolume is a tar of what is in a volume. The caller closes it.
func (e *Engine) ExportVolume(ctx context.Context, ref string) (io.ReadCloser, error) {
	v, dir, done, err := e.openVolume(ctx, ref)
	if err != nil {
		return nil, err
	}
	tar, err := e.cfg.Mounts.Pack(dir)
	if err != nil {
		done()
		return nil, fmt.Errorf("export volume %s: %w", v.rec.Name, err)
	}
	return &closing{tar, done}, nil
}

// closing is a stream that something follows.
type closing struct {
	io.ReadCloser
	done func()
}

func (c *closing) Close() error {
	defer c.done()
	return c.ReadCloser.Close()
}

// ImportVolume fills an empty volume, made if there is none of that name, with
// what is in a tar.
func (e *Engine) ImportVolume(ctx context.Context, ref string, tar io.Reader) (err error) {
	if _, ferr := e.findVolume(ctx, ref); errdefs.IsNotFound(ferr) {
		if _, err := e.CreateVolume(ctx, apivolume.CreateRequest{Name: ref}); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, e.RemoveVolume(ctx, ref, true))
			}
		}()
	}
	v, dir, done, err := e.openVolume(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	room, err := e.Room(v.rec.Tenant)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return cmp.Or(err, fmt.Errorf("volume %s is not empty: import into a new one, or remove it first: %w", v.rec.Name, errdefs.ErrConflict))
	}
	if err := e.cfg.Mounts.Unpack(dir, &bounded{tar, room}, identity.From(ctx).Admin); err != nil {
		return fmt.Errorf("import volume %s: %w", v.rec.Name, err)
	}
	return nil
}

// bounded is a reader that fails after so many bytes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, fmt.Errorf("the archive is larger than the disk quota has room for: %w", errdefs.ErrPermissionDenied)
	}
	return n, err
}

// openVolume is a volume's directory with what is to be mounted there. Until done
// it is neither unmounted nor removed.
func (e *Engine) openVolume(ctx context.Context, ref string) (v *vol, dir string, done func(), err error) {
	if err := e.await(ctx); err != nil {
		return nil, "", nil, err
	}
	if e.cfg.Mounts == nil {
		return nil, "", nil, fmt.Errorf("volumes cannot be read or written on this host: %w", errdefs.ErrNotImplemented)
	}
	if v, err = e.findVolume(ctx, ref); err != nil {
		return nil, "", nil, err
	}
	// The claim is a container's that never comes to be.
	claim := newID()
	e.vols.mu.Lock()
	if v.rec.Removing || e.vols.m[v.rec.key()] != v {
		e.vols.mu.Unlock()
		return nil, "", nil, fmt.Errorf("volume %s is being removed: %w", v.rec.Name, errdefs.ErrConflict)
	}
	v.claims[claim] = true
	e.vols.mu.Unlock()
	done = func() {
		e.unclaim(claim)
		if err := e.unmountVolume(v, ""); err != nil {
			e.log.Error("cannot unmount a volume", "volume", v.rec.key(), "error", err)
		}
	}
	if err := e.mountVolume(v); err != nil {
		done()
		return nil, "", nil, err
	}
	return v, e.local(v.rec.Tenant).Path(v.rec.Name), done, nil
}
