package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/store"
)

// Networks lists the networks that a client sees: those that are nobody's, and
// its own. Of the containers on one it sees its own.
func (e *Engine) Networks(ctx context.Context) []network.Network {
	who := identity.From(ctx)
	out := []network.Network{}
	for _, n := range e.cfg.Network.NetworksFor(who.Scope()) {
		if n.Tenant != "" && !who.Sees(n.Tenant) {
			continue
		}
		mine := make(map[string]network.Endpoint, len(n.Endpoints))
		for id, ep := range n.Endpoints {
			if _, err := e.ctrs.Find(who, id); err == nil {
				mine[id] = ep
			}
		}
		n.Endpoints = mine
		out = append(out, n)
	}
	return out
}

// FindNetwork finds what a client means by a name, an id or the unambiguous
// beginning of one; of several with a name its own scope's.
func (e *Engine) FindNetwork(ctx context.Context, ref string) (network.Network, error) {
	return pickNetwork(e.Networks(ctx), identity.From(ctx).Scope(), ref)
}

func pickNetwork(all []network.Network, scope, ref string) (network.Network, error) {
	var named, begins []network.Network
	for _, n := range all {
		switch {
		case n.ID == ref, n.Name == ref && n.Tenant == scope:
			return n, nil
		case n.Name == ref:
			named = append(named, n)
		case ref != "" && strings.HasPrefix(n.ID, ref):
			begins = append(begins, n)
		}
	}
	for _, found := range [][]network.Network{named, begins} {
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return network.Network{}, invalid("network %s is ambiguous (%d matches found on name or id): use its id", ref, len(found))
		}
	}
	return network.Network{}, fmt.Errorf("network %s not found: %w", ref, errdefs.ErrNotFound)
}

// networkOf finds what a container's own client would mean by a network's name.
func (e *Engine) networkOf(tenant, ref string) (network.Network, error) {
	all := slices.DeleteFunc(e.cfg.Network.NetworksFor(tenant), func(n network.Network) bool {
		everybodys := n.Name == network.HostNetwork || n.Name == network.NoneNetwork
		return n.Tenant != tenant && !everybodys
	})
	return pickNetwork(all, tenant, ref)
}

// settleEndpoints makes the networks of a container a list of names, that of its
// mode among them. One that is not there is left as it is: a start tells.
func (e *Engine) settleEndpoints(rec *container.Record) {
	mode := rec.Host.NetworkMode
	if mode.IsHost() || mode.IsNone() || mode.IsContainer() {
		// What clients say of them means nothing.
		maps.DeleteFunc(rec.Endpoints, func(name string, _ *apinetwork.EndpointSettings) bool {
			return name == string(mode) || name == apinetwork.NetworkDefault
		})
		return
	}
	called := func(ref string) string {
		if ref == apinetwork.NetworkDefault {
			return network.BridgeNetwork
		}
		if n, err := e.networkOf(rec.Tenant, ref); err == nil {
			return n.Name
		}
		return ref
	}
	rec.Host.NetworkMode = apicontainer.NetworkMode(called(string(mode)))
	settled := map[string]*apinetwork.EndpointSettings{}
	for ref, s := range rec.Endpoints {
		settled[called(ref)] = wish(s)
	}
	if name := string(rec.Host.NetworkMode); settled[name] == nil {
		settled[name] = &apinetwork.EndpointSettings{}
	}
	rec.Endpoints = settled
}

// wish is what a client asks of a network, without what clients repeat of an
// earlier life.
func wish(s *apinetwork.EndpointSettings) *apinetwork.EndpointSettings {
	s = s.Copy()
	if s == nil {
		return &apinetwork.EndpointSettings{}
	}
	return &apinetwork.EndpointSettings{
		IPAMConfig: s.IPAMConfig, Links: s.Links, Aliases: s.Aliases, DriverOpts: s.DriverOpts,
		GwPriority: s.GwPriority, MacAddress: s.MacAddress,
	}
}

// CreateNetwork makes a network.
func (e *Engine) CreateNetwork(ctx context.Context, r network.CreateRequest) (id string, err error) {
	if err := e.await(ctx); err != nil {
		return "", err
	}
	r.Tenant = identity.From(ctx).Scope()
	e.netMu.Lock()
	defer e.netMu.Unlock()
	if r.Tenant != "" {
		have := 0
		for _, n := range e.cfg.Network.NetworksFor(r.Tenant) {
			if n.Made && n.Tenant == r.Tenant {
				have++
			}
		}
		_, pol := e.settings()
		if err := pol.QuotaOf(r.Tenant).AdmitNetwork(r.Tenant, have); err != nil {
			return "", err
		}
	}
	ctx, cancel := acting(ctx)
	defer cancel()
	noted := ""
	n, err := e.cfg.Network.Create(ctx, r, func(n network.Network) error {
		op, err := put(keyNetwork+n.ID, n)
		if err != nil {
			return err
		}
		noted = n.ID
		return e.journal.Apply(true, op)
	})
	if err != nil {
		if noted != "" {
			if err := e.journal.Apply(true, store.Op{Key: keyNetwork + noted}); err != nil {
				e.log.Error("cannot write the journal; a restart makes a network that could not be made", "network", noted, "error", err)
			}
		}
		return "", err
	}
	e.cfg.Crash("network.made")
	e.emitNetwork(n, events.ActionCreate, "")
	return n.ID, nil
}

