package network

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Attach gives a container its network. The Netns must be closed by the caller
// once a sandbox holds it. Errors: NotFound (no such network), InvalidArgument,
// AlreadyExists (attached already), Conflict (a port or address is taken),
// ResourceExhausted (no address or port is left), Unavailable (the host cannot).
func (m *Manager) Attach(ctx context.Context, r Request) (_ *Attachment, _ *Netns, err error) {
	mode := canonicalMode(r.Mode)
	a := &Attachment{Container: r.Container, Mode: mode, SandboxID: randomID()}
	if mode == HostNetwork || strings.HasPrefix(mode, "container:") {
		return a, &Netns{}, nil
	}
	m.spares.begin()
	defer m.spares.end()
	if mode == NoneNetwork {
		sandbox, err := m.openNone(ctx, r)
		if err != nil {
			return nil, nil, err
		}
		return a, &Netns{Path: sandbox.Path, close: sandbox.Close}, nil
	}

	at := &attached{Attachment: a, name: cmp.Or(r.Name, shortID(r.Container))}
	if r.Tenant != "" && slices.Contains(r.wants(), BridgeNetwork) {
		if err := m.ensureTenant(r.Tenant); err != nil {
			return nil, nil, fmt.Errorf("network of container %s: %w", at.name, err)
		}
	}
	nets, err := m.claim(r)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			m.give(r.Container, at)
		}
		m.joined(nets)
	}()
	sandbox, err := m.openOn(ctx, nets, r, at)
	if err != nil {
		return nil, nil, fmt.Errorf("network of container %s: %w", at.name, err)
	}
	a.Namespace = sandbox.ID
	defer func() {
		if err != nil {
			m.driver.Unserve(r.Container)
			_ = sandbox.Close()
		}
	}()
	if a.Resolve = m.resolve(r, a); a.Resolve != nil {
		if err := m.driver.Serve(ctx, Served{m.host(a), Reach{sandbox.Path, sandbox.ID}}); err != nil {
			return nil, nil, fmt.Errorf("network of container %s: %w", at.name, err)
		}
	}
	if a.Ports, err = m.publish(r, at); err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	for i, n := range nets {
		n.Endpoints[r.Container] = a.Endpoints[i]
	}
	m.live[r.Container] = at
	m.mu.Unlock()
	return a, &Netns{Path: sandbox.Path, close: sandbox.Close}, nil
}

// wants are the names of the networks that a container shall be on, the one of
// its mode first.
func (r *Request) wants() []string {
	mode := canonicalMode(r.Mode)
	if len(r.Endpoints) == 0 {
		return []string{mode}
	}
	names := make([]string, 0, len(r.Endpoints))
	for name := range r.Endpoints {
		names = append(names, canonicalMode(name))
	}
	slices.Sort(names)
	if i := slices.Index(names, mode); i > 0 {
		names = slices.Concat([]string{mode}, names[:i], names[i+1:])
	}
	return names
}

// openNone gives a namespace with nothing but the loopback interface.
func (m *Manager) openNone(ctx context.Context, r Request) (*Sandbox, error) {
	if len(r.Sysctls) == 0 {
		if s, ok := m.spares.take(NoneNetwork); ok {
			return s.sandbox, nil
		}
	}
	sandbox, err := m.driver.Open(ctx, Namespace{Sysctls: r.Sysctls})
	if err != nil {
		return nil, fmt.Errorf("network of container %s: %w", shortID(r.Container), err)
	}
	return sandbox, nil
}

// claim finds a container's networks and marks the container as being attached.
// They cannot be removed until joined.
func (m *Manager) claim(r Request) ([]*subnetwork, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var nets []*subnetwork
	for _, name := range r.wants() {
		n, err := m.find(r.Tenant, name)
		if err != nil {
			return nil, err
		}
		if err := m.usable(n, settingsFor(r, n)); err != nil {
			return nil, err
		}
		if !slices.Contains(nets, n) {
			nets = append(nets, n)
		}
	}
	if _, ok := m.live[r.Container]; ok {
		return nil, fmt.Errorf("container %s already has a network: %w", shortID(r.Container), errdefs.ErrAlreadyExists)
	}
	m.live[r.Container] = nil
	for _, n := range nets {
		n.joining++
	}
	return nets, nil
}

// joined is the end of a claim.
func (m *Manager) joined(nets []*subnetwork) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range nets {
		n.joining--
	}
}

