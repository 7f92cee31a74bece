package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Connect puts a container that runs on one more network, as r.Endpoints asks of
// it, and gives its new attachment. Errors: as Attach; NotFound also if the
// container has no network of its own here, PermissionDenied if it is on the
// network already, NotImplemented if it cannot be changed while it runs.
func (m *Manager) Connect(ctx context.Context, r Request, id string) (_ *Attachment, err error) {
	m.mu.Lock()
	at, n, err := m.member(r.Container, id)
	if err == nil {
		err = m.usable(n, settingsFor(r, n))
	}
	if err == nil && slices.ContainsFunc(at.Endpoints, func(ep Endpoint) bool { return ep.NetworkID == n.ID }) {
		err = forbidden("endpoint with name %s already exists in network %s", at.name, n.Name)
	}
	if err != nil {
		m.mu.Unlock()
		return nil, err
	}
	n.joining++
	m.mu.Unlock()
	defer m.joined([]*subnetwork{n})

	reach := m.reach(at.Attachment)
	if reach.Path == "" {
		return nil, fmt.Errorf("container %s cannot be connected to a network while it runs at its isolation level: stop it, connect it, and start it again: %w", at.name, errdefs.ErrNotImplemented)
	}
	if n.onHost() {
		_, err = m.driver.Verify(n.bridge())
	} else {
		err = m.bring(&n.Network, false)
	}
	if err != nil {
		return nil, err
	}
	s := settingsFor(r, n)
	ep, link, err := m.placeOn(n, s, freeInterface(at.Endpoints, ifPrefix(n)))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.unplace(ep)
		}
	}()
	ep.DNSNames = namesFor(r, n, s)
	link.Gateway4, link.Gateway6 = netip.Addr{}, netip.Addr{}
	if ep.HostLink, err = m.driver.Plug(ctx, reach, link); err != nil {
		return nil, fmt.Errorf("connect container %s to network %s: %w", at.name, n.Name, err)
	}
	next := *at.Attachment
	next.Endpoints = append(slices.Clone(at.Endpoints), ep)
	if next.Resolve == nil {
		next.Resolve = m.resolve(r, &next)
	}
	if err := m.rearrange(ctx, at, &next, reach); err != nil {
		_ = m.driver.Unplug(reach, ep.HostLink, ep.Interface)
		return nil, fmt.Errorf("connect container %s to network %s: %w", at.name, n.Name, err)
	}
	m.mu.Lock()
	n.Endpoints[r.Container] = ep
	m.mu.Unlock()
	return &next, nil
}

// Disconnect takes a container that runs off a network and gives its new
// attachment. Errors: NotFound if it is not on it.
func (m *Manager) Disconnect(ctx context.Context, container, id string) (*Attachment, error) {
	m.mu.Lock()
	at, n, err := m.member(container, id)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(at.Endpoints, func(ep Endpoint) bool { return ep.NetworkID == n.ID })
	if i < 0 {
		return nil, fmt.Errorf("container %s is not connected to network %s: %w", at.name, n.Name, errdefs.ErrNotFound)
	}
	ep := at.Endpoints[i]
	reach := m.reach(at.Attachment)
	if reach.Path == "" {
		return nil, fmt.Errorf("container %s cannot be disconnected from a network while it runs at its isolation level: stop it first: %w", at.name, errdefs.ErrNotImplemented)
	}
	next := *at.Attachment
	next.Endpoints = slices.Delete(slices.Clone(at.Endpoints), i, i+1)
	if err := m.driver.Unplug(reach, ep.HostLink, ep.Interface); err != nil {
		return nil, fmt.Errorf("disconnect container %s from network %s: %w", at.name, n.Name, err)
	}
	err = m.rearrange(ctx, at, &next, reach)
	m.mu.Lock()
	delete(n.Endpoints, container)
	n.giveBack(ep)
	m.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("disconnect container %s from network %s: %w", at.name, n.Name, err)
	}
	return &next, nil
}

// member finds a container with a network of its own, and a network. The mutex
// is held.
func (m *Manager) member(container, id string) (*attached, *subnetwork, error) {
	at := m.live[container]
	if at == nil {
		return nil, nil, fmt.Errorf("container %s has no network that could be changed: %w", shortID(container), errdefs.ErrNotFound)
	}
	n, err := m.byID(id)
	return at, n, err
}

// freeInterface is the first name of its kind that no endpoint has.
func freeInterface(eps []Endpoint, prefix string) string {
	for i := 0; ; i++ {
		name := prefix + strconv.Itoa(i)
		if !slices.ContainsFunc(eps, func(ep Endpoint) bool { return ep.Interface == name }) {
			return name
		}
	}
}

// rearrange makes a container's routes, names and ports those of its next
// attachment, which is in force from then on.
func (m *Manager) rearrange(ctx context.Context, at *attached, next *Attachment, reach Reach) error {
	via := func(eps []Endpoint) (v4, v6 Via) {
		four, six := gateways(eps)
		if four >= 0 {
			v4 = Via{eps[four].Interface, eps[four].Gateway4}
		}
		if six >= 0 {
			v6 = Via{eps[six].Interface, eps[six].Gateway6}
		}
		return v4, v6
	}
	v4, v6 := via(next.Endpoints)
	// A link that is gone took its routes along: they are set in any case.
	if err := m.driver.Route(reach, v4, v6); err != nil {
		return err
	}
	if next.Resolve != nil {
		if err := m.driver.Serve(ctx, Served{m.host(next), reach}); err != nil {
			return err
		}
	}
	old4, old6, _ := m.targets(at.Endpoints)
	new4, new6, _ := m.targets(next.Endpoints)
	m.mu.Lock()
	at.Attachment = next
	m.mu.Unlock()
	if old4 == new4 && old6 == new6 {
		return nil
	}
	return m.republish(at)
}

// republish leads a container's ports to where it answers now. A port that
// somebody else took in between is lost, and logged.
func (m *Manager) republish(at *attached) error {
	if err := m.unpublish(at); err != nil {
		return err
	}
	for _, p := range at.ports {
		m.ports.release(p)
	}
	ports := at.Ports
	at.ports = nil
	for port, bindings := range ports {
		for _, b := range bindings {
			if err := m.publishOne(at, port, network.PortBinding{HostIP: b.HostIP, HostPort: b.HostPort}); err != nil {
				m.log.Warn("a port is no longer published", "container", at.name, "port", port, "error", err)
			}
		}
	}
	if m.cfg.Firewall == FirewallNone || len(at.ports) == 0 {
		return nil
	}
	return m.driver.Publish(forwards(at.ports), hostLinks(at.Endpoints))
}

// Rename tells the name server a container's new name. Its attachment is given,
// as it is in force.
func (m *Manager) Rename(ctx context.Context, container, was, name string) (*Attachment, error) {
	m.mu.Lock()
	at := m.live[container]
	if at == nil {
		m.mu.Unlock()
		return nil, nil
	}
	next := *at.Attachment
	next.Endpoints = slices.Clone(at.Endpoints)
	for i, ep := range next.Endpoints {
		next.Endpoints[i].DNSNames = slices.Clone(ep.DNSNames)
		if at := slices.Index(ep.DNSNames, was); at >= 0 {
			next.Endpoints[i].DNSNames[at] = name
		}
	}
	at.Attachment, at.name = &next, name
	m.mu.Unlock()
	if next.Resolve == nil {
		return &next, nil
	}
	return &next, m.driver.Serve(ctx, Served{m.host(&next), m.reach(&next)})
}
