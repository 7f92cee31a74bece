// Package dns answers the name queries of containers: names of containers on
// the same networks from what it was told, and the rest by asking the servers
// that each container has.
//
// # The life of a server
//
//	New → { Put → … queries … → Put → … Drop } … → Close
//
// Put tells of a container: the names that it has on each of its networks, and
// whom it asks for other names. With sockets it is served from then on; a later
// Put without sockets changes what is known. A query is answered for the
// container whose socket it came by: it sees the names on its own networks, and
// no others.
//
// # Hostile containers
//
// A container can send what it likes as fast as it likes. Its queries a second,
// its queries under way to other servers and its connections are bounded, each
// for itself, so that it takes nothing from its neighbours; what is beyond the
// bound is lost, as datagrams may be. Nothing is cached, so that nothing can be
// poisoned. Answers of other servers are handed back as they are and only to
// whom asked.
package dns

import "net/netip"

// Host is a container as the server knows it.
type Host struct {
	ID      string
	Places  []Place                 // in the order in which names are looked for
	Servers []netip.AddrPort        `json:",omitempty"` // asked for other names, the first that answers
	Sealed  bool                    `json:",omitempty"` // it has no way out: no server is asked
	Ndots   bool                    `json:",omitempty"` // names without a dot are not for other servers
	Links   map[string]string       `json:",omitempty"` // names of its own for names on its networks
	Fixed   map[string][]netip.Addr `json:",omitempty"` // names of its own for addresses
	// OwnStack says that it asks from behind another kernel: at the address of
	// one of its networks' gateways, by its own address.
	OwnStack bool `json:",omitempty"`
}

// Place is a container's place on one network.
type Place struct {
	Network string // id
	Name    string // of the network
	Names   []string
	IPv4    netip.Addr
	IPv6    netip.Addr
	// Bridge and Gate are the network's interface on the host and its address:
	// where a container with a stack of its own asks. Zero: nowhere.
	Bridge string     `json:"-"`
	Gate   netip.Addr `json:"-"`
}