// usable says whether a container may be on a network in the way it asks.
func (m *Manager) usable(n *subnetwork, s network.EndpointSettings) error {
	switch {
	case n.problem != nil && !n.Made:
		return fmt.Errorf("the bridge network of tenant %s cannot be used: %w", n.Tenant, n.problem)
	case n.problem != nil:
		return fmt.Errorf("network %s cannot be used: %w", n.Name, n.problem)
	case n.Name == BridgeNetwork && n.Tenant == "" && m.problem != nil:
		return fmt.Errorf("the default bridge network cannot be used: %w; run with --network none or host, or repair it and restart the engine", m.problem)
	case n.Interface == "" && !n.Made:
		return invalid("network %s cannot be named by id", n.Name)
	case n.going:
		return fmt.Errorf("network %s not found: it is being removed: %w", n.Name, errdefs.ErrNotFound)
	}
	if !n.Made && len(s.Aliases)+len(s.Links) > 0 {
		return invalid("network-scoped aliases are only supported for user-defined networks")
	}
	if c := s.IPAMConfig; c != nil {
		if len(c.LinkLocalIPs) > 0 {
			return fmt.Errorf("link-local addresses cannot be given to containers: %w", errdefs.ErrNotImplemented)
		}
		for _, x := range []struct {
			addr   netip.Addr
			static bool
			subnet netip.Prefix
		}{{c.IPv4Address, n.Static4, n.IPv4}, {c.IPv6Address, n.Static6, n.IPv6}} {
			switch {
			case !x.addr.IsValid():
			case !n.Made:
				return invalid("user specified IP address is supported on user defined networks only")
			case !x.static:
				return invalid("user specified IP address is supported only when connecting to networks with user configured subnets")
			case !x.subnet.Contains(x.addr):
				return invalid("no configured subnet contains IP address %s", x.addr)
			}
		}
	}
	return nil
}

// settingsFor are what a request says of a network, by its name or id. Clients
// call the bridge "default" where their user named no network.
func settingsFor(r Request, n *subnetwork) network.EndpointSettings {
	keys := []string{n.Name, n.ID}
	if n.Name == BridgeNetwork {
		keys = append(keys, network.NetworkDefault)
	}
	for _, key := range keys {
		if s := r.Endpoints[key]; s != nil {
			return *s
		}
	}
	return network.EndpointSettings{}
}

// openOn gives a namespace on networks: a spare one, where that will do. The
// endpoints are at's from the moment they have addresses.
func (m *Manager) openOn(ctx context.Context, nets []*subnetwork, r Request, at *attached) (*Sandbox, error) {
	for _, n := range nets {
		if !n.onHost() {
			if err := m.bring(&n.Network, false); err != nil {
				return nil, err
			}
			continue
		}
		remade, err := m.driver.Verify(n.bridge())
		if err != nil {
			return nil, err
		}
		if remade {
			m.spares.drop(n.ID)
		}
	}
	first := nets[0]
	settings := settingsFor(r, first)
	if len(nets) == 1 && !first.Made && len(r.Sysctls) == 0 && len(settings.MacAddress) == 0 && len(settings.DriverOpts) == 0 {
		if s, ok := m.spares.take(first.ID); ok {
			at.Endpoints = []Endpoint{*s.endpoint}
			return s.sandbox, nil
		}
	}
	sysctls := maps.Clone(r.Sysctls)
	var links []Link
	for i, n := range nets {
		s := settingsFor(r, n)
		ep, link, err := m.placeOn(n, s, fmt.Sprintf("%s%d", ifPrefix(n), i))
		if err != nil {
			return nil, err
		}
		ep.DNSNames = namesFor(r, n, s)
		at.Endpoints, links = append(at.Endpoints, ep), append(links, link)
		for k, v := range endpointSysctls(s, ep.Interface) {
			if sysctls == nil {
				sysctls = map[string]string{}
			}
			sysctls[k] = v
		}
	}
	four, six := gateways(at.Endpoints)
	for i := range links {
		if i != four {
			links[i].Gateway4 = netip.Addr{}
		}
		if i != six {
			links[i].Gateway6 = netip.Addr{}
		}
	}
	sandbox, err := m.driver.Open(ctx, Namespace{Links: links, Sysctls: sysctls})
	if err != nil {
		return nil, err
	}
	for i := range at.Endpoints {
		at.Endpoints[i].HostLink = sandbox.HostLinks[i]
	}
	return sandbox, nil
}

// Options of endpoints that have a meaning here.
const (
	optIfName  = "com.docker.network.endpoint.ifname"
	optSysctls = "com.docker.network.endpoint.sysctls"
)

// ifPrefix is how a network's interfaces are called in containers.
func ifPrefix(n *subnetwork) string { return cmp.Or(n.Options[optIfPrefix], "eth") }

// endpointSysctls are settings of one interface: "net.ipv4.conf.IFNAME.x=1,…".
func endpointSysctls(s network.EndpointSettings, iface string) map[string]string {
	out := map[string]string{}
	for kv := range strings.SplitSeq(s.DriverOpts[optSysctls], ",") {
		if k, v, ok := strings.Cut(strings.TrimSpace(kv), "="); ok {
			out[strings.ReplaceAll(k, "IFNAME", iface)] = v
		}
	}
	return out
}

