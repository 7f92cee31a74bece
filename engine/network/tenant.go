package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// serves tells whether a tenant may use a network by its name: its own, and those
// that are not of any owner. In place of the bridge it has one of its own.
func (n *Network) serves(tenant string) bool {
	return n.Tenant == tenant || n.Name == HostNetwork || n.Name == NoneNetwork
}

// NetworksFor lists what a tenant sees; "" is the host's owner, who sees all. A
// tenant whose bridge was not needed yet sees one without addresses.
func (m *Manager) NetworksFor(tenant string) []Network {
	all := m.Networks()
	if tenant == "" {
		return all
	}
	out := slices.DeleteFunc(all, func(n Network) bool { return !n.serves(tenant) })
	if !slices.ContainsFunc(out, func(n Network) bool { return n.Name == BridgeNetwork }) {
		out = append([]Network{{
			ID: tenantID(m.cfg.HostID, tenant), Name: BridgeNetwork, Driver: "bridge", Tenant: tenant,
			Created: m.Created(), Endpoints: map[string]Endpoint{},
		}}, out...)
	}
	return out
}

// Created is when this engine's networks began.
func (m *Manager) Created() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.networks[0].Created
}

func tenantID(hostID, tenant string) string { return networkID(hostID, BridgeNetwork+"\x00"+tenant) }

// tenantNetwork is a tenant's bridge.
func (m *Manager) tenantNetwork(tenant string, s savedBridge) Network {
	n := Network{
		ID: tenantID(m.cfg.HostID, tenant), Name: BridgeNetwork, Driver: "bridge", Tenant: tenant, Created: s.Created,
		Interface: "cs" + m.cfg.HostID + "t" + strconv.FormatInt(int64(s.Number), 36), MTU: m.cfg.MTU, IPv4: s.IPv4,
	}
	if m.facts.IPv6 && !m.cfg.NoIPv6 {
		n.IPv6 = uniqueLocal(m.cfg.HostID + "\x00" + tenant)
	}
	return n
}

// maxTenants bounds the bridges; their names have four characters for a number.
const maxTenants = 36 * 36 * 36 * 36

// ensureTenant makes a tenant's bridge, unless it has one.
func (m *Manager) ensureTenant(tenant string) error {
	has := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.ContainsFunc(m.networks, func(n *subnetwork) bool { return n.Tenant == tenant && n.Name == BridgeNetwork })
	}
	if has() {
		return nil
	}
	m.makeMu.Lock()
	defer m.makeMu.Unlock()
	if has() {
		return nil
	}
	unlock, err := m.driver.Lock()
	if err != nil {
		return fmt.Errorf("choose a subnet for tenant %s: %w", tenant, err)
	}
	defer unlock()
	used, err := m.driver.Used("")
	if err != nil {
		return fmt.Errorf("choose a subnet for tenant %s: %w", tenant, err)
	}
	b := savedBridge{Created: time.Now().UTC()}
	taken := map[int]bool{}
	for _, o := range m.saved.Tenants {
		used = append(used, o.IPv4)
		taken[o.Number] = true
	}
	m.mu.Lock()
	for _, o := range m.networks {
		if o.IPv4.IsValid() {
			used = append(used, o.IPv4)
		}
	}
	m.mu.Unlock()
	for b.Number = 1; taken[b.Number] && b.Number < maxTenants; {
		b.Number++
	}
	subnet, err := freeSubnet(m.tenantPools(), used)
	if err != nil {
		return fmt.Errorf("choose a subnet for tenant %s: %w", tenant, err)
	}
	b.IPv4 = netip.PrefixFrom(addrAt(subnet, 1), subnet.Bits())
	n := m.tenantNetwork(tenant, b)
	// Written first: what a crash leaves behind is known by its name.
	saved := m.saved
	saved.Tenants = maps.Clone(saved.Tenants)
	if saved.Tenants == nil {
		saved.Tenants = map[string]savedBridge{}
	}
	saved.Tenants[tenant] = b
	if err := saved.store(m.cfg.DataDir); err != nil {
		return err
	}
	m.saved = saved
	add := m.driver.AddBridge
	if m.cfg.Firewall == FirewallNone {
		add = m.driver.EnsureBridge
	}
	if err := add(n.bridge()); err != nil {
		return fmt.Errorf("make the bridge of tenant %s: %w", tenant, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.networks = append(m.networks, newSubnetwork(n))
	return nil
}

// tenantBits is the longest subnet of a tenant: the pools' own sizes would be
// used up by a few of them.
const tenantBits = 24

// tenantPools are the pools, in smaller pieces.
func (m *Manager) tenantPools() []AddressPool {
	pools := slices.Clone(m.cfg.Pools)
	for i := range pools {
		pools[i].Size = max(pools[i].Size, tenantBits)
	}
	// The first pool last: its first subnet is what a default bridge takes.
	return append(pools[1:], pools[0])
}

// spoil notes that a network cannot be used, and tells whether it is another than
// the host owner's bridge.
func (m *Manager) spoil(name string, err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.networks {
		if n.Interface == name && (n.Tenant != "" || n.Made) {
			m.log.Warn("a network cannot be used", "network", n.Name, "tenant", n.Tenant, "error", err)
			n.problem = err
			return true
		}
	}
	return false
}
