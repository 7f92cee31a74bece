package guest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

// usualSysctls are what any container's network has.
var usualSysctls = map[string]string{
	"net.ipv4.ip_unprivileged_port_start": "0",
	"net.ipv4.ping_group_range":           "0 2147483647",
}

func setSysctls(list map[string]string) error {
	for key, value := range list {
		if !strings.HasPrefix(key, "net.") || strings.Contains(key, "..") {
			return fmt.Errorf("sysctl %q is none of the network's: %w", key, errdefs.ErrInvalidArgument)
		}
		if err := os.WriteFile(filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/")), []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl %s: %w", key, err)
		}
	}
	return nil
}

// dropDummy removes the interface that some kernels make by themselves.
func dropDummy() {
	if l, err := netlink.LinkByName("dummy0"); err == nil {
		_ = netlink.LinkDel(l)
	}
}

func linkUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("network interface %s: %w", name, err)
	}
	return nil
}

// configureNetwork gives the machine's interfaces their names and addresses.
func configureNetwork(r *guestpb.SetupRequest) error {
	if err := ignoreRouters(); err != nil {
		return err
	}
	if err := setSysctls(r.GetSysctls()); err != nil {
		return err
	}
	if err := removeUnused(len(r.GetInterfaces())); err != nil {
		return err
	}
	byName := map[string]netlink.Link{}
	for _, i := range r.GetInterfaces() {
		l, err := configureInterface(fmt.Sprintf("eth%d", i.GetIndex()), i)
		if err != nil {
			return fmt.Errorf("network interface %d: %w", i.GetIndex(), err)
		}
		byName[i.GetName()] = l
	}
	for _, q := range r.GetRoutes() {
		if err := addRoute(q, byName[q.GetInterface()]); err != nil {
			return fmt.Errorf("route to %s by %s: %w", cmp.Or(q.GetDestination(), "default"), q.GetInterface(), err)
		}
	}
	return nil
}

// ignoreRouters has no interface listen to who says that it is a router: any other
// container of the network can say so.
func ignoreRouters() error {
	settings, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, path := range settings {
		err = errors.Join(err, os.WriteFile(path, []byte("0"), 0))
	}
	return err
}

// removeUnused takes away the interfaces that nobody has a use for: a container
// without a network has only the loopback.
func removeUnused(used int) error {
	for i := used; ; i++ {
		device, err := os.Readlink(fmt.Sprintf("/sys/class/net/eth%d/device", i))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = os.WriteFile("/sys/bus/virtio/drivers/virtio_net/unbind", []byte(filepath.Base(device)), 0)
		}
		if err != nil {
			return fmt.Errorf("network interface %d: %w", i, err)
		}
	}
}

// practiseNetwork does with an interface that leads nowhere what Setup does.
func practiseNetwork() error {
	const name = "practice"
	if err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		return nil //nolint:nilerr // a kernel without dummies
	}
	i := &guestpb.Interface{Name: name, Mac: []byte{2, 0, 0, 0, 0, 1}, Mtu: 1500, Addresses: []string{"192.0.2.2/24", "2001:db8::2/64"}}
	l, err := configureInterface(name, i)
	if err != nil {
		return err
	}
	for _, gateway := range []string{"192.0.2.1", "2001:db8::1"} {
		if err := addRoute(&guestpb.Route{Gateway: gateway}, l); err != nil {
			return err
		}
	}
	return netlink.LinkDel(l)
}

func configureInterface(at string, i *guestpb.Interface) (netlink.Link, error) {
	l, err := netlink.LinkByName(at)
	if err != nil {
		return nil, err
	}
	if len(i.GetMac()) > 0 {
		if err := netlink.LinkSetHardwareAddr(l, net.HardwareAddr(i.GetMac())); err != nil {
			return nil, fmt.Errorf("hardware address: %w", err)
		}
	}
	if i.GetMtu() > 0 && int(i.GetMtu()) != l.Attrs().MTU {
		if err := netlink.LinkSetMTU(l, int(i.GetMtu())); err != nil {
			return nil, fmt.Errorf("MTU: %w", err)
		}
	}
	if i.GetName() != l.Attrs().Name {
		if err := netlink.LinkSetName(l, i.GetName()); err != nil {
			return nil, fmt.Errorf("name: %w", err)
		}
	}
	for _, cidr := range i.GetAddresses() {
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return nil, err
		}
		a.Flags = unix.IFA_F_NODAD // the host's address manager gave it to nobody else
		if err := netlink.AddrAdd(l, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("address %s: %w", cidr, err)
		}
	}
	return l, netlink.LinkSetUp(l)
}

func addRoute(q *guestpb.Route, l netlink.Link) error {
	if l == nil {
		return fmt.Errorf("no such interface: %w", errdefs.ErrInvalidArgument)
	}
	route := &netlink.Route{LinkIndex: l.Attrs().Index}
	if q.GetGateway() == "" {
		route.Scope = netlink.SCOPE_LINK
	} else if route.Gw = net.ParseIP(q.GetGateway()); route.Gw == nil {
		return fmt.Errorf("invalid gateway: %w", errdefs.ErrInvalidArgument)
	}
	if q.GetDestination() != "" {
		_, dst, err := net.ParseCIDR(q.GetDestination())
		if err != nil {
			return err
		}
		route.Dst = dst
	}
	if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
