package network

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Names of the networks that every engine has.
const (
	BridgeNetwork = "bridge"
	HostNetwork   = "host"
	NoneNetwork   = "none"
)

// Network describes a network.
type Network struct {
	ID        string
	Name      string
	Driver    string // bridge, host, null, macvlan, ipvlan
	Tenant    string // whose it is: "" is the host owner's
	Created   time.Time
	Interface string       // the bridge on the host, "" if there is none
	IPv4      netip.Prefix // gateway's address with the subnet's length; zero: none
	IPv6      netip.Prefix
	MTU       int
	Endpoints map[string]Endpoint `json:"-"` // by container

	// What follows is of networks that a client made. The engine stores them, but
	// for the endpoints, and hands them to Load.
	Made             bool
	Number           int  `json:",omitempty"` // its interface derives from it
	Internal         bool `json:",omitempty"` // nothing goes in or out
	Attachable       bool `json:",omitempty"`
	Static4, Static6 bool // the client chose the subnet, and may choose addresses
	Range4, Range6   netip.Prefix
	Aux              map[string]netip.Addr `json:",omitempty"`
	Options          map[string]string     `json:",omitempty"`
	Labels           map[string]string     `json:",omitempty"`
	IPAMOptions      map[string]string     `json:",omitempty"`
}

// subnetwork is a network with its addresses. The manager's mutex guards it.
type subnetwork struct {
	Network
	pool4, pool6 *addrPool // nil without that family
	problem      error     // why it cannot be used, nil if it can
	joining      int       // containers being attached
	going        bool      // it is being removed
}

// attached is what the manager holds for one container.
type attached struct {
	*Attachment
	name  string // for messages
	ports []*boundPort
}

// Manager owns an engine's networks. Make one with NewManager; call Restore
// before anything else. Safe for concurrent use.
type Manager struct {
	cfg    Config
	driver Driver
	facts  Facts
	log    *slog.Logger

	mu       sync.Mutex
	networks []*subnetwork
	live     map[string]*attached // by container; nil while it is being attached
	ports    *portTable
	spares   *spares
	problem  error // why the default bridge cannot be used, nil if it can

	makeMu sync.Mutex // held while a network is made or removed; before mu
	saved  savedState // makeMu guards it once the manager is made
	// locate finds the namespace of a container that runs; "" where the host
	// cannot enter it.
	locate func(container string) string
}

// NewManager checks the configuration, and chooses the default bridge's subnet
// or takes the one chosen before. The host is left alone until Restore.
func NewManager(cfg Config, d Driver) (*Manager, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, driver: d, facts: d.Facts(), log: cfg.Log, live: make(map[string]*attached)}
	m.ports = newPortTable(m.facts.EphemeralPorts)
	m.spares = newSpares(cfg.Spares, m.makeSpare, m.freeSpare)
	saved, err := loadSaved(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	bridge, err := m.chooseBridge(&saved)
	if err != nil {
		// Containers without a bridge still work.
		m.problem = err
		bridge = Network{Name: BridgeNetwork, Driver: "bridge", Created: saved.Created}
	}
	if err := saved.store(cfg.DataDir); err != nil {
		return nil, err
	}
	bridge.ID = networkID(cfg.HostID, BridgeNetwork)
	m.networks = []*subnetwork{
		newSubnetwork(bridge),
		newSubnetwork(Network{ID: networkID(cfg.HostID, HostNetwork), Name: HostNetwork, Driver: "host", Created: saved.Created}),
		newSubnetwork(Network{ID: networkID(cfg.HostID, NoneNetwork), Name: NoneNetwork, Driver: "null", Created: saved.Created}),
	}
	m.saved = saved
	for _, tenant := range slices.Sorted(maps.Keys(saved.Tenants)) {
		m.networks = append(m.networks, newSubnetwork(m.tenantNetwork(tenant, saved.Tenants[tenant])))
	}
	return m, nil
}

