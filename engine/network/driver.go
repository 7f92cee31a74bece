package network

import (
	"context"
	"net/netip"

	"github.com/caisson-engine/caisson/engine/network/dns"
)

// Driver is the host's side of networks: interfaces, namespaces and packet
// rules. It keeps no record of its own that matters: whatever it needs comes
// with each call, and Sync tells it everything again.
//
// # The life of a driver
//
//	Facts, Used → Lock → EnsureBridge → Sync → { Verify → Open → Serve, Publish … Plug, Unplug … Unpublish, Unserve } … → Close
//	                                                                                                                  └→ Cleanup
//
// Sync comes first after every start of the engine: it makes the host match the
// state it is given, in one transaction, and removes links that nothing claims.
// Open makes one container's namespace; the namespace lives as long as something
// holds it, at first only the Sandbox returned. There is no verb to undo Open:
// when the last holder is gone, the namespace and its links are gone. Publish
// and Unpublish change the forwarded ports, each in one transaction, and rebuild
// everything if someone else removed the driver's rules meanwhile.
//
// Close drops what this process holds and leaves the network of running
// containers working; Cleanup takes everything of this engine off the host.
//
// All methods are safe for concurrent use. A verb that fails changes nothing.
type Driver interface {
	// Facts tells what this host offers. It never fails: what is missing is a
	// warning. The answer may change between calls.
	Facts() Facts
	// Used lists the prefixes that the host's interfaces and routes use, but for
	// those of the bridge named except and the default routes.
	Used(except string) ([]netip.Prefix, error)
	// Lock excludes every other engine on this host until unlock is called, so
	// that two of them do not choose the same subnet.
	Lock() (unlock func(), err error)

	// EnsureBridge makes a bridge, or corrects the one that has its name.
	EnsureBridge(b Bridge) error
	// AddBridge is EnsureBridge while containers run: rules know the bridge, too,
	// when it returns.
	AddBridge(b Bridge) error
	// RemoveBridge takes a bridge away, from the rules first. One that is gone is
	// success.
	RemoveBridge(b Bridge) error
	// EnsureParent makes sure that an interface exists whose shares are given: a
	// blind one leads nowhere, and name.N is made as VLAN N of name. RemoveParent
	// takes it away if EnsureParent made it.
	EnsureParent(name string, blind bool) error
	RemoveParent(name string) error
	// Sync makes the host's rules and links those of the state, and no others.
	Sync(s State) error

	// Verify is asked before each container: it notices cheaply whether somebody
	// removed the bridge or changed the rules, and repairs them. remade tells
	// that namespaces made before are no longer connected to the bridge.
	Verify(b Bridge) (remade bool, err error)
	// Open makes a namespace with the loopback interface up and the links asked
	// for, ready to use: no address in it is tentative.
	Open(ctx context.Context, n Namespace) (*Sandbox, error)
	// Plug adds a link to a namespace in use, and Unplug takes one away; the
	// default routes are left as they are. Both fail with NotFound if the
	// namespace is another by now.
	Plug(ctx context.Context, r Reach, l Link) (hostLink string, err error)
	Unplug(r Reach, hostLink, name string) error
	// Route replaces the default routes of a namespace in use. An invalid gateway
	// is no route.
	Route(r Reach, via4, via6 Via) error

	// Serve makes a container's names known to those on its networks, and
	// answers its own queries in its namespace; a repeat replaces what was known.
	// The answers go on when this process ends. Unserve is the end of both.
	Serve(ctx context.Context, h Served) error
	Unserve(id string)

	// Publish starts forwarding. Ports forwarded already are left as they are.
	// links are the host's ends of the links behind the ports, which may now
	// see their own packets come back.
	Publish(f []Forward, links []string) error
	// Unpublish stops forwarding. Ports not forwarded are success.
	Unpublish(f []Forward) error

	// Close frees what this process holds.
	Close() error
	// Cleanup removes every bridge named and every rule of this engine.
	Cleanup(bridges []string) error
}

// Facts is what a host offers.
type Facts struct {
	IPv6     bool // the host can use IPv6 at all
	Firewall bool // Publish forwards and outbound packets are masqueraded
	// EphemeralPorts is the range in which host ports are chosen when the
	// client leaves the choice to us.
	EphemeralPorts [2]uint16
	Warnings       []string
}

// Bridge is a bridge on the host. The addresses are the host's own on it, with
// the length of the subnet; a zero one means that the bridge lacks that family.
type Bridge struct {
	Name         string
	IPv4         netip.Prefix
	IPv6         netip.Prefix
	MTU          int
	Internal     bool // packets neither enter nor leave it
	NoMasquerade bool // they leave with the containers' own addresses
	New          bool // there must be no interface of its name yet
}

// Namespace is a container's namespace to be made.
type Namespace struct {
	Links   []Link
	Sysctls map[string]string // net.* names, dots or slashes; on top of the driver's own defaults
}

// Link is an interface in a namespace, connected to a bridge, or a share of an
// interface of the host. The gateways are default routes; zero ones make none.
type Link struct {
	Bridge   string
	Isolated bool   // its neighbours on the bridge cannot be reached
	Kind     string // macvlan or ipvlan: a share of Parent; "": connected to Bridge
	Parent   string
	Mode     string // of the share
	Name     string // in the namespace
	MAC      string
	IPv4     netip.Prefix
	IPv6     netip.Prefix
	Gateway4 netip.Addr
	Gateway6 netip.Addr
	MTU      int
}

// Sandbox is a namespace that was made. It is held until Close.
type Sandbox struct {
	Path      string   // for processes of this host, valid until Close
	ID        string   // of the namespace, by which Reach knows it again
	HostLinks []string // the host's end of each link, as asked; "" for a share
	Close     func() error
}

// Reach is how to get into the namespace of a container that runs.
type Reach struct {
	Path string // "": it cannot be entered from the host
	ID   string // the Sandbox's
}

// Via is a way out of a namespace.
type Via struct {
	Interface string
	Gateway   netip.Addr
}

// Forward is a published port: what arrives at the host's address and port goes
// to Target. An unspecified HostIP is every address of the host of that family,
// but for those that cannot be forwarded (::1 and IPv6 link-local ones), which
// the port's own socket serves. Both ends have the same family.
type Forward struct {
	Proto    string // tcp, udp, sctp
	HostIP   netip.Addr
	HostPort uint16
	Target   netip.AddrPort
}

// Served is a container whose names are known, and how to reach it.
type Served struct {
	dns.Host
	Reach Reach
}

// State is everything that must be on the host.
type State struct {
	Bridges  []Bridge
	Parents  []string // interfaces of which networks give shares
	Forwards []Forward
	Links    []string // host ends of live containers' links
	// Hosts lists the containers whose names are known. It is asked again when
	// they have to be told anew.
	Hosts func() []Served
	// NoFirewall asks for no rules at all: the host's owner takes care of
	// forwarding and address translation.
	NoFirewall bool
}
