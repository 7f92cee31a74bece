package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sync/errgroup"

	"github.com/caisson-engine/caisson/engine/audit"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/spec"
	"github.com/caisson-engine/caisson/engine/store"
	"github.com/caisson-engine/caisson/engine/volume"
	"github.com/caisson-engine/caisson/images"
)

// creation is the intent of a create: what to collect if it is never finished.
// The root and the directory bear the container's id.
type creation struct {
	Volumes []string `json:"volumes,omitempty"` // anonymous ones
	Images  []string `json:"images,omitempty"`  // keys of the layers of image mounts
	Tenant  string   `json:"tenant,omitempty"`  // whose they are
}

// Create makes a container of an image. Nothing runs yet.
func (e *Engine) Create(ctx context.Context, r CreateRequest) (apicontainer.CreateResponse, error) {
	var none apicontainer.CreateResponse
	if err := e.await(ctx); err != nil {
		return none, err
	}
	if r.Config == nil {
		return none, fmt.Errorf("config cannot be empty in order to create a container: %w", errdefs.ErrInvalidArgument)
	}
	e.images.RLock()
	defer e.images.RUnlock()
	img, err := e.cfg.Images.Get(ctx, r.Config.Image, r.Platform)
	if err != nil {
		return none, err
	}
	rec, err := e.plan(ctx, r, img)
	if errdefs.IsNotFound(err) {
		// Clients pull the image when a create finds nothing; the image is here.
		err = fmt.Errorf("%s: %w", reason(err), errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return none, err
	}
	audit.From(ctx).Made(rec.ID, rec.Decision)
	admitted, err := e.admitNew(rec)
	if err != nil {
		return none, err
	}
	defer admitted()
	c := &ctr{id: rec.ID, rec: rec, st: container.Status{V: container.Version, State: container.Created}}
	if err := e.name(rec, r.Name); err != nil {
		return none, err
	}
	defer e.unclaim(c.id)
	if err := e.make(ctx, c, img); err != nil {
		e.ctrs.Unreserve(rec.Tenant, rec.Name, rec.ID)
		return none, err
	}
	e.ctrs.Put(rec.Tenant, c.id, c)
	e.emit(rec, events.ActionCreate)
	return apicontainer.CreateResponse{ID: c.id, Warnings: e.warnings(rec)}, nil
}

// plan decides everything about a container and touches nothing.
func (e *Engine) plan(ctx context.Context, r CreateRequest, img *images.Image) (*container.Record, error) {
	defaults, pol := e.settings()
	id := newID()
	who := identity.From(ctx)
	rec := &container.Record{
		V: container.Version, ID: id, Owner: who.Tenant, Tenant: who.Scope(), Creator: &who, Created: e.now().UTC(),
		Names: trusted(who, r.Config.Image, img), ConfigDigest: img.ConfigDesc.Digest.String(),
		Image: img.ID.String(), ImageRef: r.Config.Image, Manifest: &img.Manifest,
		OS: img.Config.OS, Arch: img.Config.Architecture,
	}
	if rec.OS == "" {
		rec.OS = "linux"
	}
	if r.Networking != nil {
		rec.Endpoints = r.Networking.EndpointsConfig
	}
	var err error
	if rec.Config, err = mergeConfig(r.Config, &img.Config.Config); err != nil {
		return nil, err
	}
	host := apicontainer.HostConfig{}
	if r.HostConfig != nil {
		host = *r.HostConfig
	}
	rec.Host = &host
	if err := e.fillHost(ctx, rec, defaults); err != nil {
		return nil, err
	}
	if err := e.fillMounts(ctx, rec); err != nil {
		return nil, err
	}
	if rec.Decision, err = pol.Decide(e.question(who, rec, defaults)); err != nil {
		return nil, err
	}
	for name := range rec.Endpoints {
		if name != string(host.NetworkMode) && !who.Admin {
			if err := e.networkViolation(rec, name); err != nil {
				return nil, err
			}
		}
	}
	setLimits(&host, rec.Decision.Set)
	if err := e.fillDisk(rec); err != nil {
		return nil, err
	}
	host.Isolation, host.Runtime = isolationOf(rec.Decision.Level), rec.Decision.Backend+"/"+rec.Decision.Level
	if name := logFile(host.LogConfig.Type, id); name != "" {
		rec.LogPath = filepath.Join(e.dir(id), name)
	}
	// A spec that cannot be built is the client's mistake: tell it now. What
	// only a start knows is left out.
	in := e.specInput(rec, defaults)
	in.Join = spec.AnyNamespace
	if _, err := spec.Build(in); err != nil {
		return nil, err
	}
	return rec, nil
}

// warnings tell a client what of its wishes this host cannot fulfil.
func (e *Engine) warnings(rec *container.Record) []string {
	w := []string{}
	for p, bs := range rec.Host.PortBindings {
		if len(bs) > 0 && rec.Host.NetworkMode.IsHost() {
			w = append(w, fmt.Sprintf("Published ports are discarded when using host network mode: %s", p))
		}
	}
	if d := rec.Decision; d.Emulated {
		w = append(w, fmt.Sprintf("level %s is emulated on this host: emulation is no security boundary", d.Level))
	}
	return w
}

// fillMounts resolves every kind of mount that a container may have.
func (e *Engine) fillMounts(ctx context.Context, rec *container.Record) error {
	h := rec.Host
	req := volume.Request{Binds: h.Binds, Mounts: h.Mounts, Tmpfs: h.Tmpfs, Volumes: rec.Config.Volumes, VolumeDriver: h.VolumeDriver}
	for _, from := range h.VolumesFrom {
		ref, ro, err := volume.ParseFrom(from)
		if err != nil {
			return err
		}
		donor, err := e.enter(ctx, ref)
		if err != nil {
			return err
		}
		drec, _ := donor.view()
		for _, m := range drec.Mounts {
			if m.Type == mount.TypeImage {
				continue // its layers go with the donor
			}
			m.ReadOnly = m.ReadOnly || ro
			m.Anonymous = false // it is the donor's
			req.From = append(req.From, m)
		}
	}
	var err error
	if rec.Mounts, err = volume.Resolve(req); err != nil {
		return err
	}
	for i := range rec.Mounts {
		m := &rec.Mounts[i]
		switch {
		case m.Type == mount.TypeVolume && m.Source == "": // one of a donor's stays its tenant's
			m.Tenant = rec.Tenant
			err = e.planVolume(m)
		case m.Type == mount.TypeImage:
			err = e.planImage(ctx, m, fmt.Sprintf("%s.mount%d", rec.ID, i))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// name reserves the name that the client wants, or one of ours.
func (e *Engine) name(rec *container.Record, want string) error {
	if want != "" {
		name, err := checkName(want)
		if err != nil {
			return err
		}
		rec.Name = name
		return e.reserve(rec.Tenant, name, rec.ID)
	}
	for try := range 8 {
		rec.Name = randomName(try)
		if _, err := e.ctrs.Reserve(rec.Tenant, rec.Name, rec.ID); err == nil {
			return nil
		}
	}
	rec.Name = rec.ID[:12]
	return e.reserve(rec.Tenant, rec.Name, rec.ID)
}

func (e *Engine) reserve(scope, name, id string) error {
	owner, err := e.ctrs.Reserve(scope, name, id)
	if err != nil {
		return fmt.Errorf(`Conflict. The container name "/%s" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.: %w`, name, owner, errdefs.ErrConflict) //nolint:staticcheck // Docker's words
	}
	return nil
}

// make carries the plan out: intent, root and directory, record.
func (e *Engine) make(ctx context.Context, c *ctr, img *images.Image) (err error) {
	rec := c.rec
	ctx, cancel := acting(ctx)
	defer cancel()
	intent := creation{Tenant: rec.Tenant}
	for _, m := range rec.Mounts {
		if m.Anonymous {
			intent.Volumes = append(intent.Volumes, m.Name)
		}
		if m.Image != "" {
			intent.Images = append(intent.Images, m.Image)
		}
	}
	op, err := put(keyCreate+c.id, intent)
	if err != nil {
		return err
	}
	if err := e.journal.Apply(false, op); err != nil {
		return err
	}
	e.cfg.Crash("create.intent")
	defer func() {
		if err != nil {
			e.unmake(c.id, intent)
		}
	}()

	var g errgroup.Group
	g.Go(func() error {
		_, err := e.cfg.Images.Prepare(ctx, c.id, img, e.confine(rec))
		return err
	})
	if err := os.MkdirAll(e.dir(c.id), 0o710); err != nil {
		err = fmt.Errorf("create container directory: %w", err)
		_ = g.Wait()
		return err
	}
	if err := e.makeMounts(ctx, rec); err != nil {
		_ = g.Wait()
		return err
	}
	if err := g.Wait(); err != nil {
		return err
	}
	e.cfg.Crash("create.root")

	recOp, err := put(keyRecord+c.id, rec)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// What a client was told must outlive the host's death, unless the
	// container would not.
	if err := e.save(c, !rec.Host.AutoRemove, recOp, store.Op{Key: keyCreate + c.id}); err != nil {
		return err
	}
	e.cfg.Crash("create.record")
	return nil
}

// unmake takes back what a create that failed, or that the engine did not
// survive, has made. It may be repeated.
func (e *Engine) unmake(id string, intent creation) {
	ctx, cancel := acting(e.ctx)
	defer cancel()
	if err := e.cfg.Images.Release(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		e.log.Error("cannot collect the root of a container that was not made", "container", id, "error", err)
		return // the intent stays: the next restore tries again
	}
	if err := os.RemoveAll(e.dir(id)); err != nil {
		e.log.Error("cannot collect the directory of a container that was not made", "container", id, "error", err)
		return
	}
	for _, key := range intent.Images {
		if err := e.cfg.Images.Release(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			e.log.Error("cannot collect an image's mount of a container that was not made", "container", id, "error", err)
			return
		}
	}
	for _, v := range intent.Volumes {
		if err := e.dropAnonymous(volumeKey{intent.Tenant, v}, id); err != nil {
			e.log.Error("cannot collect a volume of a container that was not made", "container", id, "error", err)
			return
		}
	}
	if err := e.journal.Apply(false, store.Op{Key: keyCreate + id}); err != nil {
		e.log.Error("cannot write the journal", "container", id, "error", err)
	}
}

// newID is 64 random hex digits, never all decimal: a short id that is a
// number would be taken for a uid or a port by some tools.
func newID() string {
	for {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails: it ends the program instead
		id := hex.EncodeToString(b[:])
		if slices.ContainsFunc([]byte(id[:12]), func(c byte) bool { return c > '9' }) {
			return id
		}
	}
}
