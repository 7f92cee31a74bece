package hostnet

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

	"github.com/caisson-engine/caisson/engine/network"
)

// namespaceID tells a namespace from every other that there is now.
func namespaceID(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", kernelError("look at a network namespace", err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// reach opens the namespace of a container that runs. The path goes by a process
// id, which may be another's by now: then the namespace is not the one known.
func reach(r network.Reach) (*os.File, error) {
	gone := func(err error) error {
		return fmt.Errorf("the container's network namespace is gone: %w: %w", err, errdefs.ErrNotFound)
	}
	f, err := os.Open(r.Path)
	if err != nil {
		return nil, gone(err)
	}
	id, err := namespaceID(f)
	if err == nil && id != r.ID {
		err = gone(errors.New("its process ended"))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// enter is reach with what sets a namespace up.
func (d *Driver) enter(r network.Reach) (*namespace, error) {
	ns, err := reach(r)
	if err != nil {
		return nil, err
	}
	n := &namespace{ns: ns}
	err = inNamespace(d.host, func() error {
		return kernelError("enter a network namespace", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
	}, func() error {
		n.rtnl, err = dial()
		return kernelError("connect to a network namespace", err)
	})
	if err != nil {
		_ = ns.Close()
		return nil, err
	}
	return n, nil
}

// Plug implements network.Driver.
func (d *Driver) Plug(ctx context.Context, r network.Reach, l network.Link) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	n, err := d.enter(r)
	if err != nil {
		return "", err
	}
	defer n.close() //nolint:errcheck // read-only, and the socket has answered
	if l.IPv6.IsValid() {
		// It may have begun without a network that has IPv6.
		err = d.within(n, func() error {
			for _, s := range append([][2]string{{"ipv6/conf/default/disable_ipv6", "0"}}, withIPv6...) {
				if err := writeSysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
					return kernelError("set "+s[0], err)
				}
			}
			return nil
		})
	}
	if err == nil {
		err = d.addLink(n, l)
	}
	if err != nil {
		return "", err
	}
	if err := n.configure(l); err != nil {
		_ = d.Unplug(r, n.links[0], l.Name)
		return "", err
	}
	return n.links[0], nil
}

// within runs f on a thread in a namespace.
func (d *Driver) within(n *namespace, f func() error) error {
	return inNamespace(d.host, func() error {
		return kernelError("enter a network namespace", unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET))
	}, f)
}

// Unplug implements network.Driver. An interface that is gone is success.
func (d *Driver) Unplug(r network.Reach, hostLink, name string) error {
	if hostLink != "" {
		d.rtnlMu.Lock()
		defer d.rtnlMu.Unlock()
		if err := d.rtnl.do(delLink(hostLink)); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
		return nil
	}
	n, err := d.enter(r)
	if err != nil {
		return err
	}
	defer n.close() //nolint:errcheck // as above
	if err := n.rtnl.do(delLink(name)); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// Route implements network.Driver.
func (d *Driver) Route(r network.Reach, via4, via6 network.Via) error {
	ns, err := reach(r)
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // read-only
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return kernelError("connect to a network namespace", err)
	}
	defer h.Close()
	for _, x := range []struct {
		family int
		via    network.Via
		all    *net.IPNet
	}{
		{unix.AF_INET, via4, &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}},
		{unix.AF_INET6, via6, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
	} {
		if err := setDefault(h, x.family, x.via, x.all); err != nil {
			return err
		}
	}
	return nil
}

// setDefault replaces the default route that we set, if it is another. Routes
// that a program in the container set are its own.
func setDefault(h *netlink.Handle, family int, via network.Via, all *net.IPNet) error {
	routes, err := h.RouteList(nil, family)
	if err != nil {
		return kernelError("list routes", err)
	}
	index := 0
	if via.Gateway.IsValid() {
		l, err := h.LinkByName(via.Interface)
		if err != nil {
			return kernelError("find interface "+via.Interface, err)
		}
		index = l.Attrs().Index
	}
	for _, r := range routes {
		if ones := 0; r.Dst != nil {
			if ones, _ = r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		if r.Gw == nil || r.Protocol != unix.RTPROT_BOOT {
			continue
		}
		if r.LinkIndex == index && r.Gw.Equal(via.Gateway.AsSlice()) {
			return nil
		}
		r.Dst = all
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return kernelError("remove the default route", err)
		}
	}
	if !via.Gateway.IsValid() {
		return nil
	}
	route := &netlink.Route{LinkIndex: index, Dst: all, Gw: via.Gateway.AsSlice(), Protocol: unix.RTPROT_BOOT}
	return kernelError("set the default route", h.RouteAdd(route))
}
