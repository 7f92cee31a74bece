package network

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/caisson-engine/caisson/engine/network/dns"
)

// ServerAddr is where a container on a client's network finds the engine's own
// name server, as Docker has it: configurations name it.
var ServerAddr = netip.MustParseAddr("127.0.0.11")

const dnsPort = 53

// hostNames are names of the host that containers on clients' networks know.
var hostNames = []string{"host.docker.internal", "gateway.docker.internal"}

// resolve decides how a container's names are looked up; nil if it is on no
// network whose names are served.
func (m *Manager) resolve(r Request, a *Attachment) *Resolve {
	own := slices.ContainsFunc(a.Endpoints, func(ep Endpoint) bool { return len(ep.DNSNames) > 0 })
	if !own {
		return nil
	}
	res := &Resolve{OwnStack: r.OwnStack}
	options := r.DNSOptions
	if len(options) == 0 {
		options = m.cfg.DNSOptions
	}
	res.Ndots = slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") && o != "ndots:0" })
	servers := m.allowedServers(r.DNS, a)
	if len(r.DNS) == 0 {
		if servers = m.cfg.DNS; len(servers) == 0 {
			// The server is asked from the host: it reaches what the host reaches.
			servers = parseResolv(readHost(hostResolv)).servers
		}
		if len(servers) == 0 {
			servers = reachable(nil, m.facts.IPv6)
		}
	}
	for _, s := range servers {
		res.Servers = append(res.Servers, netip.AddrPortFrom(s, dnsPort))
	}
	for _, s := range r.Endpoints {
		if s == nil {
			continue
		}
		for _, l := range s.Links {
			target, alias, ok := strings.Cut(l, ":")
			if !ok {
				alias = target
			}
			if res.Links == nil {
				res.Links = map[string]string{}
			}
			res.Links[strings.ToLower(alias)] = target
		}
	}
	return res
}

// allowedServers are those of a client's that the host may ask in its place: not
// the host itself, and no container on a network that the client's is not on.
func (m *Manager) allowedServers(servers []netip.Addr, a *Attachment) []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []netip.Addr
	for _, s := range servers {
		ok := !s.IsLoopback() && !s.IsUnspecified() && !s.IsMulticast()
		for _, n := range m.networks {
			for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
				on := slices.ContainsFunc(a.Endpoints, func(ep Endpoint) bool { return ep.NetworkID == n.ID })
				if p.IsValid() && p.Masked().Contains(s) && !on {
					ok = false
				}
			}
		}
		if ok {
			out = append(out, s)
		}
	}
	return out
}

// host is a container as the name server knows it.
func (m *Manager) host(a *Attachment) dns.Host {
	h := dns.Host{
		ID: a.Container, Servers: a.Resolve.Servers, Ndots: a.Resolve.Ndots,
		Links: a.Resolve.Links, OwnStack: a.Resolve.OwnStack,
	}
	four, six := gateways(a.Endpoints)
	h.Sealed = four < 0 && six < 0
	for _, ep := range a.Endpoints {
		if len(ep.DNSNames) > 0 {
			p := dns.Place{Network: ep.NetworkID, Name: ep.Network, Names: ep.DNSNames, IPv4: ep.IPv4.Addr(), IPv6: ep.IPv6.Addr()}
			if h.OwnStack {
				p.Bridge, p.Gate = m.gate(ep.NetworkID)
			}
			h.Places = append(h.Places, p)
		}
	}
	if !h.Sealed && len(m.cfg.HostGatewayIP) > 0 {
		h.Fixed = map[string][]netip.Addr{}
		for _, name := range hostNames {
			h.Fixed[name] = m.cfg.HostGatewayIP
		}
	} else if !h.Sealed {
		for i, ep := range a.Endpoints {
			for _, gw := range []struct {
				is   bool
				addr netip.Addr
			}{{i == four, ep.Gateway4}, {i == six, ep.Gateway6}} {
				if !gw.is {
					continue
				}
				if h.Fixed == nil {
					h.Fixed = map[string][]netip.Addr{}
				}
				for _, name := range hostNames {
					h.Fixed[name] = append(h.Fixed[name], gw.addr)
				}
			}
		}
	}
	return h
}

// reach is how to get into a container's namespace.
func (m *Manager) reach(a *Attachment) Reach {
	r := Reach{ID: a.Namespace}
	if m.locate != nil {
		r.Path = m.locate(a.Container)
	}
	return r
}

// ownResolver is where a container finds the engine's name server; invalid if
// it has none.
func (m *Manager) ownResolver(a *Attachment) netip.Addr {
	if a.Resolve == nil {
		return netip.Addr{}
	}
	if !a.Resolve.OwnStack {
		return ServerAddr
	}
	for _, ep := range a.Endpoints {
		if len(ep.DNSNames) == 0 {
			continue
		}
		if _, gate := m.gate(ep.NetworkID); gate.IsValid() {
			return gate
		}
	}
	return netip.Addr{}
}

// gate is a network's interface on the host and its address there; zero if it
// has none.
func (m *Manager) gate(id string) (bridge string, addr netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.byID(id)
	switch {
	case err != nil || !n.onHost():
		return "", netip.Addr{}
	case n.IPv4.IsValid():
		return n.Interface, n.IPv4.Addr()
	}
	return n.Interface, n.IPv6.Addr()
}

// served lists the containers whose names are known.
func (m *Manager) served() []Served {
	m.mu.Lock()
	var live []*Attachment
	for _, at := range m.live {
		if at != nil && at.Resolve != nil {
			live = append(live, at.Attachment)
		}
	}
	m.mu.Unlock()
	out := make([]Served, 0, len(live))
	for _, a := range live {
		out = append(out, Served{m.host(a), m.reach(a)})
	}
	return out
}

// ownResolvConf is resolv.conf where the engine's name server answers.
func ownResolvConf(server netip.Addr, search, options []string, host resolv) []byte {
	if len(search) == 0 {
		search = host.search
	}
	if len(options) == 0 {
		options = host.options
	}
	// Without it a resolver would try the search domains before a name as it is.
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		options = append(slices.Clone(options), "ndots:0")
	}
	return writeResolv([]netip.Addr{server}, search, options)
}