func newSubnetwork(n Network) *subnetwork {
	s := &subnetwork{Network: n}
	s.Endpoints = make(map[string]Endpoint)
	pool := func(p, within netip.Prefix) *addrPool {
		if !p.IsValid() {
			return nil
		}
		a := newAddrPool(p)
		a.within = within
		_ = a.reserve(p.Addr()) // the gateway; a new pool has it
		for _, aux := range n.Aux {
			_ = a.reserve(aux) // those of the other family are not in it
		}
		return a
	}
	s.pool4, s.pool6 = pool(n.IPv4, n.Range4), pool(n.IPv6, n.Range6)
	return s
}

// networkID is stable, so that a client may keep it over a restart.
func networkID(hostID, name string) string {
	sum := sha256.Sum256([]byte("caisson network\x00" + hostID + "\x00" + name))
	return hex.EncodeToString(sum[:])
}

// chooseBridge decides the default bridge's addresses, and notes in saved what
// it chose.
func (m *Manager) chooseBridge(saved *savedState) (Network, error) {
	n := Network{Name: BridgeNetwork, Driver: "bridge", Created: saved.Created, Interface: m.cfg.BridgeName, MTU: m.cfg.MTU}
	if m.facts.IPv6 && !m.cfg.NoIPv6 {
		if n.IPv6 = m.cfg.IPv6; !n.IPv6.IsValid() {
			n.IPv6 = uniqueLocal(m.cfg.HostID)
		}
	}
	if n.IPv4 = m.cfg.BIP; n.IPv4.IsValid() {
		return n, nil
	}
	// Until the bridge has its address, another engine would find the subnet free.
	unlock, err := m.driver.Lock()
	if err != nil {
		return Network{}, fmt.Errorf("choose a subnet for the default bridge: %w", err)
	}
	defer unlock()
	used, err := m.driver.Used(m.cfg.BridgeName)
	if err != nil {
		return Network{}, fmt.Errorf("choose a subnet for the default bridge: %w", err)
	}
	if saved.IPv4.IsValid() {
		clash := slices.IndexFunc(used, saved.IPv4.Overlaps)
		if clash < 0 {
			n.IPv4 = saved.IPv4
		} else {
			m.log.Warn("the default bridge's subnet is now used by the host, choosing another", "subnet", saved.IPv4.Masked(), "host", used[clash])
		}
	}
	if !n.IPv4.IsValid() {
		subnet, err := freeSubnet(m.cfg.Pools, used)
		if err != nil {
			return Network{}, err
		}
		n.IPv4 = netip.PrefixFrom(addrAt(subnet, 1), subnet.Bits())
	}
	if err := m.driver.EnsureBridge(n.bridge()); err != nil {
		return Network{}, err
	}
	saved.IPv4 = n.IPv4
	return n, nil
}

// uniqueLocal is the IPv6 network of RFC 4193 that belongs to a host id.
func uniqueLocal(hostID string) netip.Prefix {
	sum := sha256.Sum256([]byte("caisson unique local\x00" + hostID))
	b := [16]byte{0: 0xfd, 15: 1}
	copy(b[1:8], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

func (n *Network) bridge() Bridge {
	return Bridge{
		Name: n.Interface, IPv4: n.IPv4, IPv6: n.IPv6, MTU: n.MTU,
		Internal: n.Internal, NoMasquerade: !n.enabled(optMasquerade, true),
	}
}

// Warnings implements the engine's Network.
func (m *Manager) Warnings() []string {
	w := slices.Clone(m.driver.Facts().Warnings)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.problem != nil {
		w = append(w, fmt.Sprintf("the default bridge network cannot be used: %v", m.problem))
	}
	return w
}

// Networks lists the networks, the predefined ones first.
func (m *Manager) Networks() []Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Network, 0, len(m.networks))
	for _, n := range m.networks {
		c := n.Network
		c.Endpoints = maps.Clone(n.Endpoints)
		list = append(list, c)
	}
	return list
}

