package hostnet

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
)

// Modes of shares, by the words that clients use.
var (
	macvlanModes = map[string]netlink.MacvlanMode{
		"bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE,
		"vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
	}
	ipvlanModes = map[string]netlink.IPVlanMode{
		"l2": netlink.IPVLAN_MODE_L2, "l3": netlink.IPVLAN_MODE_L3, "l3s": netlink.IPVLAN_MODE_L3S,
	}
)

// addShare makes a share of an interface of the host, in a namespace.
func (d *Driver) addShare(n *namespace, l network.Link) error {
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	what := fmt.Sprintf("make a %s of %s", l.Kind, l.Parent)
	parent, err := d.handle.LinkByName(l.Parent)
	if err != nil {
		return parentError(l.Parent, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = l.Name, parent.Attrs().Index, netlink.NsFd(n.ns.Fd())
	var link netlink.Link = &netlink.Macvlan{LinkAttrs: attrs, Mode: macvlanModes[l.Mode]}
	if l.Kind == "ipvlan" {
		link = &netlink.IPVlan{LinkAttrs: attrs, Mode: ipvlanModes[l.Mode]}
	}
	err = d.handle.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%s: this host's kernel has no %s: %w", what, l.Kind, errdefs.ErrNotImplemented)
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s: it has shares of another kind, or is a port of a bridge: %w", what, errdefs.ErrConflict)
	}
	return kernelError(what, err)
}

func parentError(name string, err error) error {
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("the host has no interface %s: %w", name, errdefs.ErrNotFound)
	}
	return kernelError("find interface "+name, err)
}

// EnsureParent implements network.Driver.
func (d *Driver) EnsureParent(name string, blind bool) error {
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	_, err := d.handle.LinkByName(name)
	if err == nil {
		return nil
	}
	if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return parentError(name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	// A bridge without ports leads nowhere, and every kernel has it.
	var link netlink.Link = &netlink.Bridge{LinkAttrs: attrs}
	if !blind {
		dot := strings.LastIndexByte(name, '.')
		if dot < 0 {
			return parentError(name, err)
		}
		id, idErr := strconv.Atoi(name[dot+1:])
		if idErr != nil || id < 1 || id > 4094 {
			return fmt.Errorf("the host has no interface %s, and it does not name a VLAN of one (name.1 to name.4094): %w", name, errdefs.ErrInvalidArgument)
		}
		below, err := d.handle.LinkByName(name[:dot])
		if err != nil {
			return parentError(name[:dot], err)
		}
		attrs.ParentIndex = below.Attrs().Index
		link = &netlink.Vlan{LinkAttrs: attrs, VlanId: id}
	}
	if err := d.handle.LinkAdd(link); err != nil && !errors.Is(err, unix.EEXIST) {
		return kernelError("make interface "+name, err)
	}
	made, err := d.handle.LinkByName(name)
	if err != nil {
		return parentError(name, err)
	}
	if err := d.handle.LinkSetAlias(made, d.wall.name); err != nil {
		return kernelError("name interface "+name, err)
	}
	return kernelError("bring up interface "+name, d.handle.LinkSetUp(made))
}

// RemoveParent implements network.Driver. What we made bears our table's name as
// its alias.
func (d *Driver) RemoveParent(name string) error {
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	l, err := d.handle.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return parentError(name, err)
	}
	if l.Attrs().Alias != d.wall.name {
		return nil
	}
	// Networks that share a VLAN's interface: the last one takes it away.
	links, err := d.handle.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return kernelError("list interfaces", err)
	}
	for _, o := range links {
		if o.Attrs().ParentIndex == l.Attrs().Index && o.Type() != "vlan" {
			return nil
		}
	}
	if err := d.handle.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return kernelError("remove interface "+name, err)
	}
	return nil
}

// isolate keeps a bridge's port from other such ports. The caller holds rtnlMu.
func (d *Driver) isolate(name string) error {
	l, err := d.handle.LinkByName(name)
	if err == nil {
		err = d.handle.LinkSetIsolated(l, true)
	}
	return kernelError("isolate interface "+name, err)
}
