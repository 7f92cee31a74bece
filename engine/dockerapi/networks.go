package dockerapi

import (
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine/network"
)

// networkTests tell for each filter whether a network passes one of its values.
var networkTests = map[string]func(n network.Network, value string) bool{
	"name":   func(n network.Network, v string) bool { return strings.Contains(n.Name, v) },
	"id":     func(n network.Network, v string) bool { return strings.HasPrefix(n.ID, v) },
	"driver": func(n network.Network, v string) bool { return n.Driver == v },
	"scope":  func(_ network.Network, v string) bool { return v == networkScope },
	"type":   func(n network.Network, v string) bool { return v == "builtin" && !n.Made || v == "custom" && n.Made },
	"label": func(n network.Network, v string) bool {
		key, want, valued := strings.Cut(v, "=")
		have, ok := n.Labels[key]
		return ok && (!valued || have == want)
	},
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
			passes := func(v string) bool { return networkTests[k](n, v) }
			if k == "label" { // every one
				keep = keep && !slices.ContainsFunc(values, func(v string) bool { return !passes(v) })
				continue
			}
			keep = keep && slices.ContainsFunc(values, passes)
		}
		if keep {
			out = append(out, api.Summary{Network: networkShape(n)})
		}
	}
	return c.json(http.StatusOK, out)
}

func (c *call) networkInspect() error {
	if c.cfg.Networks == nil {
		return &kindError{"network " + c.name + " not found", errdefs.ErrNotFound}
	}
	found, err := c.cfg.Networks.FindNetwork(c.ctx(), c.name)
	if err != nil {
		return err
	}
	res := api.Inspect{Network: networkShape(found), Containers: make(map[string]api.EndpointResource)}
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

// createNetworkBody is what POST /networks/create takes, of every version.
type createNetworkBody struct {
	Name       string
	Driver     string
	Scope      string
	EnableIPv4 *bool
	EnableIPv6 *bool
	IPAM       *api.IPAM
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigOnly bool
	ConfigFrom *api.ConfigReference
	Options    map[string]string
	Labels     map[string]string
}

func (c *call) networkCreate() error {
	var body createNetworkBody
	ok, err := c.readJSON(maxBody, &body)
	if err != nil {
		return err
	}
	if !ok {
		return invalid("a network's description is missing")
	}
	switch {
	case body.Scope != "" && body.Scope != networkScope, body.Ingress:
		return unsupported("network %s: %s", body.Name, noSwarm)
	case body.ConfigOnly, body.ConfigFrom != nil && body.ConfigFrom.Network != "":
		return unsupported("network %s: configuration-only networks are not supported: give the configuration with the network", body.Name)
	}
	id, err := c.cfg.Networks.CreateNetwork(c.ctx(), network.CreateRequest{
		Name: body.Name, Driver: body.Driver, Internal: body.Internal, Attachable: body.Attachable,
		IPv4: body.EnableIPv4, IPv6: body.EnableIPv6, IPAM: body.IPAM, Options: body.Options, Labels: body.Labels,
	})
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, api.CreateResponse{ID: id})
}

func (c *call) networkRemove() error {
	if err := c.cfg.Networks.RemoveNetwork(c.ctx(), c.name); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (c *call) networkPrune() error {
	f, err := c.filters(networkPruneFilters)
	if err != nil {
		return err
	}
	report, err := c.cfg.Networks.PruneNetworks(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}

func (c *call) networkConnect() error {
	var body api.ConnectRequest
	if _, err := c.readJSON(maxBody, &body); err != nil {
		return err
	}
	if body.Container == "" {
		return invalid("a container is missing")
	}
	return c.cfg.Networks.ConnectNetwork(c.ctx(), c.name, body.Container, body.EndpointConfig)
}

func (c *call) networkDisconnect() error {
	var body api.DisconnectRequest
	if _, err := c.readJSON(maxBody, &body); err != nil {
		return err
	}
	if body.Container == "" {
		return invalid("a container is missing")
	}
	return c.cfg.Networks.DisconnectNetwork(c.ctx(), c.name, body.Container, body.Force)
}

// networkShape is a network as the API has it.
func networkShape(n network.Network) api.Network {
	out := api.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: networkScope, Driver: n.Driver,
		EnableIPv4: n.IPv4.IsValid() || !n.Made, EnableIPv6: n.IPv6.IsValid(), Internal: n.Internal, Attachable: n.Attachable,
		IPAM:    api.IPAM{Driver: "default", Options: n.IPAMOptions, Config: []api.IPAMConfig{}},
		Options: map[string]string{}, Labels: map[string]string{},
	}
	for _, f := range []struct{ gateway, within netip.Prefix }{{n.IPv4, n.Range4}, {n.IPv6, n.Range6}} {
		if !f.gateway.IsValid() {
			continue
		}
		c := api.IPAMConfig{Subnet: f.gateway.Masked(), Gateway: f.gateway.Addr(), IPRange: f.within}
		for name, a := range n.Aux {
			if !c.Subnet.Contains(a) {
				continue
			}
			if c.AuxAddress == nil {
				c.AuxAddress = map[string]netip.Addr{}
			}
			c.AuxAddress[name] = a
		}
		out.IPAM.Config = append(out.IPAM.Config, c)
	}
	maps.Copy(out.Options, n.Options)
	maps.Copy(out.Labels, n.Labels)
	if n.Interface != "" && !n.Made {
		out.Options["com.docker.network.bridge.name"] = n.Interface
		out.Options["com.docker.network.driver.mtu"] = strconv.Itoa(n.MTU)
	}
	return out
}
