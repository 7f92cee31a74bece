// Package network gives containers their network: address management, the
// bridges and ports an engine owns, name resolution files. It is neutral; the
// kernel's part is behind Driver, which platform_linux/hostnet implements.
//
// # The life of a container's network
//
//	Manager.Attach → backend.Open(netns path) → Netns.Close → … → Manager.Release
//
// Attach allocates addresses and ports, makes the namespace and its links, and
// publishes the ports in one transaction. The namespace is held by an open file
// only, never by a mount: when the sandbox's last process ends, the kernel
// removes the namespace with everything in it, and a crash of the engine leaves
// nothing. Release gives back addresses and ports. The Attachment is plain data
// that the engine stores in the container's record; after a restart it hands all
// live ones to Restore, which rebuilds address pools, port holders and firewall
// table from them, and removes what no attachment claims.
package network

import (
	"net/netip"

	"github.com/moby/moby/api/types/network"
)

// Request describes the network that a container asks for.
type Request struct {
	Container  string // id
	Tenant     string // whose it is, "" the host owner's: each has a bridge of its own
	Mode       string // "", default, bridge, none, host, container:<id>; a network's name
	Name       string // the container's name, for names on user-defined networks
	Hostname   string
	Domainname string
	Exposed    []network.Port
	Ports      network.PortMap
	PublishAll bool
	DNS        []netip.Addr
	DNSSearch  []string
	DNSOptions []string
	ExtraHosts []string          // name:address, address may be host-gateway
	Sysctls    map[string]string // net.* only, set inside the namespace
	Endpoints  map[string]*network.EndpointSettings
}

// Endpoint is a container's place on one network.
type Endpoint struct {
	Network    string // name
	NetworkID  string
	EndpointID string
	Interface  string // inside the container
	HostLink   string // the host's end of it
	MAC        string
	IPv4       netip.Prefix // zero: none
	IPv6       netip.Prefix
	Gateway4   netip.Addr
	Gateway6   netip.Addr
	Aliases    []string
}

// Attachment is everything allocated for one container; JSON, stored by the engine.
type Attachment struct {
	Container string
	Mode      string
	SandboxID string
	Endpoints []Endpoint
	Ports     network.PortMap // bindings in force, ephemeral ports filled in; exposed but unpublished ports have a nil value
}

// Netns is a namespace under construction. Path is valid for processes of this
// host until Close; "" is the host's own network. Close keeps what a sandbox
// holds open and frees the rest.
type Netns struct {
	Path  string
	close func() error
}

// Close drops the engine's hold of the namespace. Idempotent, nil-safe.
func (n *Netns) Close() error {
	if n == nil || n.close == nil {
		return nil
	}
	c := n.close
	n.close = nil
	return c()
}