// RemoveNetwork removes a network that no running container is on.
func (e *Engine) RemoveNetwork(ctx context.Context, ref string) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	n, err := e.FindNetwork(ctx, ref)
	if err != nil {
		return err
	}
	return e.removeNetwork(ctx, n)
}

func (e *Engine) removeNetwork(ctx context.Context, n network.Network) error {
	ctx, cancel := acting(ctx)
	defer cancel()
	if err := e.cfg.Network.Remove(ctx, n.ID, func() error {
		return e.journal.Apply(true, store.Op{Key: keyNetwork + n.ID})
	}); err != nil {
		return err
	}
	e.emitNetwork(n, events.ActionDestroy, "")
	return nil
}

// PruneNetworks removes the networks that no container is on, running or not,
// and that match the filters: label, label! and until.
func (e *Engine) PruneNetworks(ctx context.Context, f map[string][]string) (apinetwork.PruneReport, error) {
	report := apinetwork.PruneReport{NetworksDeleted: []string{}}
	if err := e.await(ctx); err != nil {
		return report, err
	}
	before := e.now()
	for key, values := range f {
		switch key {
		case "label", "label!":
		case "until":
			if len(values) != 1 {
				return report, invalid("more than one until filter specified")
			}
			var err error
			if before, err = e.moment(values[0]); err != nil {
				return report, err
			}
		default:
			return report, invalid("invalid filter '%s'", key)
		}
	}
	who := identity.From(ctx)
	for _, n := range e.Networks(ctx) {
		has := func(label string) bool { return hasLabel(n.Labels, label) }
		lacks := func(label string) bool { return !has(label) }
		if !n.Made || n.Tenant != who.Scope() || n.Created.After(before) || len(n.Endpoints) > 0 || e.networkUsed(n) ||
			slices.ContainsFunc(f["label"], lacks) || slices.ContainsFunc(f["label!"], has) {
			continue
		}
		switch err := e.removeNetwork(ctx, n); {
		case err == nil:
			report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
		case errdefs.IsNotFound(err), errdefs.IsPermissionDenied(err), errdefs.IsConflict(err):
			// Somebody else removed it, or put a container on it.
		default:
			return report, err
		}
	}
	e.publish(who.Scope(), events.NetworkEventType, events.ActionPrune, "", map[string]string{"reclaimed": "0"})
	return report, nil
}

// networkUsed says whether a container wants to be on a network.
func (e *Engine) networkUsed(n network.Network) bool {
	for _, c := range e.ctrs.All() {
		if rec, _ := c.view(); rec.Tenant == n.Tenant && rec.Endpoints[n.Name] != nil {
			return true
		}
	}
	return false
}

// ConnectNetwork puts a container on one more network, from now on if it runs.
func (e *Engine) ConnectNetwork(ctx context.Context, ref, ctrRef string, s *apinetwork.EndpointSettings) error {
	c, n, done, err := e.membership(ctx, ref, ctrRef)
	if err != nil {
		return err
	}
	defer done()
	rec, st := c.view()
	changed := *rec
	changed.Endpoints = maps.Clone(rec.Endpoints)
	if changed.Endpoints == nil {
		changed.Endpoints = map[string]*apinetwork.EndpointSettings{networkName(rec.Host.NetworkMode): {}}
	}
	if changed.Endpoints[n.Name] != nil && st.Network == nil {
		return fmt.Errorf("container %s is already connected to network %s: %w", rec.Name, n.Name, errdefs.ErrConflict)
	}
	changed.Endpoints[n.Name] = wish(s)
	if !identity.From(ctx).Admin {
		if err := e.networkViolation(&changed, n.Name); err != nil {
			return err
		}
	}
	ctx, cancel := acting(ctx)
	defer cancel()
	if st.Network != nil && st.State.Alive() {
		req := e.networkRequest(&changed)
		att, err := e.cfg.Network.Connect(ctx, req, n.ID)
		if err != nil {
			return err
		}
		e.note(c, func(st *container.Status) { st.Network = att })
		if err := e.cfg.Network.RewriteFiles(e.dir(c.id), req, st.Network, att); err != nil {
			e.log.Warn("cannot write a container's name resolution files", "container", c.id, "error", err)
		}
		e.emitEndpoints(&changed, events.ActionConnect, att.Endpoints[len(att.Endpoints)-1:])
	}
	return e.replace(c, &changed, !rec.Host.AutoRemove)
}

