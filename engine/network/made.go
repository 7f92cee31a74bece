package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Drivers of networks that clients make.
const (
	bridgeDriver = "bridge"
	macvlan      = "macvlan"
	ipvlan       = "ipvlan"
)

// CreateRequest is what a client asks of a new network. Nil families are the
// engine's choice: IPv4, and IPv6 where a subnet of it is given.
type CreateRequest struct {
	Name, Tenant, Driver string
	Internal, Attachable bool
	IPv4, IPv6           *bool
	IPAM                 *network.IPAM
	Options, Labels      map[string]string
}

// Options of networks that have a meaning here. Others are kept and shown, as
// Docker does.
const (
	optBridgeName  = "com.docker.network.bridge.name"
	optMasquerade  = "com.docker.network.bridge.enable_ip_masquerade"
	optICC         = "com.docker.network.bridge.enable_icc"
	optHostBinding = "com.docker.network.bridge.host_binding_ipv4"
	optMTU         = "com.docker.network.driver.mtu"
	optIfPrefix    = "com.docker.network.container_iface_prefix"
	optGateway4    = "com.docker.network.bridge.gateway_mode_ipv4"
	optGateway6    = "com.docker.network.bridge.gateway_mode_ipv6"
	optEnableIPv6  = "com.docker.network.enable_ipv6"
	optParent      = "parent"
	optMacvlanMode = macvlan + "_mode"
	optIpvlanMode  = ipvlan + "_mode"
)

var (
	networkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)
	ifaceName   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)
	ifacePrefix = regexp.MustCompile(`^[a-zA-Z]{1,10}$`)
)

// optionChecks tell what an option's value must be.
var optionChecks = map[string]func(v string) (want string, ok bool){
	optBridgeName:  func(v string) (string, bool) { return "a name of an interface", ifaceName.MatchString(v) },
	optMasquerade:  isBool,
	optICC:         isBool,
	optEnableIPv6:  isBool,
	optIfPrefix:    func(v string) (string, bool) { return "1 to 10 letters", ifacePrefix.MatchString(v) },
	optMacvlanMode: oneOf("bridge", "private", "vepa", "passthru"),
	optIpvlanMode:  oneOf("l2", "l3", "l3s"),
	optGateway4:    oneOf("nat"),
	optGateway6:    oneOf("nat"),
	optParent:      func(v string) (string, bool) { return "a name of an interface", ifaceName.MatchString(v) },
	optHostBinding: func(v string) (string, bool) {
		a, err := netip.ParseAddr(v)
		return "an IPv4 address", err == nil && a.Is4()
	},
	optMTU: func(v string) (string, bool) {
		n, err := strconv.Atoi(v)
		return "a number from 68 to 65535", err == nil && (n == 0 || n >= 68 && n <= 65535)
	},
}

func isBool(v string) (string, bool) {
	_, err := strconv.ParseBool(v)
	return "true or false", err == nil
}

func oneOf(words ...string) func(string) (string, bool) {
	return func(v string) (string, bool) { return "one of " + strings.Join(words, ", "), slices.Contains(words, v) }
}

func invalid(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
}

// stateError is what Docker answers with 403 though it is no rule that forbids
// it, but how things are.
type stateError struct{}

func (stateError) Error() string        { return errdefs.ErrPermissionDenied.Error() }
func (stateError) Is(target error) bool { return target == errdefs.ErrPermissionDenied } //nolint:errorlint // kinds are compared as they are

// ByState tells whether an error of the kind PermissionDenied comes of how
// things are, and not of a rule.
func ByState(err error) bool { return errors.As(err, new(stateError)) }

func forbidden(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, stateError{})...)
}

// denied is what a tenant may not do.
func denied(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, errdefs.ErrPermissionDenied)...)
}

// enabled reads a boolean option.
func (n *Network) enabled(option string, otherwise bool) bool {
	if b, err := strconv.ParseBool(n.Options[option]); err == nil {
		return b
	}
	return otherwise
}

// onHost tells whether the network is a bridge of the host.
func (n *Network) onHost() bool { return n.Driver == bridgeDriver }

