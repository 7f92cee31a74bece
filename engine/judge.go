package engine

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/engine/spec"
	"github.com/caisson-engine/caisson/engine/volume"
	"github.com/caisson-engine/caisson/images"
)

// Identify says what an authenticated client is on this host: the API asks it
// once for every request, and everything else goes by the answer.
func (e *Engine) Identify(id identity.Identity) (identity.Identity, error) {
	_, pol := e.settings()
	return pol.Identify(id)
}

// SharesImage says whether tenants may use an image of the host owner's that has
// this name in full.
func (e *Engine) SharesImage(name string) bool {
	_, pol := e.settings()
	return pol.Shares(name)
}

// MayUseRegistry says whether a client may have the engine speak to a registry.
func (e *Engine) MayUseRegistry(ctx context.Context, host string) error {
	_, pol := e.settings()
	return pol.Registry(identity.From(ctx), host)
}

// local are the directories of a scope's volumes.
func (e *Engine) local(scope string) *volume.Local {
	return volume.NewLocal(filepath.Join(Home(e.cfg.DataRoot, scope), "volumes"))
}

// Home is the directory of what belongs to a scope: the data root itself for the
// host's owner.
func Home(dataRoot, scope string) string {
	if scope == "" {
		return dataRoot
	}
	return filepath.Join(dataRoot, "tenants", identity.Dir(scope))
}

// trusted are the full names by which rules know an image. An admin's word is
// good; a tenant can call an image of its own what it likes, so that of its
// names only those count that the registry gave.
func trusted(who identity.Identity, ref string, img *images.Image) []string {
	if !who.Admin {
		return img.Proven
	}
	var out []string
	if !isID(ref) {
		out = append(out, policy.FullName(ref))
	}
	for _, n := range img.Names {
		if full := policy.FullName(n); !slices.Contains(out, full) {
			out = append(out, full)
		}
	}
	return out
}

// isID tells that a reference is an image's id, or the start of one.
func isID(ref string) bool {
	ref, has := strings.CutPrefix(ref, "sha256:")
	return has || len(ref) >= 12 && strings.Trim(ref, "0123456789abcdef") == ""
}

// base is what a container has that asks for nothing.
func (e *Engine) base(d Defaults) policy.Base {
	var h apicontainer.HostConfig
	spec.PathDefaults(&h, nil)
	return policy.Base{
		Cgroupns: d.CgroupnsMode, CgroupParent: d.CgroupParent, NoNewPrivileges: d.NoNewPrivileges,
		MaskedPaths: h.MaskedPaths, ReadonlyPaths: h.ReadonlyPaths,
	}
}

// question is what the policy is asked about a planned container.
func (e *Engine) question(who identity.Identity, rec *container.Record, d Defaults) policy.Input {
	in := policy.Input{
		Identity: who, Image: rec.ImageRef, Names: rec.Names, OS: rec.OS, Backends: e.choices(),
	}.Of(rec.Config, rec.Host, volume.Binds(rec.Mounts), e.base(d))
	in.Digests = append(in.Digests, rec.Image)
	if rec.Manifest != nil {
		in.Digests = append(in.Digests, rec.Manifest.Digest.String())
	}
	if rec.ConfigDigest != "" {
		in.Digests = append(in.Digests, rec.ConfigDigest)
	}
	return in
}

// setLimits gives a container the limits that a rule has for those that name none.
func setLimits(h *apicontainer.HostConfig, l policy.Limits) {
	if l.Memory > 0 {
		h.Memory = int64(l.Memory)
		h.MemorySwap = cmp.Or(h.MemorySwap, 2*h.Memory)
	}
	if l.CPUs > 0 {
		h.NanoCPUs = int64(l.CPUs * 1e9)
	}
	if l.Pids > 0 {
		n := l.Pids
		h.PidsLimit = &n
	}
}

// creator is who made a container, as the policy sees them now.
func creator(rec *container.Record, pol *policy.Policy) (identity.Identity, error) {
	if rec.Creator == nil {
		return identity.Identity{Tenant: rec.Owner, Admin: true, UID: -1, GID: -1}, nil // from before they were noted
	}
	who := *rec.Creator
	if who.Tenant != identity.Engine.Tenant {
		who.Tenant, who.Admin = who.Name(), false
	}
	return pol.Identify(who)
}

