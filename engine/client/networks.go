package client

import (
	"context"
	"encoding/json"
	"net/http"
)

// Network is one network of networks and networks/create.
type Network struct {
	Name       string
	ID         string `json:"Id"`
	Created    string
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	Internal   bool
	Labels     map[string]string
}

// CreateNetworkRequest is what a new network is to be. Nil families are the
// engine's choice.
type CreateNetworkRequest struct {
	Name       string
	Driver     string             `json:",omitempty"`
	Scope      string             `json:",omitempty"`
	EnableIPv4 *bool              `json:",omitempty"`
	EnableIPv6 *bool              `json:",omitempty"`
	IPAM       *IPAM              `json:",omitempty"`
	Internal   bool               `json:",omitempty"`
	Attachable bool               `json:",omitempty"`
	Ingress    bool               `json:",omitempty"`
	ConfigOnly bool               `json:",omitempty"`
	ConfigFrom *NetworkConfigFrom `json:",omitempty"`
	Options    map[string]string  `json:",omitempty"`
	Labels     map[string]string  `json:",omitempty"`
}

// NetworkConfigFrom names a network whose configuration is taken.
type NetworkConfigFrom struct{ Network string }

// IPAM is how a network's addresses are managed.
type IPAM struct {
	Driver  string
	Options map[string]string `json:",omitempty"`
	Config  []IPAMConfig
}

// IPAMConfig is one subnet of a network.
type IPAMConfig struct {
	Subnet     string            `json:",omitempty"`
	IPRange    string            `json:",omitempty"`
	Gateway    string            `json:",omitempty"`
	AuxAddress map[string]string `json:"AuxiliaryAddresses,omitempty"`
}

func networkPath(name, verb string) string { return "/networks/" + escape(name) + verb }

// Networks lists networks.
func (c *Client) Networks(ctx context.Context, f Filters) ([]Network, error) {
	var out []Network
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/networks", Query: query("filters", f.encode())}, &out)
	return out, err
}

// CreateNetwork makes a network and tells its id and what the engine warns of.
func (c *Client) CreateNetwork(ctx context.Context, r CreateNetworkRequest) (id, warning string, err error) {
	var out struct {
		ID      string `json:"Id"`
		Warning string
	}
	err = c.Call(ctx, Request{Method: http.MethodPost, Path: "/networks/create", Body: r}, &out)
	return out.ID, out.Warning, err
}

// InspectNetwork tells all about a network, as the engine sent it.
func (c *Client) InspectNetwork(ctx context.Context, name string) (json.RawMessage, error) {
	var raw json.RawMessage
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: networkPath(name, "")}, &raw)
	return raw, err
}

// RemoveNetwork removes a network.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	return c.Call(ctx, Request{Method: http.MethodDelete, Path: networkPath(name, "")}, nil)
}

// PruneNetworks removes the networks that no container uses and tells their names.
func (c *Client) PruneNetworks(ctx context.Context, f Filters) ([]string, error) {
	var out struct{ NetworksDeleted []string }
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/networks/prune", Query: query("filters", f.encode())}, &out)
	return out.NetworksDeleted, err
}

// ConnectNetwork puts a container on a network.
func (c *Client) ConnectNetwork(ctx context.Context, name, container string, e *Endpoint) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: networkPath(name, "/connect"), Body: struct {
		Container      string
		EndpointConfig *Endpoint
	}{container, e}}, nil)
}

// DisconnectNetwork takes a container off a network.
func (c *Client) DisconnectNetwork(ctx context.Context, name, container string, force bool) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: networkPath(name, "/disconnect"), Body: struct {
		Container string
		Force     bool
	}{container, force}}, nil)
}