// namesFor are the names by which others on a client's network find a container,
// the first one also by its address.
func namesFor(r Request, n *subnetwork, s network.EndpointSettings) []string {
	if !n.Made {
		return nil
	}
	var names []string
	for _, name := range slices.Concat([]string{r.Name}, s.Aliases, []string{shortID(r.Container), r.Hostname}) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// gateways tell by which of the endpoints packets of each family leave, -1 if by
// none: the highest priority first, then the first by the network's name.
func gateways(eps []Endpoint) (four, six int) {
	best := func(has func(Endpoint) bool) int {
		found := -1
		for i, ep := range eps {
			if !has(ep) {
				continue
			}
			if found < 0 || ep.Priority > eps[found].Priority || ep.Priority == eps[found].Priority && ep.Network < eps[found].Network {
				found = i
			}
		}
		return found
	}
	return best(func(ep Endpoint) bool { return ep.Gateway4.IsValid() }), best(func(ep Endpoint) bool { return ep.Gateway6.IsValid() })
}

// placeOn takes addresses on a network, those that spare namespaces hold included.
func (m *Manager) placeOn(n *subnetwork, s network.EndpointSettings, iface string) (Endpoint, Link, error) {
	m.mu.Lock()
	ep, link, err := m.place(n.ID, s, iface)
	m.mu.Unlock()
	if errdefs.IsResourceExhausted(err) {
		// Spare namespaces must not keep the last addresses from containers.
		m.spares.drop(n.ID)
		m.mu.Lock()
		ep, link, err = m.place(n.ID, s, iface)
		m.mu.Unlock()
	}
	return ep, link, err
}

// place takes addresses on a network. The mutex is held.
func (m *Manager) place(id string, s network.EndpointSettings, iface string) (Endpoint, Link, error) {
	n, err := m.byID(id)
	if err != nil {
		return Endpoint{}, Link{}, err
	}
	ep := Endpoint{
		Network: n.Name, NetworkID: n.ID, Driver: n.Driver, EndpointID: randomID(), Interface: cmp.Or(s.DriverOpts[optIfName], iface),
		Aliases: s.Aliases, Priority: s.GwPriority,
	}
	if !ifaceName.MatchString(ep.Interface) {
		return Endpoint{}, Link{}, invalid("network %s: invalid interface name %q (%s)", n.Name, ep.Interface, optIfName)
	}
	var want network.EndpointIPAMConfig
	if s.IPAMConfig != nil {
		want = *s.IPAMConfig
	}
	take := func(pool *addrPool, gateway netip.Prefix, fixed netip.Addr) (netip.Prefix, netip.Addr, error) {
		if pool == nil {
			return netip.Prefix{}, netip.Addr{}, nil
		}
		addr, err := fixed, error(nil)
		if fixed.IsValid() {
			err = pool.reserve(fixed)
		} else {
			addr, err = pool.take()
		}
		if err != nil {
			return netip.Prefix{}, netip.Addr{}, fmt.Errorf("network %s: %w", n.Name, err)
		}
		via := gateway.Addr()
		if n.Internal {
			via = netip.Addr{}
		}
		return netip.PrefixFrom(addr, gateway.Bits()), via, nil
	}
	if ep.IPv4, ep.Gateway4, err = take(n.pool4, n.IPv4, want.IPv4Address); err == nil {
		ep.IPv6, ep.Gateway6, err = take(n.pool6, n.IPv6, want.IPv6Address)
	}
	if err != nil {
		n.giveBack(ep)
		return Endpoint{}, Link{}, err
	}
	if ep.MAC = s.MacAddress.String(); ep.MAC == "" {
		ep.MAC = macFor(ep)
	}
	link := Link{
		Bridge: n.Interface, Isolated: !n.enabled(optICC, true), Name: ep.Interface, MAC: ep.MAC, MTU: n.MTU,
		IPv4: ep.IPv4, IPv6: ep.IPv6, Gateway4: ep.Gateway4, Gateway6: ep.Gateway6,
	}
	if !n.onHost() {
		link.Bridge, link.Kind, link.Parent, link.Mode = "", n.Driver, n.parent(), cmp.Or(n.Options[n.Driver+"_mode"], defaultShare[n.Driver])
		if n.Driver == ipvlan {
			link.MAC, ep.MAC = "", "" // all shares have the parent's
		}
		if n.Options[optMTU] == "" {
			link.MTU = 0 // the parent's
		}
	}
	return ep, link, nil
}

// defaultShare is how shares of an interface treat each other unless asked otherwise.
var defaultShare = map[string]string{macvlan: "bridge", ipvlan: "l2"}