// byID is the network of a whole id, whosever it is.
func (m *Manager) byID(id string) (*subnetwork, error) {
	for _, n := range m.networks {
		if n.ID == id {
			return n, nil
		}
	}
	return nil, fmt.Errorf("network %s not found: %w", shortID(id), errdefs.ErrNotFound)
}

// find is the network that a tenant means by a name, an id or the unambiguous
// beginning of one.
func (m *Manager) find(tenant, name string) (*subnetwork, error) {
	var found *subnetwork
	for _, n := range m.networks {
		if !n.serves(tenant) {
			continue
		}
		if n.Name == name || n.ID == name {
			return n, nil
		}
		if strings.HasPrefix(n.ID, name) {
			if found != nil {
				return nil, fmt.Errorf("network %s is ambiguous (several ids begin so): %w", name, errdefs.ErrInvalidArgument)
			}
			found = n
		}
	}
	if found == nil {
		return nil, fmt.Errorf("network %s not found: %w", name, errdefs.ErrNotFound)
	}
	return found, nil
}

// canonicalMode is a request's mode with its synonyms resolved.
func canonicalMode(mode string) string {
	if mode == "" || mode == network.NetworkDefault {
		return BridgeNetwork
	}
	return mode
}

// unplace gives back what place took.
func (m *Manager) unplace(ep Endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, err := m.byID(ep.NetworkID); err == nil {
		n.giveBack(ep)
	}
}

