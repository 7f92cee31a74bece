package network

import (
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// FirewallMode says who makes packet rules.
type FirewallMode string

const (
	// FirewallAuto lets the driver make rules in a table of its own.
	FirewallAuto FirewallMode = ""
	// FirewallNone makes none: published ports are served by proxies, and
	// masquerading is the host owner's affair.
	FirewallNone FirewallMode = "none"
)

// Config is what an engine's networks are made of. Only HostID and DataDir are
// required.
type Config struct {
	// HostID is this engine's name on the host: 1 to 8 lower-case letters and
	// digits, from which names of interfaces and tables derive.
	HostID string
	// BridgeName is the default bridge's interface; "" derives it from HostID.
	BridgeName string
	// BIP is the bridge's address with the subnet's length. Zero chooses the
	// first subnet of Pools that the host does not use, and remembers it.
	BIP netip.Prefix
	// Pools is where subnets come from; empty is DefaultPools.
	Pools []AddressPool
	// NoIPv6 makes networks without IPv6. So does a host that lacks it.
	NoIPv6 bool
	// IPv6 is the default bridge's IPv6 address with the subnet's length; zero
	// derives a unique local one from HostID.
	IPv6 netip.Prefix
	MTU  int // 0: 1500

	DNS        []netip.Addr // for containers that name none
	DNSSearch  []string
	DNSOptions []string
	// HostGatewayIP is what "host-gateway" stands for; empty is the default
	// bridge's own addresses.
	HostGatewayIP []netip.Addr

	// Spares is how many namespaces are kept ready of each network in use; 0 is
	// DefaultSpares, less than 0 is none.
	Spares   int
	Firewall FirewallMode
	DataDir  string       // of networks; holds what must survive a restart
	Log      *slog.Logger // nil: slog.Default
}

// AddressPool gives subnets of one size.
type AddressPool struct {
	Base netip.Prefix
	Size int // length of the subnets taken from it
}

// DefaultPools are dockerd's.
func DefaultPools() []AddressPool {
	pool := func(base string, size int) AddressPool {
		return AddressPool{Base: netip.MustParsePrefix(base), Size: size}
	}
	return []AddressPool{
		pool("172.17.0.0/16", 16), pool("172.18.0.0/16", 16), pool("172.19.0.0/16", 16),
		pool("172.20.0.0/14", 16), pool("172.24.0.0/14", 16), pool("172.28.0.0/14", 16),
		pool("192.168.0.0/16", 20),
	}
}

// ParseAddressPool reads dockerd's --default-address-pool: base=<prefix>,size=<n>.
func ParseAddressPool(s string) (AddressPool, error) {
	var p AddressPool
	bad := func(why string) error {
		return fmt.Errorf("address pool %q: %s; write base=10.10.0.0/16,size=24: %w", s, why, errdefs.ErrInvalidArgument)
	}
	for field := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(field, "=")
		var err error
		switch strings.TrimSpace(key) {
		case "base":
			p.Base, err = netip.ParsePrefix(strings.TrimSpace(value))
		case "size":
			p.Size, err = strconv.Atoi(strings.TrimSpace(value))
		default:
			return AddressPool{}, bad("unknown field " + strconv.Quote(key))
		}
		if err != nil {
			return AddressPool{}, bad(err.Error())
		}
	}
	if err := p.check(); err != nil {
		return AddressPool{}, bad(err.Error())
	}
	return p, nil
}

func (p AddressPool) check() error {
	switch {
	case !p.Base.IsValid():
		return fmt.Errorf("no base: %w", errdefs.ErrInvalidArgument)
	case p.Size < p.Base.Bits():
		return fmt.Errorf("size %d is larger than the base %s: %w", p.Size, p.Base, errdefs.ErrInvalidArgument)
	case p.Size > p.Base.Addr().BitLen()-2:
		return fmt.Errorf("size %d leaves no addresses: %w", p.Size, errdefs.ErrInvalidArgument)
	}
	return nil
}

var hostIDForm = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

// fill checks a configuration and sets the defaults.
func (c *Config) fill() error {
	if !hostIDForm.MatchString(c.HostID) {
		return fmt.Errorf("host id %q: must be 1 to 8 lower-case letters and digits: %w", c.HostID, errdefs.ErrInvalidArgument)
	}
	if c.BridgeName == "" {
		c.BridgeName = "cs" + c.HostID
	}
	// The kernel's limit on the length of an interface's name.
	if len(c.BridgeName) > 15 || strings.ContainsAny(c.BridgeName, "/ \t\n:") {
		return fmt.Errorf("bridge name %q: must be at most 15 characters, without space, slash and colon: %w", c.BridgeName, errdefs.ErrInvalidArgument)
	}
	if c.BIP.IsValid() {
		if err := checkGateway(c.BIP, "--bip", true); err != nil {
			return err
		}
	}
	if c.IPv6.IsValid() {
		if err := checkGateway(c.IPv6, "IPv6 address of the bridge", false); err != nil {
			return err
		}
	}
	if len(c.Pools) == 0 {
		c.Pools = DefaultPools()
	}
	for _, p := range c.Pools {
		if err := p.check(); err != nil {
			return fmt.Errorf("address pool: %w", err)
		}
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.MTU < 68 || c.MTU > 65535 {
		return fmt.Errorf("mtu %d: must be between 68 and 65535: %w", c.MTU, errdefs.ErrInvalidArgument)
	}
	if c.Spares == 0 {
		c.Spares = DefaultSpares
	}
	switch c.Firewall {
	case FirewallAuto, FirewallNone:
	default:
		return fmt.Errorf("firewall mode %q: only %q and the default exist: %w", c.Firewall, FirewallNone, errdefs.ErrInvalidArgument)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

// checkGateway checks a bridge's address.
func checkGateway(p netip.Prefix, what string, v4 bool) error {
	switch {
	case p.Addr().Is4() != v4:
		return fmt.Errorf("%s %s: wrong address family: %w", what, p, errdefs.ErrInvalidArgument)
	case p.Bits() > p.Addr().BitLen()-2:
		return fmt.Errorf("%s %s: the subnet leaves no address for a container: %w", what, p, errdefs.ErrInvalidArgument)
	case p.Addr() == p.Masked().Addr() || p.Addr() == lastAddr(p):
		return fmt.Errorf("%s %s: must be an address in the subnet, not the subnet's own or its broadcast address: %w", what, p, errdefs.ErrInvalidArgument)
	}
	return nil
}
