package network

import (
	"context"
	"net/netip"
)

// Driver is the host's side of networks: interfaces, namespaces and packet
// rules. It keeps no record of its own that matters: whatever it needs comes
// with each call, and Sync tells it everything again.
//
// # The life of a driver
//
//	Facts, Used → Lock → EnsureBridge → Sync → { Verify → Open → Publish … Unpublish } … → Close
//	                                                                                   └→ Cleanup
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
	// Sync makes the host's rules and links those of the state, and no others.
	Sync(s State) error

	// Verify is asked before each container: it notices cheaply whether somebody
	// removed the bridge or changed the rules, and repairs them. remade tells
	// that namespaces made before are no longer connected to the bridge.
	Verify(b Bridge) (remade bool, err error)
	// Open makes a namespace with the loopback interface up and the links asked
	// for, ready to use: no address in it is tentative.
	Open(ctx context.Context, n Namespace) (*Sandbox, error)
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
	Name string
	IPv4 netip.Prefix
	IPv6 netip.Prefix
	MTU  int
}

// Namespace is a container's namespace to be made.
type Namespace struct {
	Links   []Link
	Sysctls map[string]string // net.* names, dots or slashes; on top of the driver's own defaults
}

// Link is an interface in a namespace, connected to a bridge. The gateways are
// default routes; zero ones make none.
type Link struct {
	Bridge   string
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
	HostLinks []string // the host's end of each link, as asked
	Close     func() error
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

// State is everything that must be on the host.
type State struct {
	Bridges  []Bridge
	Forwards []Forward
	Links    []string // host ends of live containers' links
	// NoFirewall asks for no rules at all: the host's owner takes care of
	// forwarding and address translation.
	NoFirewall bool
}
