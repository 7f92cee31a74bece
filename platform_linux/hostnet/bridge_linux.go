package hostnet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
)

// Used implements network.Driver.
func (d *Driver) Used(except string) ([]netip.Prefix, error) {
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	skip := -1
	if l, err := d.handle.LinkByName(except); err == nil {
		skip = l.Attrs().Index
	}
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			ones, _ := n.Mask.Size()
			if p := netip.PrefixFrom(a.Unmap(), ones).Masked(); ones > 0 && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() {
				used = append(used, p)
			}
		}
	}
	addrs, err := d.handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, kernelError("list the host's addresses", err)
	}
	for _, a := range addrs {
		if a.LinkIndex != skip {
			add(a.IPNet)
		}
	}
	routes, err := d.handle.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, kernelError("list the host's routes", err)
	}
	for _, r := range routes {
		if r.LinkIndex != skip {
			add(r.Dst)
		}
	}
	return used, nil
}

// EnsureBridge implements network.Driver.
func (d *Driver) EnsureBridge(b network.Bridge) error {
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	return d.ensureBridge(b)
}

// AddBridge implements network.Driver.
func (d *Driver) AddBridge(b network.Bridge) error {
	if err := d.EnsureBridge(b); err != nil {
		return err
	}
	d.wall.add(b)
	return nil
}

// RemoveBridge implements network.Driver.
func (d *Driver) RemoveBridge(b network.Bridge) error {
	d.names.ungate(b.Name)
	d.wall.drop(b.Name)
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	delete(d.bridges, b.Name)
	if err := d.rtnl.do(delLink(b.Name)); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// Verify implements network.Driver.
func (d *Driver) Verify(b network.Bridge) (bool, error) {
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	remade := false
	known := d.bridges[b.Name]
	if index, err := d.rtnl.linkIndex(b.Name); err != nil || known == nil || known.index != index {
		d.log.Warn("a bridge is gone, making it again", "bridge", b.Name)
		if err := d.ensureBridge(b); err != nil {
			return false, err
		}
		remade = true
	}
	d.wall.check()
	return remade, nil
}

func (d *Driver) ensureBridge(b network.Bridge) error {
	link, err := d.bridgeLink(b)
	if err != nil {
		return err
	}
	what := "set up bridge " + b.Name
	index := link.Attrs().Index
	if link.Attrs().MTU != b.MTU {
		if err := d.handle.LinkSetMTU(link, b.MTU); err != nil {
			return kernelError(what, err)
		}
	}
	// route_localnet lets the host's connections to 127.0.0.1 be forwarded. The
	// others are set before the bridge is up: it must not listen to routers
	// among the containers, and without a link-local address that counts at
	// once it could not find the first of them.
	settings := [][2]string{{"ipv4/conf/" + b.Name + "/route_localnet", "1"}}
	if b.IPv6.IsValid() {
		settings = append(settings,
			[2]string{"ipv6/conf/" + b.Name + "/disable_ipv6", "0"},
			[2]string{"ipv6/conf/" + b.Name + "/accept_dad", "0"},
			[2]string{"ipv6/conf/" + b.Name + "/accept_ra", "0"})
	}
	for _, s := range settings {
		if readSysctl(s[0]) == s[1] {
			continue
		}
		if err := writeSysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return kernelError(what+": set "+s[0], err)
		}
	}
	if err := d.ensureAddrs(link, b); err != nil {
		return err
	}
	if err := d.handle.LinkSetUp(link); err != nil {
		return kernelError(what, err)
	}
	b.New = false
	d.bridges[b.Name] = &hostBridge{Bridge: b, index: index}
	d.enableForwarding(b.IPv6.IsValid())
	return nil
}

// bridgeLink finds or makes the bridge.
func (d *Driver) bridgeLink(b network.Bridge) (netlink.Link, error) {
	what := "make bridge " + b.Name
	for {
		link, err := d.handle.LinkByName(b.Name)
		if err == nil {
			if b.New {
				return nil, fmt.Errorf("%s: the host has an interface of this name, which stays its owner's: choose another name: %w", what, errdefs.ErrConflict)
			}
			if link.Type() != "bridge" {
				return nil, fmt.Errorf("%s: an interface of this name exists and is a %s: remove it or choose another name: %w", what, link.Type(), errdefs.ErrConflict)
			}
			return link, nil
		}
		if !errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil, kernelError(what, err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = b.Name, b.MTU
		// A bridge without an address of its own takes that of one of its
		// ports, and neighbours would see it change with the containers.
		sum := sha256.Sum256([]byte(b.Name + b.IPv4.String()))
		attrs.HardwareAddr = net.HardwareAddr{0x02, 0x42, sum[0], sum[1], sum[2], sum[3]}
		if err := d.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, kernelError(what, err)
		}
	}
}