// macFor derives the hardware address from the network address, so that a
// neighbour's cached entry stays right when a container takes over an address.
func macFor(ep Endpoint) string {
	addr := ep.IPv4.Addr()
	if !addr.IsValid() {
		addr = ep.IPv6.Addr()
	}
	b := addr.AsSlice()
	b = b[len(b)-4:]
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// give gives back addresses and closes port holders.
func (m *Manager) give(container string, at *attached) {
	for _, p := range at.ports {
		m.ports.release(p)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ep := range at.Endpoints {
		if n, err := m.byID(ep.NetworkID); err == nil {
			delete(n.Endpoints, container)
			n.giveBack(ep)
		}
	}
	delete(m.live, container)
}

func (n *subnetwork) giveBack(ep Endpoint) {
	if n.pool4 != nil && ep.IPv4.IsValid() {
		n.pool4.release(ep.IPv4.Addr())
	}
	if n.pool6 != nil && ep.IPv6.IsValid() {
		n.pool6.release(ep.IPv6.Addr())
	}
}

// Release gives back what Attach took. The namespace ends with the sandbox's
// last process. Idempotent.
func (m *Manager) Release(_ context.Context, a *Attachment) error {
	if a == nil {
		return nil
	}
	m.mu.Lock()
	at := m.live[a.Container]
	if at != nil {
		m.live[a.Container] = nil // nobody else releases it
	}
	m.mu.Unlock()
	if at == nil {
		return nil
	}
	err := m.unpublish(at)
	if at.Resolve != nil {
		m.driver.Unserve(a.Container)
	}
	m.give(a.Container, at)
	if err != nil {
		return fmt.Errorf("network of container %s: %w", at.name, err)
	}
	return nil
}

// unpublish stops forwarding to a container's ports.
func (m *Manager) unpublish(at *attached) error {
	if m.cfg.Firewall == FirewallNone {
		return nil
	}
	if f := forwards(at.ports); len(f) > 0 {
		return m.driver.Unpublish(f)
	}
	return nil
}

// Restore makes host and manager match the attachments of the containers that
// live, and forgets all others. Called once when the engine starts. A bridge
// that cannot be made is a warning, and an error of each Attach to it.
//
// locate finds the namespace of a container that runs, by a path of this host;
// "" where it cannot be entered.
func (m *Manager) Restore(_ context.Context, live []*Attachment, locate func(container string) string) error {
	m.locate = locate
	want := make(map[string]*Attachment, len(live))
	for _, a := range live {
		if a != nil && len(a.Endpoints) > 0 {
			want[a.Container] = a
		}
	}
	m.mu.Lock()
	stale := make(map[string]*attached)
	for id, at := range m.live {
		if at != nil && want[id] == nil {
			stale[id] = at
		}
	}
	m.mu.Unlock()
	for id, at := range stale {
		m.give(id, at)
	}
	for _, a := range want {
		m.adopt(a)
	}

	state := m.state()
	if len(state.Bridges) == 0 {
		return nil // there is nothing for which rules could be made
	}
	m.restoreParents()
	for _, b := range state.Bridges {
		if err := m.driver.EnsureBridge(b); err != nil {
			if m.spoil(b.Name, err) {
				continue // one tenant's only
			}
			// Containers without a bridge still work.
			m.log.Warn("the default bridge network cannot be used", "error", err)
			m.mu.Lock()
			m.problem = err
			m.mu.Unlock()
			return nil
		}
	}
	if err := m.driver.Sync(state); err != nil {
		return fmt.Errorf("restore networks: %w", err)
	}
	return nil
}

// restoreParents makes the interfaces of which networks give shares.
func (m *Manager) restoreParents() {
	for _, n := range m.Networks() {
		if !n.Made || n.onHost() {
			continue
		}
		if err := m.bring(&n, false); err != nil {
			m.log.Warn("a network cannot be used until its interface is there", "network", n.Name, "error", err)
		}
	}
}

// adopt takes over what a live container has. What cannot be taken over, for
// example a port that somebody else took while the engine was away, is logged:
// the container goes on with what is left.
func (m *Manager) adopt(a *Attachment) {
	m.mu.Lock()
	if _, ok := m.live[a.Container]; ok {
		m.mu.Unlock()
		return
	}
	at := &attached{Attachment: a, name: shortID(a.Container)}
	for _, ep := range a.Endpoints {
		n, err := m.byID(ep.NetworkID)
		if err != nil {
			m.log.Warn("a running container is on a network that is gone", "container", at.name, "network", ep.Network)
			continue
		}
		for _, x := range []struct {
			pool *addrPool
			addr netip.Addr
		}{{n.pool4, ep.IPv4.Addr()}, {n.pool6, ep.IPv6.Addr()}} {
			if x.pool == nil || !x.addr.IsValid() {
				continue
			}
			if err := x.pool.reserve(x.addr); err != nil {
				m.log.Warn("a running container's address does not fit its network", "container", at.name, "network", ep.Network, "error", err)
			}
		}
		n.Endpoints[a.Container] = ep
	}
	m.live[a.Container] = nil
	m.mu.Unlock()
	m.adoptPorts(a, at)
	m.mu.Lock()
	m.live[a.Container] = at
	m.mu.Unlock()
}

// state is what must be on the host now.
func (m *Manager) state() State {
	s := State{NoFirewall: m.cfg.Firewall == FirewallNone, Links: m.spares.links(), Hosts: m.served}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.networks {
		if n.Made && !n.onHost() {
			s.Parents = append(s.Parents, n.parent())
		}
		if n.Interface != "" && n.onHost() {
			s.Bridges = append(s.Bridges, n.bridge())
		}
	}
	for _, at := range m.live {
		if at == nil {
			continue
		}
		s.Forwards = append(s.Forwards, forwards(at.ports)...)
		s.Links = append(s.Links, hostLinks(at.Endpoints)...)
	}
	return s
}

// Close frees what the engine's process holds. Containers keep their network;
// their published ports are forwarded on, but not proxied.
func (m *Manager) Close() error {
	m.spares.close()
	m.ports.close()
	return m.driver.Close()
}

// Cleanup takes every network of this engine off the host. Containers that
// still run are cut off.
func (m *Manager) Cleanup() error {
	m.spares.close()
	m.ports.close()
	var bridges []string
	for _, b := range m.state().Bridges {
		bridges = append(bridges, b.Name)
	}
	return m.driver.Cleanup(bridges)
}

// randomID is 64 hex digits, as Docker's ids are.
func randomID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func shortID(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
