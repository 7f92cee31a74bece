package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/vmshim/guestpb"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// # How a guest gets a sandbox's network
//
// The engine made a namespace with interfaces that have addresses, as for any
// container. The guest gets the same addresses: what arrives at such an interface
// is handed to a tap beside it before the host's own network stack sees it, and
// the other way round. So bridge, ports, firewall and peers notice no difference.
//
//	bridge ══ veth ══ eth0 ⇄ tap0 ══ monitor ══ eth0 of the guest
//	                  └ in the sandbox's namespace

// network is what a sandbox's namespace has.
type network struct {
	links  []*guestpb.Interface // in order; the index says which of the guest's
	routes []*guestpb.Route
}

// inNamespace opens netlink there.
func inNamespace(f *os.File) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return h, nil
}

// readNetwork reads what the guest shall have.
func readNetwork(ns *os.File) (*network, error) {
	h, err := inNamespace(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	n, names := &network{}, map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || l.Type() == "sit" || l.Type() == "ip6tnl" || l.Type() == "ipip" {
			continue
		}
		if len(n.links) == vmm.MaxNICs {
			return nil, fmt.Errorf("a virtual machine has %d network interfaces at most: %w", vmm.MaxNICs, errdefs.ErrInvalidArgument)
		}
		i := &guestpb.Interface{Index: uint32(len(n.links)), Name: a.Name, Mac: a.HardwareAddr, Mtu: uint32(a.MTU)}
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			if addr.IP.IsLinkLocalUnicast() && addr.IP.To4() == nil {
				continue // of the hardware address: the guest makes the same
			}
			i.Addresses = append(i.Addresses, addr.IPNet.String())
		}
		n.links, names[a.Index] = append(n.links, i), a.Name
	}
	routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		name, ours := names[r.LinkIndex]
		if !ours || r.Protocol == unix.RTPROT_KERNEL || r.Table != unix.RT_TABLE_MAIN || r.Dst != nil && r.Dst.IP.IsLinkLocalUnicast() {
			continue
		}
		q := &guestpb.Route{Interface: name}
		if r.Dst != nil && !isDefault(r.Dst) {
			q.Destination = r.Dst.String()
		}
		if r.Gw != nil {
			q.Gateway = r.Gw.String()
		}
		n.routes = append(n.routes, q)
	}
	// Routes on the link first: gateways must be reachable.
	for i, j := 0, 0; i < len(n.routes); i++ {
		if n.routes[i].GetGateway() == "" {
			n.routes[i], n.routes[j] = n.routes[j], n.routes[i]
			j++
		}
	}
	return n, nil
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0 && n.IP.IsUnspecified()
}

// connectTaps moves a machine's taps beside the interfaces of a namespace and
// joins each to its own.
func connectTaps(monitor, sandbox *os.File, n *network) error {
	if len(n.links) == 0 {
		return nil
	}
	from, err := inNamespace(monitor)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := inNamespace(sandbox)
	if err != nil {
		return err
	}
	defer to.Close()
	for i, link := range n.links {
		if err := connectTap(from, to, sandbox, i, link); err != nil {
			return fmt.Errorf("network interface %s: %w", link.GetName(), err)
		}
	}
	return nil
}

func connectTap(from, to *netlink.Handle, sandbox *os.File, i int, link *guestpb.Interface) error {
	name := vmm.TapName(i)
	tap, err := from.LinkByName(name)
	if err != nil {
		return err
	}
	if err := from.LinkSetNsFd(tap, int(sandbox.Fd())); err != nil {
		return fmt.Errorf("move its tap: %w", err)
	}
	if tap, err = to.LinkByName(name); err != nil {
		return err
	}
	peer, err := to.LinkByName(link.GetName())
	if err != nil {
		return err
	}
	if err := to.LinkSetMTU(tap, int(link.GetMtu())); err != nil {
		return err
	}
	// The tap is no host of its own.
	if err := to.LinkSetUp(tap); err != nil {
		return err
	}
	for _, way := range [][2]netlink.Link{{peer, tap}, {tap, peer}} {
		if err := redirect(to, way[0], way[1]); err != nil {
			return err
		}
	}
	return nil
}

// redirect hands all that arrives at one interface to the other's way out.
func redirect(h *netlink.Handle, from, to netlink.Link) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}}
	if err := h.QdiscAdd(ingress); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("redirect: %w", err)
	}
	action := netlink.NewMirredAction(to.Attrs().Index)
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{action},
	}
	if err := h.FilterAdd(filter); err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	return nil
}

// setup is what a machine is told first.
func (s *sandbox) setup(bootID string) *guestpb.SetupRequest {
	r := &guestpb.SetupRequest{
		Protocol: guestpb.Protocol, Hostname: s.rec.GetHostname(), BootId: bootID, Sysctls: map[string]string{},
	}
	for k, v := range s.rec.GetAnnotations() {
		if name, ok := cutSysctl(k); ok {
			r.Sysctls[name] = v
		}
	}
	if s.net != nil {
		r.Interfaces, r.Routes = s.net.links, s.net.routes
	}
	return r
}

// join gives a machine its network.
func (m *machine) join(_ context.Context, s *sandbox) error {
	if s.netns == nil || s.net == nil || m.netns == nil {
		return nil
	}
	err := connectTaps(m.netns, s.netns, s.net)
	_ = m.netns.Close()
	m.netns = nil
	return err
}