// ensureAddrs gives the bridge its addresses and takes others of the same
// families away, but for the link-local ones.
func (d *Driver) ensureAddrs(link netlink.Link, b network.Bridge) error {
	what := "set the addresses of bridge " + b.Name
	have, err := d.handle.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return kernelError(what, err)
	}
	missing := map[netip.Prefix]bool{b.IPv4: b.IPv4.IsValid(), b.IPv6: b.IPv6.IsValid()}
	for _, a := range have {
		addr, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		p := netip.PrefixFrom(addr.Unmap(), ones)
		switch {
		case missing[p]:
			missing[p] = false
		case p.Addr().IsLinkLocalUnicast():
		default:
			d.log.Warn("removing an address that the bridge should not have", "bridge", b.Name, "address", p)
			if err := d.handle.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return kernelError(what, err)
			}
		}
	}
	for p, wanted := range missing {
		if !wanted {
			continue
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := d.handle.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return kernelError(fmt.Sprintf("%s: %s", what, p), err)
		}
	}
	return nil
}

// enableForwarding lets the host route between the bridges and the outside.
func (d *Driver) enableForwarding(ipv6 bool) {
	d.enable("ipv4/ip_forward", "IPv4")
	if !ipv6 || readSysctl("ipv6/conf/all/forwarding") == "1" {
		d.problem("IPv6 forwarding", "")
		return
	}
	// A host that forwards stops listening to routers, and would lose its own
	// default route, unless it is told to go on.
	if entries, err := os.ReadDir(sysctlRoot + "ipv6/conf"); err == nil {
		for _, e := range entries {
			name := "ipv6/conf/" + e.Name() + "/accept_ra"
			if e.Name() == "all" || e.Name() == "lo" || d.bridges[e.Name()] != nil || readSysctl(name) != "1" {
				continue
			}
			if err := writeSysctl(name, "2"); err == nil && e.Name() != "default" {
				d.log.Info("interface keeps accepting router advertisements", "setting", "net/"+name, "was", 1, "now", 2)
			}
		}
	}
	d.enable("ipv6/conf/all/forwarding", "IPv6")
}

func (d *Driver) enable(setting, family string) {
	topic := family + " forwarding"
	if readSysctl(setting) == "1" {
		d.problem(topic, "")
		return
	}
	if err := writeSysctl(setting, "1"); err != nil {
		d.problem(topic, fmt.Sprintf("%s forwarding is off on this host and cannot be turned on (net/%s: %v): containers reach no other network by %s", family, setting, err, family))
		return
	}
	d.problem(topic, "")
	d.log.Info("turned on forwarding", "setting", "net/"+setting, "was", 0, "now", 1)
}

// Sync implements network.Driver.
func (d *Driver) Sync(s network.State) error {
	if err := d.removeStale(s.Links); err != nil {
		return err
	}
	if err := d.removeStaleBridges(s); err != nil {
		return err
	}
	if err := d.wall.sync(s); err != nil {
		return err
	}
	return d.names.sync(s.Hosts)
}

// removeStaleBridges removes bridges of ours that no network has: the engine
// ended while one was made or removed.
func (d *Driver) removeStaleBridges(s network.State) error {
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	links, err := d.handle.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return kernelError("list interfaces", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if !madeName(d.cfg.HostID, name) || slices.Contains(s.Parents, name) ||
			slices.ContainsFunc(s.Bridges, func(b network.Bridge) bool { return b.Name == name }) {
			continue
		}
		d.log.Info("removing the bridge of a network that is gone", "interface", name)
		if err := d.rtnl.do(delLink(name)); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}

// madeName tells whether an interface's name is one that engine/network gives
// the networks of clients.
func madeName(hostID, name string) bool {
	n, ok := strings.CutPrefix(name, "cs"+hostID+"n")
	return ok && n != "" && strings.Trim(n, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

// removeStale removes links of ours that nobody claims.
func (d *Driver) removeStale(claimed []string) error {
	keep := make(map[string]bool)
	for _, l := range claimed {
		keep[l] = true
	}
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	links, err := d.handle.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return kernelError("list interfaces", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if l.Type() != "veth" || keep[name] || !d.links.ours(name) {
			continue
		}
		d.log.Info("removing the link of a container that is gone", "interface", name)
		if err := d.rtnl.do(delLink(name)); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}

// Publish implements network.Driver.
func (d *Driver) Publish(f []network.Forward, links []string) error {
	if err := d.hairpin(links); err != nil {
		return err
	}
	d.wall.publish(f)
	return nil
}

func (d *Driver) hairpin(links []string) error {
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	batch := make([]request, 0, len(links))
	for _, l := range links {
		index, err := d.rtnl.linkIndex(l)
		if err != nil {
			return kernelError("find interface "+l, err)
		}
		batch = append(batch, hairpin(index))
	}
	return d.rtnl.do(batch...)
}

// Unpublish implements network.Driver.
func (d *Driver) Unpublish(f []network.Forward) error {
	d.wall.unpublish(f)
	return nil
}

// Cleanup implements network.Driver.
func (d *Driver) Cleanup(bridges []string) error {
	errs := []error{d.wall.cleanup()}
	d.rtnlMu.Lock()
	for _, name := range bridges {
		if err := d.rtnl.do(delLink(name)); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, err)
		}
		delete(d.bridges, name)
	}
	d.rtnlMu.Unlock()
	errs = append(errs, d.removeStale(nil))
	return errors.Join(errs...)
}