// Create makes a network. note is called once everything is decided and before
// anything is on the host, with what a later Load needs. Errors: InvalidArgument,
// Conflict (the name is taken), PermissionDenied (a subnet is taken, a predefined
// name), ResourceExhausted (no subnet is left), Unavailable (the host cannot).
func (m *Manager) Create(_ context.Context, r CreateRequest, note func(Network) error) (Network, error) {
	n := Network{
		ID: randomID(), Name: r.Name, Driver: r.Driver, Tenant: r.Tenant, Created: time.Now().UTC(), Made: true,
		Internal: r.Internal, Attachable: r.Attachable, Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels), MTU: m.cfg.MTU,
	}
	if n.Driver == "" || n.Driver == "default" {
		n.Driver = bridgeDriver
	}
	if err := m.check(&n, r); err != nil {
		return Network{}, err
	}
	m.makeMu.Lock()
	defer m.makeMu.Unlock()
	unlock, err := m.driver.Lock()
	if err != nil {
		return Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	defer unlock()
	if err := m.place4And6(&n, r); err != nil {
		return Network{}, err
	}
	if n.onHost() || n.Options[optParent] == "" {
		if err := m.nameBridge(&n); err != nil {
			return Network{}, err
		}
	}
	if err := note(n); err != nil {
		return Network{}, err
	}
	if err := m.bring(&n, true); err != nil {
		return Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.networks = append(m.networks, newSubnetwork(n))
	return n, nil
}

// bring puts a network on the host. A new one does not take over a bridge of the
// host's owner that has the name it was given.
func (m *Manager) bring(n *Network, isNew bool) error {
	b := n.bridge()
	b.New = isNew && n.Options[optBridgeName] != ""
	switch {
	case n.onHost() && m.cfg.Firewall == FirewallNone:
		return m.driver.EnsureBridge(b)
	case n.onHost():
		return m.driver.AddBridge(b)
	}
	return m.driver.EnsureParent(n.parent(), n.Options[optParent] == "")
}

// parent is the interface whose shares a macvlan or ipvlan network gives.
func (n *Network) parent() string { return cmp.Or(n.Options[optParent], n.Interface) }

// check looks at what needs no knowledge of other networks but their names.
func (m *Manager) check(n *Network, r CreateRequest) error {
	if !networkName.MatchString(n.Name) {
		return invalid("invalid network name %q: only letters, digits, underscore, dot and dash are allowed, beginning with a letter or digit", n.Name)
	}
	switch n.Name {
	case BridgeNetwork, HostNetwork, NoneNetwork, "default", "container":
		return forbidden("operation is not permitted on predefined %s network", n.Name)
	}
	switch n.Driver {
	case bridgeDriver, macvlan, ipvlan:
	case "host", "null":
		return forbidden("only one instance of %q network is allowed", n.Driver)
	default:
		return fmt.Errorf("could not find plugin %s in v1 plugin registry: plugin not found: networks have the driver bridge, macvlan or ipvlan here: %w", n.Driver, errdefs.ErrNotFound)
	}
	for k, v := range n.Options {
		if f := optionChecks[k]; f != nil {
			if want, ok := f(v); !ok {
				return invalid("network %s: option %s=%q: must be %s", n.Name, k, v, want)
			}
		}
	}
	if r.Tenant != "" {
		if !n.onHost() {
			return denied("network %s: driver %s reaches the host's own link, which only the host's owner may give: use driver bridge", n.Name, n.Driver)
		}
		if n.Options[optBridgeName] != "" {
			return denied("network %s: only the host's owner may name interfaces (%s)", n.Name, optBridgeName)
		}
	}
	if n.onHost() && n.Options[optParent] != "" {
		return invalid("network %s: option parent is of the drivers macvlan and ipvlan", n.Name)
	}
	if mtu, _ := strconv.Atoi(n.Options[optMTU]); mtu > 0 {
		n.MTU = mtu
	}
	return nil
}

// place4And6 decides the subnets. makeMu is held.
func (m *Manager) place4And6(n *Network, r CreateRequest) error {
	m.mu.Lock()
	for _, o := range m.networks {
		if o.Name == n.Name && o.Tenant == n.Tenant {
			m.mu.Unlock()
			return fmt.Errorf("network with name %s already exists: %w", n.Name, errdefs.ErrConflict)
		}
	}
	m.mu.Unlock()
	ipam := network.IPAM{}
	if r.IPAM != nil {
		ipam = *r.IPAM
	}
	switch ipam.Driver {
	case "", "default", "null":
	default:
		return fmt.Errorf("could not find IPAM driver %q: only the default one exists here: %w", ipam.Driver, errdefs.ErrNotFound)
	}
	n.IPAMOptions = ipam.Options
	var given [2]*network.IPAMConfig // by family
	for i := range ipam.Config {
		c := &ipam.Config[i]
		if !c.Subnet.IsValid() {
			return invalid("network %s: an address configuration needs a subnet", n.Name)
		}
		family := 0
		if c.Subnet.Addr().Is6() {
			family = 1
		}
		if given[family] != nil {
			return invalid("network %s: only one subnet of each family is supported", n.Name)
		}
		given[family] = c
	}
	want4 := r.IPv4 == nil || *r.IPv4
	want6 := r.IPv6 != nil && *r.IPv6 || given[1] != nil || n.enabled(optEnableIPv6, false)
	switch {
	case !want4 && given[0] != nil:
		return invalid("network %s: IPv4 is off, but it has an IPv4 subnet", n.Name)
	case r.IPv6 != nil && !*r.IPv6 && given[1] != nil:
		return invalid("network %s: IPv6 is off, but it has an IPv6 subnet", n.Name)
	case !want4 && !want6:
		return invalid("network %s: IPv4 or IPv6 must be enabled", n.Name)
	case want6 && !m.facts.IPv6:
		return fmt.Errorf("network %s: this host has no IPv6: %w", n.Name, errdefs.ErrUnavailable)
	}
	used, err := m.usedSubnets()
	if err != nil {
		return fmt.Errorf("create network %s: %w", n.Name, err)
	}
	if want4 {
		pools := m.userPools()
		if n.Tenant != "" {
			pools = m.tenantPools() // one tenant must not use up what there is
		}
		if err := m.placeFamily(n, given[0], used, &n.IPv4, &n.Range4, pools); err != nil {
			return err
		}
		n.Static4 = given[0] != nil
	}
	if want6 {
		if err := m.placeFamily(n, given[1], used, &n.IPv6, &n.Range6, m.pools6(n.ID)); err != nil {
			return err
		}
		n.Static6 = given[1] != nil
	}
	return nil
}

// subnetUse is where subnets are taken already.
type subnetUse struct{ networks, host []netip.Prefix }

func (m *Manager) usedSubnets() (subnetUse, error) {
	host, err := m.driver.Used("")
	if err != nil {
		return subnetUse{}, err
	}
	u := subnetUse{host: host}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.networks {
		for _, p := range []netip.Prefix{o.IPv4, o.IPv6} {
			if p.IsValid() {
				u.networks = append(u.networks, p.Masked())
			}
		}
	}
	return u, nil
}

// placeFamily decides one family's subnet, gateway and range.
func (m *Manager) placeFamily(n *Network, c *network.IPAMConfig, used subnetUse, gateway, ipRange *netip.Prefix, pools []AddressPool) error {
	if c == nil {
		subnet, err := freeSubnet(pools, append(slices.Clone(used.host), used.networks...))
		if err != nil {
			return fmt.Errorf("could not find an available, non-overlapping IPv%d address pool among the defaults to assign to the network: give it a subnet, or the engine more of them (--default-address-pool): %w", version(pools[0].Base.Addr()), errdefs.ErrResourceExhausted)
		}
		*gateway = netip.PrefixFrom(addrAt(subnet, 1), subnet.Bits())
		return nil
	}
	subnet := c.Subnet.Masked()
	if subnet.Bits() > subnet.Addr().BitLen()-2 || subnet.Addr().IsMulticast() || subnet.Addr().IsLoopback() || subnet.Bits() == 0 {
		return invalid("invalid subnet %s: containers cannot have addresses of it", subnet)
	}
	if slices.ContainsFunc(used.networks, subnet.Overlaps) {
		return forbidden("invalid pool request: Pool overlaps with other one on this address space")
	}
	// A tenant must not draw the host's own traffic into its bridge.
	if n.Tenant != "" && slices.ContainsFunc(used.host, subnet.Overlaps) {
		return denied("invalid pool request: subnet %s overlaps one that the host uses", subnet)
	}
	gw := c.Gateway
	if !gw.IsValid() {
		gw = addrAt(subnet, 1)
	}
	if !subnet.Contains(gw) || gw == subnet.Addr() || gw.Is4() && gw == lastAddr(subnet) {
		return invalid("invalid gateway %s: it is no address of the subnet %s that a host can have", gw, subnet)
	}
	if c.IPRange.IsValid() {
		r := c.IPRange.Masked()
		if !subnet.Contains(r.Addr()) || r.Bits() < subnet.Bits() {
			return invalid("invalid ip-range %s: it is not within the subnet %s", r, subnet)
		}
		*ipRange = r
	}
	for name, a := range c.AuxAddress {
		if !subnet.Contains(a) {
			return invalid("auxiliary address %s=%s is not in the subnet %s", name, a, subnet)
		}
		if a == gw {
			return forbidden("auxiliary address %s=%s is the gateway's", name, a)
		}
		if n.Aux == nil {
			n.Aux = map[string]netip.Addr{}
		}
		n.Aux[name] = a
	}
	*gateway = netip.PrefixFrom(gw, subnet.Bits())
	return nil
}

func version(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// userPools are the IPv4 pools; the first one's first subnet is the default
// bridge's, which the host's addresses tell already.
func (m *Manager) userPools() []AddressPool {
	pools := slices.DeleteFunc(slices.Clone(m.cfg.Pools), func(p AddressPool) bool { return !p.Base.Addr().Is4() })
	if len(pools) == 0 {
		return DefaultPools()
	}
	return pools
}

// pools6 are those of the configuration, or subnets of this engine's own unique
// local prefix.
func (m *Manager) pools6(id string) []AddressPool {
	pools := slices.DeleteFunc(slices.Clone(m.cfg.Pools), func(p AddressPool) bool { return p.Base.Addr().Is4() })
	if len(pools) > 0 {
		return pools
	}
	return []AddressPool{{Base: uniqueLocal(m.cfg.HostID + "\x00" + id).Masked(), Size: 64}}
}

// maxMade bounds the networks of an engine: their interfaces' names have four
// characters for a number.
const maxMade = 36 * 36 * 36 * 36

// nameBridge gives a network its interface's name. makeMu is held.
func (m *Manager) nameBridge(n *Network) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken, names := map[int]bool{}, map[string]bool{}
	for _, o := range m.networks {
		taken[o.Number], names[o.Interface] = true, true
	}
	if name := n.Options[optBridgeName]; name != "" {
		if names[name] {
			return fmt.Errorf("network %s: bridge %s is another network's: %w", n.Name, name, errdefs.ErrConflict)
		}
		n.Interface = name
		return nil
	}
	for n.Number = 1; taken[n.Number] && n.Number < maxMade; {
		n.Number++
	}
	n.Interface = "cs" + m.cfg.HostID + "n" + strconv.FormatInt(int64(n.Number), 36)
	return nil
}

// Load tells of a network that was made before the engine's last start. It is
// for the time before Restore.
func (m *Manager) Load(n Network) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.networks, func(o *subnetwork) bool { return o.ID == n.ID }) {
		m.networks = append(m.networks, newSubnetwork(n))
	}
}

