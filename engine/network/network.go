// Package network gives containers their network: address management, the
// bridges and ports an engine owns, name resolution files. It is neutral; the
// kernel's part is behind Driver, which platform_linux/hostnet implements.
//
// # The life of a container's network
//
//	Manager.Attach → backend.Open(netns path) → Netns.Close → … → Manager.Release
//
// Attach allocates addresses and ports, makes the namespace and its links, and
// publishes the ports in one transaction. The namespace is held by open files and
// the name server's sockets only, never by a mount: when the sandbox's last
// process has ended and Release was called, the kernel removes it with everything
// in it. Release gives back addresses and ports. The Attachment is plain data
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
	// Endpoints are the networks to be on, by name, with what is asked of each;
	// none: that of the mode alone.
	Endpoints map[string]*network.EndpointSettings
	// OwnStack says that the container's network is another kernel's: it does
	// not reach what listens in its namespace.
	OwnStack bool
}

// Endpoint is a container's place on one network.
type Endpoint struct {
	Network    string // name
	NetworkID  string
	Driver     string `json:",omitempty"` // of the network
	EndpointID string
	Interface  string // inside the container
	HostLink   string // the host's end of it
	MAC        string
	IPv4       netip.Prefix // zero: none
	IPv6       netip.Prefix
	Gateway4   netip.Addr
	Gateway6   netip.Addr
	Aliases    []string
	DNSNames   []string `json:",omitempty"` // by which others on the network find it
	Priority   int      `json:",omitempty"` // of its gateway
}

// Attachment is everything allocated for one container; JSON, stored by the engine.
type Attachment struct {
	Container string
	Mode      string
	SandboxID string
	Endpoints []Endpoint
	Ports     network.PortMap // bindings in force, ephemeral ports filled in; exposed but unpublished ports have a nil value
	Namespace string          `json:",omitempty"` // what tells its namespace from others
	Resolve   *Resolve        `json:",omitempty"` // nil: it is on no network whose names are served
}

// Resolve is how a container's names are looked up.
type Resolve struct {
	Servers  []netip.AddrPort  `json:",omitempty"` // that know the rest of the world
	Ndots    bool              `json:",omitempty"` // the client set ndots itself
	Links    map[string]string `json:",omitempty"` // names of its own for other containers
	OwnStack bool              `json:",omitempty"` // see Request
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