// violation says why the policy would not allow a container as it is; more are
// options that something asks for on top.
func (e *Engine) violation(rec *container.Record, more ...policy.Ask) error {
	defaults, pol := e.settings()
	who, err := creator(rec, pol)
	if err != nil {
		return err
	}
	in := e.question(who, rec, defaults)
	in.Asks = append(in.Asks, more...)
	in.Resources.NoLimits = true
	d := rec.Decision
	return pol.Violation(in, policy.Level{Name: d.Level, Strength: d.Strength}, d.Emulated)
}

// Violation is a container that the policy, as it is now, would not allow.
type Violation struct {
	ID, Name string
	Tenant   string // "" for the host's owner
	State    string
	Rule     string
	Reason   string
}

// Violations lists the containers that the policy would not allow to be made as
// they are: it changed after they were.
func (e *Engine) Violations(ctx context.Context) []Violation {
	out := []Violation{}
	for _, c := range e.ctrs.Visible(identity.From(ctx)) {
		rec, st := c.view()
		if err := e.violation(rec); err != nil {
			out = append(out, Violation{
				ID: rec.ID, Name: rec.Name, Tenant: rec.Tenant, State: string(st.State.API()),
				Rule: policy.RuleOf(err), Reason: reason(err),
			})
		}
	}
	slices.SortFunc(out, func(a, b Violation) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out
}

// reviewed logs what a new policy would no longer allow.
func (e *Engine) reviewed() {
	for _, v := range e.Violations(e.ctx) {
		e.log.Warn("a container violates the policy; it goes on until it is removed", "container", v.ID, "name", v.Name,
			"tenant", v.Tenant, "state", v.State, "rule", v.Rule, "reason", v.Reason)
	}
}

// usage is what a container counts for in its tenant's quota.
func usage(rec *container.Record) policy.Quota {
	r := policy.ResourcesOf(&rec.Host.Resources)
	q := policy.Quota{Containers: 1, Memory: policy.Bytes(max(r.Memory, 0)), CPUs: max(r.CPUs, 0), Pids: max(r.Pids, 0), Disk: policy.Bytes(rec.Disk)}
	for _, b := range rec.Host.PortBindings {
		q.PublishedPorts += len(b)
	}
	if rec.Host.PublishAllPorts {
		for p := range rec.Config.ExposedPorts {
			if len(rec.Host.PortBindings[p]) == 0 {
				q.PublishedPorts++
			}
		}
	}
	return q
}

// admit lets a container in under its tenant's quota, where it takes the place
// of one with the same id; taken is what the tenant's files take. It counts until
// the caller calls done, by when the index has it.
func (e *Engine) admit(rec *container.Record, taken policy.Bytes) (done func(), err error) {
	_, pol := e.settings()
	if rec.Tenant == "" {
		return func() {}, nil
	}
	q := pol.QuotaOf(rec.Tenant)
	if q.Zero() {
		return func() {}, nil
	}
	e.quotaMu.Lock()
	defer e.quotaMu.Unlock()
	have := e.used(rec.Tenant, rec.ID)
	have.Disk += taken
	if err := q.Admit(rec.Tenant, have, usage(rec)); err != nil {
		return nil, err
	}
	e.pending[rec.ID] = rec
	return func() {
		e.quotaMu.Lock()
		defer e.quotaMu.Unlock()
		delete(e.pending, rec.ID)
	}, nil
}

// used is what a tenant's containers and volumes have in sum, but for one
// container. The caller holds quotaMu. What is under way counts as it will be.
func (e *Engine) used(tenant, but string) (sum policy.Quota) {
	for id, rec := range e.pending {
		if rec.Tenant == tenant && id != but {
			sum = sum.Add(usage(rec))
		}
	}
	for _, c := range e.ctrs.Visible(identity.Identity{Tenant: tenant}) {
		if _, ok := e.pending[c.id]; !ok && c.id != but {
			rec, _ := c.view()
			sum = sum.Add(usage(rec))
		}
	}
	sum.Disk += e.vols.reservedBy(tenant)
	return sum
}

// mayChange says whether a client may change a container to be as rec.
func (e *Engine) mayChange(ctx context.Context, rec *container.Record) (done func(), err error) {
	if !identity.From(ctx).Admin {
		if err := e.violation(rec); err != nil {
			return nil, err
		}
	}
	return e.admit(rec, 0)
}

// admitNew is admit for one that is being made.
func (e *Engine) admitNew(rec *container.Record) (done func(), err error) {
	taken, err := e.taken(rec.Tenant)
	if err != nil {
		return nil, err
	}
	return e.admit(rec, taken)
}

// Explanation is what Explain answers.
type Explanation struct {
	Client     string // uid:1000
	Tenant     string // "" for an admin
	Admin      bool
	Allowed    bool
	Level      string `json:",omitempty"`
	Backend    string `json:",omitempty"`
	Strength   int    `json:",omitempty"`
	Emulated   bool   `json:",omitempty"`
	Rule       string `json:",omitempty"`
	Reason     string
	Refused    string        `json:",omitempty"` // why it would be refused
	Options    []string      // that not everybody may have, and that it asks for
	ImageNames []string      // by which rules know the image
	ImageHere  bool          // else it was judged by its name alone
	Memory     int64         `json:",omitempty"` // limits that it would have
	CPUs       float64       `json:",omitempty"`
	Pids       int64         `json:",omitempty"`
	Quota      *policy.Quota `json:",omitempty"` // of the tenant
	Used       *policy.Quota `json:",omitempty"` // of it, now
}

// Explain tells what would become of a create, and makes nothing. as, unless
// nil, is who would ask: only an admin may ask about another.
func (e *Engine) Explain(ctx context.Context, r CreateRequest, as *identity.Identity) (Explanation, error) {
	if err := e.await(ctx); err != nil {
		return Explanation{}, err
	}
	if r.Config == nil {
		return Explanation{}, invalid("config cannot be empty in order to explain a container")
	}
	if as != nil {
		if !identity.From(ctx).Admin {
			return Explanation{}, fmt.Errorf("only an admin may ask about another client: %w", errdefs.ErrPermissionDenied)
		}
		id, err := e.Identify(*as)
		if err != nil {
			return Explanation{Client: as.Name(), Rule: policy.RuleOf(err), Refused: reason(err)}, nil
		}
		ctx = identity.With(ctx, id)
	}
	who := identity.From(ctx)
	x := Explanation{Client: who.Name(), Admin: who.Admin, Tenant: who.Scope(), Options: []string{}}
	img, err := e.cfg.Images.Get(ctx, r.Config.Image, r.Platform)
	if x.ImageHere = err == nil; err != nil {
		// As if it had been pulled by that name.
		img = &images.Image{ID: digest.FromString(r.Config.Image), Proven: []string{policy.FullName(r.Config.Image)}}
		img.Config.Config.Cmd = []string{"?"}
	}
	rec, planErr := e.plan(ctx, r, img)
	if planErr == nil {
		d := rec.Decision
		x.Level, x.Backend, x.Strength, x.Emulated, x.Rule, x.Reason = d.Level, d.Backend, d.Strength, d.Emulated, d.Rule, d.Reason
		res := policy.ResourcesOf(&rec.Host.Resources)
		x.Memory, x.CPUs, x.Pids, x.ImageNames = res.Memory, res.CPUs, res.Pids, rec.Names
		done, err := e.admitNew(rec)
		if planErr = err; err == nil {
			done()
		}
	}
	e.explainAsks(&x, r)
	if x.Tenant != "" {
		_, pol := e.settings()
		if q := pol.QuotaOf(x.Tenant); !q.Zero() {
			e.quotaMu.Lock()
			used := e.used(x.Tenant, "")
			e.quotaMu.Unlock()
			taken, _ := e.taken(x.Tenant) // else admission has said what is wrong
			used.Disk += taken
			x.Quota, x.Used = &q, &used
		}
	}
	if planErr != nil {
		x.Refused = reason(planErr)
		x.Rule = cmp.Or(policy.RuleOf(planErr), x.Rule)
		return x, nil
	}
	x.Allowed = true
	return x, nil
}

// explainAsks lists the privileged options of a request.
func (e *Engine) explainAsks(x *Explanation, r CreateRequest) {
	h := r.HostConfig
	if h == nil {
		return
	}
	defaults, _ := e.settings()
	// What cannot be read was refused already.
	mounts, _ := volume.Resolve(volume.Request{Binds: h.Binds, Mounts: h.Mounts, VolumeDriver: h.VolumeDriver})
	for _, a := range policy.Asks(h, volume.Binds(mounts), e.base(defaults)) {
		x.Options = append(x.Options, a.String())
	}
}