// Remove takes a network off the host. gone is called when nothing on the host
// is left of it. Errors: NotFound, PermissionDenied (it is predefined, or
// containers are on it).
func (m *Manager) Remove(_ context.Context, id string, gone func() error) error {
	m.makeMu.Lock()
	defer m.makeMu.Unlock()
	m.mu.Lock()
	n, err := m.byID(id)
	if err == nil {
		err = n.removable()
	}
	if err == nil {
		n.going = true // nobody attaches meanwhile
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	m.spares.drop(id)
	if n.onHost() {
		err = m.driver.RemoveBridge(n.bridge())
	} else {
		err = m.driver.RemoveParent(n.parent())
	}
	if err != nil {
		m.mu.Lock()
		n.going = false
		m.mu.Unlock()
		return fmt.Errorf("error while removing network %s: %w", n.Name, err)
	}
	m.mu.Lock()
	m.networks = slices.DeleteFunc(m.networks, func(o *subnetwork) bool { return o == n })
	m.mu.Unlock()
	return gone()
}

// removable says why a network cannot be removed.
func (n *subnetwork) removable() error {
	if !n.Made {
		return forbidden("%s is a pre-defined network and cannot be removed", n.Name)
	}
	if n.going {
		return fmt.Errorf("network %s is being removed: %w", n.Name, errdefs.ErrConflict)
	}
	if len(n.Endpoints) > 0 || n.joining > 0 {
		return forbidden("error while removing network: network %s id %s has active endpoints", n.Name, n.ID)
	}
	return nil
}
