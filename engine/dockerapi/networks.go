package dockerapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine/network"
)

// networkTests tell for each filter whether a network passes one of its values.
var networkTests = map[string]func(n network.Network, value string) bool{
	"name":     func(n network.Network, v string) bool { return strings.Contains(n.Name, v) },
	"id":       func(n network.Network, v string) bool { return strings.HasPrefix(n.ID, v) },
	"driver":   func(n network.Network, v string) bool { return n.Driver == v },
	"scope":    func(_ network.Network, v string) bool { return v == networkScope },
	"type":     func(_ network.Network, v string) bool { return v == "builtin" },
	"label":    func(network.Network, string) bool { return false }, // built-in networks have none
	"dangling": func(n network.Network, v string) bool { return truth(v) == (len(n.Endpoints) == 0) },
}

// networkScope says that a network is of this host only.
const networkScope = "local"

func (c *call) networks() []network.Network {
	if c.cfg.Networks == nil {
		return nil
	}
	return c.cfg.Networks.Networks(c.ctx())
}

func (c *call) networkList() error {
	f, err := parseFilters(c.form("filters"))
	if err != nil {
		return err
	}
	for k := range f {
		if networkTests[k] == nil {
			return invalid("invalid filter '%s'", k)
		}
	}
	out := []api.Summary{}
	for _, n := range c.networks() {
		keep := true
		for k, values := range f {
			keep = keep && slices.ContainsFunc(values, func(v string) bool { return networkTests[k](n, v) })
		}
		if keep {
			out = append(out, api.Summary{Network: networkShape(n)})
		}
	}
	return c.json(http.StatusOK, out)
}

func (c *call) networkInspect() error {
	var found *network.Network
	for _, n := range c.networks() {
		if n.Name == c.name || n.ID == c.name {
			found = &n
			break
		}
		if strings.HasPrefix(n.ID, c.name) {
			if found != nil {
				return invalid("network %s is ambiguous: several ids begin so", c.name)
			}
			found = &n
		}
	}
	if found == nil {
		return &kindError{"network " + c.name + " not found", errdefs.ErrNotFound}
	}
	res := api.Inspect{Network: networkShape(*found), Containers: make(map[string]api.EndpointResource)}
	list, err := c.eng.List(c.ctx(), true, false, 0, nil)
	if err != nil {
		return err
	}
	names := make(map[string]string, len(list))
	for _, s := range list {
		if len(s.Names) > 0 {
			names[s.ID] = strings.TrimPrefix(s.Names[0], "/")
		}
	}
	for id, ep := range found.Endpoints {
		var mac api.HardwareAddr
		_ = mac.UnmarshalText([]byte(ep.MAC)) // what does not parse is left out
		res.Containers[id] = api.EndpointResource{
			Name: names[id], EndpointID: ep.EndpointID, MacAddress: mac, IPv4Address: ep.IPv4, IPv6Address: ep.IPv6,
		}
	}
	return c.json(http.StatusOK, res)
}

// networkShape is a network as the API has it.
func networkShape(n network.Network) api.Network {
	out := api.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: networkScope, Driver: n.Driver,
		EnableIPv4: true, EnableIPv6: n.IPv6.IsValid(),
		IPAM:    api.IPAM{Driver: "default", Config: []api.IPAMConfig{}},
		Options: map[string]string{}, Labels: map[string]string{},
	}
	if n.IPv4.IsValid() {
		out.IPAM.Config = append(out.IPAM.Config, api.IPAMConfig{Subnet: n.IPv4.Masked(), Gateway: n.IPv4.Addr()})
	}
	if n.IPv6.IsValid() {
		out.IPAM.Config = append(out.IPAM.Config, api.IPAMConfig{Subnet: n.IPv6.Masked(), Gateway: n.IPv6.Addr()})
	}
	if n.Interface != "" {
		out.Options["com.docker.network.bridge.name"] = n.Interface
		out.Options["com.docker.network.driver.mtu"] = strconv.Itoa(n.MTU)
	}
	return out
}