// DisconnectNetwork takes a container off a network.
func (e *Engine) DisconnectNetwork(ctx context.Context, ref, ctrRef string, _ bool) error {
	c, n, done, err := e.membership(ctx, ref, ctrRef)
	if err != nil {
		return err
	}
	defer done()
	rec, st := c.view()
	changed := *rec
	changed.Endpoints = maps.Clone(rec.Endpoints)
	if changed.Endpoints == nil {
		changed.Endpoints = map[string]*apinetwork.EndpointSettings{networkName(rec.Host.NetworkMode): {}}
	}
	if changed.Endpoints[n.Name] == nil {
		return fmt.Errorf("container %s is not connected to network %s: %w", c.id, n.Name, errdefs.ErrNotFound)
	}
	delete(changed.Endpoints, n.Name)
	ctx, cancel := acting(ctx)
	defer cancel()
	if st.Network != nil && st.State.Alive() {
		att, err := e.cfg.Network.Disconnect(ctx, c.id, n.ID)
		if err != nil {
			return err
		}
		e.note(c, func(st *container.Status) { st.Network = att })
		if err := e.cfg.Network.RewriteFiles(e.dir(c.id), e.networkRequest(&changed), st.Network, att); err != nil {
			e.log.Warn("cannot write a container's name resolution files", "container", c.id, "error", err)
		}
		e.emitNetwork(n, events.ActionDisconnect, c.id)
	}
	return e.replace(c, &changed, !rec.Host.AutoRemove)
}

// membership finds a network and a container that may be on it, whose operation
// lock is held until done.
func (e *Engine) membership(ctx context.Context, ref, ctrRef string) (c *ctr, n network.Network, done func(), err error) {
	if err := e.await(ctx); err != nil {
		return nil, n, nil, err
	}
	if n, err = e.FindNetwork(ctx, ref); err != nil {
		return nil, n, nil, err
	}
	if c, err = e.enter(ctx, ctrRef); err != nil {
		return nil, n, nil, err
	}
	c.op.Lock()
	defer func() {
		if err != nil {
			c.op.Unlock()
		}
	}()
	rec, st := c.view()
	mode := rec.Host.NetworkMode
	switch {
	case st.State == container.Removing || st.State == container.Dead:
		err = fmt.Errorf("container %s is marked for removal: %w", c.id, errdefs.ErrConflict)
	case n.Name == network.HostNetwork || mode.IsHost():
		err = invalid("container cannot be disconnected from host network or connected to host network")
	case mode.IsContainer():
		err = invalid("container sharing network namespace with another container or host cannot be connected to any other network")
	case n.Name == network.NoneNetwork || mode.IsNone():
		err = invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	case n.Tenant != rec.Tenant:
		err = fmt.Errorf("network %s and container %s are of different tenants: %w", n.Name, rec.Name, errdefs.ErrPermissionDenied)
	}
	return c, n, c.op.Unlock, err
}

// networkViolation says why the policy would not allow a container on a network.
func (e *Engine) networkViolation(rec *container.Record, name string) error {
	on := *rec
	host := *rec.Host
	host.NetworkMode = apicontainer.NetworkMode(name)
	on.Host = &host
	return e.violation(&on)
}

// emitNetwork publishes an event of a network, "" for no container.
func (e *Engine) emitNetwork(n network.Network, action events.Action, ctr string) {
	attrs := map[string]string{"name": n.Name, "type": n.Driver}
	if ctr != "" {
		attrs["container"] = ctr
	}
	e.publish(n.Tenant, events.NetworkEventType, action, n.ID, attrs)
}

// emitEndpoints publishes that a container is on networks, or no longer.
func (e *Engine) emitEndpoints(rec *container.Record, action events.Action, eps []network.Endpoint) {
	for _, ep := range eps {
		e.emitNetwork(network.Network{ID: ep.NetworkID, Name: ep.Network, Driver: ep.Driver, Tenant: rec.Tenant}, action, rec.ID)
	}
}

// namespaceOf is where a running container's network namespace is found, "" if
// the host cannot enter it.
func (e *Engine) namespaceOf(id string) string {
	c, ok := e.ctrs.Get(id)
	if !ok {
		return ""
	}
	rec, st := c.view()
	if st.Pid == 0 || !st.State.Alive() || e.ownStack(rec) {
		return ""
	}
	return donor{rec, st.Pid}.ns("net")
}
