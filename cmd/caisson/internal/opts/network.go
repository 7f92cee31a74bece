package opts

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/caisson-engine/caisson/engine/client"
)

// network is one value of --network.
type network struct {
	name     string
	endpoint client.Endpoint
	ipam     client.EndpointIPAM
}

// Networks are the values of --network.
type Networks struct{ values []network }

// Set parses a name, or name=…,alias=…,ip=… and so on.
func (ns *Networks) Set(v string) error {
	n := network{name: v}
	if isLongSyntax(v) {
		fields, err := csv.NewReader(strings.NewReader(v)).Read()
		if err != nil {
			return err
		}
		n.name = ""
		for _, field := range fields {
			k, val, ok := strings.Cut(strings.ToLower(field), "=")
			if !ok || k == "" {
				return fmt.Errorf("invalid field %s", field)
			}
			if err := n.set(strings.TrimSpace(k), strings.TrimSpace(val)); err != nil {
				return err
			}
		}
		if n.name == "" {
			return errors.New("network name/id is not specified")
		}
	}
	ns.values = append(ns.values, n)
	return nil
}

// isLongSyntax says whether v contains word=word anywhere.
func isLongSyntax(v string) bool {
	word := func(b byte) bool { return isLetter(b) || b == '_' || '0' <= b && b <= '9' }
	for i := 1; i < len(v)-1; i++ {
		if v[i] == '=' && word(v[i-1]) && word(v[i+1]) {
			return true
		}
	}
	return false
}

func (n *network) set(key, v string) error {
	switch key {
	case "name":
		n.name = v
	case "alias":
		n.endpoint.Aliases = append(n.endpoint.Aliases, v)
	case "ip", "ip6", "link-local-ip":
		a, err := netip.ParseAddr(v)
		if err != nil {
			return err
		}
		switch key {
		case "ip":
			n.ipam.IPv4Address = a.String()
		case "ip6":
			n.ipam.IPv6Address = a.String()
		default:
			n.ipam.LinkLocalIPs = append(n.ipam.LinkLocalIPs, a.String())
		}
	case "mac-address":
		n.endpoint.MacAddress = v
	case "driver-opt":
		k, val, ok := strings.Cut(v, "=")
		if !ok || k == "" {
			return errors.New("invalid key value pair format in driver options")
		}
		if n.endpoint.DriverOpts == nil {
			n.endpoint.DriverOpts = map[string]string{}
		}
		n.endpoint.DriverOpts[strings.TrimSpace(k)] = strings.TrimSpace(val)
	case "gw-priority":
		p, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("invalid gw-priority (%s): it must be an integer", v)
		}
		n.endpoint.GwPriority = p
	default:
		return errors.New("invalid field key " + key)
	}
	return nil
}

// Type names the value in help.
func (*Networks) Type() string { return "network" }

func (*Networks) String() string { return "" }

// mode is the first network, which is also the container's network mode.
func (ns *Networks) mode() string {
	if len(ns.values) == 0 {
		return "default"
	}
	return ns.values[0].name
}

// userDefined says whether a network mode names a network that a user made.
func userDefined(mode string) bool {
	switch mode {
	case "default", "bridge", "host", "none", "nat":
		return false
	}
	return !strings.HasPrefix(mode, "container:") && mode != "container"
}

// endpoints merges --network with the flags that concern the first network.
func (c *Container) endpoints() (map[string]*client.Endpoint, error) {
	values := slices.Clone(c.networks.values)
	if len(values) == 0 {
		values = []network{{name: "default"}}
	}
	if err := c.mergeFirst(&values[0]); err != nil {
		return nil, err
	}
	out := make(map[string]*client.Endpoint, len(values))
	var own, builtin bool
	for i := range values {
		n := &values[i]
		if userDefined(n.name) {
			own = true
		} else {
			builtin = true
		}
		ep, custom, err := n.finish()
		if err != nil {
			return nil, err
		}
		if _, ok := out[n.name]; ok {
			return nil, fmt.Errorf("network %q is specified multiple times", n.name)
		}
		// One network with nothing to say about it is in the network mode.
		if len(c.networks.values) == 1 && !custom {
			continue
		}
		out[n.name] = ep
	}
	if own && builtin {
		return nil, errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return out, nil
}

// mergeFirst applies --ip, --network-alias and so on to the first network.
func (c *Container) mergeFirst(n *network) error {
	for _, x := range []struct {
		both bool
		what string
	}{
		{len(n.endpoint.Aliases) > 0 && len(c.aliases.Values) > 0, "--network-alias and per-network alias"},
		{n.ipam.IPv4Address != "" && c.ip != nil, "--ip and per-network IPv4 address"},
		{n.ipam.IPv6Address != "" && c.ip6 != nil, "--ip6 and per-network IPv6 address"},
		{n.endpoint.MacAddress != "" && c.macAddress != "", "--mac-address and per-network MAC address"},
		{len(n.ipam.LinkLocalIPs) > 0 && len(c.linkLocalIPs.Values) > 0, "--link-local-ip and per-network link-local IP addresses"},
	} {
		if x.both {
			return errors.New("conflicting options: cannot specify both " + x.what)
		}
	}
	n.endpoint.Aliases = append(n.endpoint.Aliases, c.aliases.Values...)
	// On a user's network a link is an alias of this endpoint; on the default
	// bridge it belongs to the host's configuration.
	if userDefined(n.name) {
		n.endpoint.Links = append(n.endpoint.Links, c.links.Values...)
	}
	if v4 := c.ip.To4(); v4 != nil {
		n.ipam.IPv4Address = v4.String()
	}
	if c.ip6 != nil {
		n.ipam.IPv6Address = c.ip6.String()
	}
	if c.macAddress != "" {
		n.endpoint.MacAddress = c.macAddress
	}
	n.ipam.LinkLocalIPs = append(n.ipam.LinkLocalIPs, c.linkLocalIPs.Values...)
	return nil
}

// finish checks an endpoint; custom says whether it carries any setting.
func (n *network) finish() (ep *client.Endpoint, custom bool, err error) {
	if strings.TrimSpace(n.name) == "" {
		return nil, false, errors.New("no name set for network")
	}
	ep = &n.endpoint
	if !userDefined(n.name) {
		if len(ep.Aliases) > 0 {
			return nil, false, errors.New("network-scoped aliases are only supported for user-defined networks")
		}
		if len(ep.Links) > 0 {
			return nil, false, errors.New("links are only supported for user-defined networks")
		}
	}
	if ep.MacAddress != "" {
		if _, err := net.ParseMAC(strings.TrimSpace(ep.MacAddress)); err != nil {
			return nil, false, fmt.Errorf("%s is not a valid mac address", ep.MacAddress)
		}
	}
	if n.ipam.IPv4Address != "" || n.ipam.IPv6Address != "" || len(n.ipam.LinkLocalIPs) > 0 {
		ep.IPAMConfig = &n.ipam
	}
	custom = ep.IPAMConfig != nil || len(ep.Links) > 0 || len(ep.Aliases) > 0 || ep.MacAddress != "" ||
		len(ep.DriverOpts) > 0 || ep.GwPriority != 0
	return ep, custom, nil
}

// ParsePorts reads the values of -p: [[ip:]host:]container[/proto], with ranges,
// or published=…,target=…,protocol=….
func ParsePorts(values []string) (map[string][]client.PortBinding, error) {
	out := map[string][]client.PortBinding{}
	for _, v := range values {
		if strings.Contains(v, "=") {
			var err error
			if v, err = shortPort(v); err != nil {
				return nil, err
			}
		}
		if err := parsePort(v, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func shortPort(v string) (string, error) {
	p := map[string]string{"protocol": "tcp"}
	for field := range strings.SplitSeq(v, ",") {
		k, val, ok := strings.Cut(field, "=")
		if !ok || k == "" {
			return "", fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", field)
		}
		p[k] = val
	}
	return fmt.Sprintf("%s:%s/%s", p["published"], p["target"], p["protocol"]), nil
}

func parsePort(v string, out map[string][]client.PortBinding) error {
	parts := strings.Split(v, ":")
	var ip, host string
	target := parts[len(parts)-1]
	if len(parts) > 1 {
		host = parts[len(parts)-2]
	}
	if len(parts) > 2 {
		ip = strings.Join(parts[:len(parts)-2], ":")
	}
	target, proto, _ := strings.Cut(target, "/")
	if target == "" {
		return fmt.Errorf("no port specified: %s<empty>", v)
	}
	if proto == "" {
		proto = "tcp"
	}
	proto = strings.ToLower(proto)
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return errors.New("invalid proto: " + proto)
	}
	if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
		ip = ip[1 : len(ip)-1]
	}
	if ip != "" && net.ParseIP(ip) == nil {
		return errors.New("invalid IP address: " + ip)
	}
	first, last, err := portRange(target)
	if err != nil {
		return errors.New("invalid containerPort: " + target)
	}
	var hostFirst, hostLast int
	if host != "" {
		if hostFirst, hostLast, err = portRange(host); err != nil {
			return errors.New("invalid hostPort: " + host)
		}
		if last-first != hostLast-hostFirst && first != last {
			return fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", target, host)
		}
	}
	for i := 0; i <= last-first; i++ {
		b := client.PortBinding{HostIP: ip}
		if host != "" {
			b.HostPort = strconv.Itoa(hostFirst + i)
			// A range of host ports for one port: the engine picks a free one.
			if first == last && hostFirst != hostLast {
				b.HostPort += "-" + strconv.Itoa(hostLast)
			}
		}
		key := strconv.Itoa(first+i) + "/" + proto
		out[key] = append(out[key], b)
	}
	return nil
}

func portRange(s string) (first, last int, err error) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		b = a
	}
	x, err1 := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || y < x {
		return 0, 0, errors.New("invalid port range: " + s)
	}
	return int(x), int(y), nil
}
