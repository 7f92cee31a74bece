package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
)

// linkNames makes names for the host's ends of links: v, the host id, and a
// number. Safe for concurrent use.
type linkNames struct {
	prefix string
	next   *atomic.Uint32
}

func newLinkNames(hostID string) linkNames {
	n := linkNames{prefix: "v" + hostID, next: new(atomic.Uint32)}
	// An engine that came before may have left links that live on.
	n.next.Store(uint32(os.Getpid()) << 8)
	return n
}

func (n linkNames) make() string {
	return fmt.Sprintf("%s%06x", n.prefix, n.next.Add(1)&0xffffff)
}

func (n linkNames) ours(name string) bool {
	return len(name) == len(n.prefix)+6 && strings.HasPrefix(name, n.prefix)
}

// namespace is one being made. It lives while ns is open, or somebody else
// holds it.
type namespace struct {
	ns    *os.File
	rtnl  *conn
	links []string // the host's ends
}

func (n *namespace) close() error {
	return errors.Join(n.rtnl.close(), n.ns.Close())
}

// inNamespace runs f on a thread of its own that has left the host's network
// namespace by enter. A thread that cannot come back ends.
func inNamespace(host *os.File, enter, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := enter()
		if err == nil {
			err = f()
			if back := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); back != nil {
				result <- errors.Join(err, kernelError("return to the host's network namespace", back))
				return // locked: the thread ends with the goroutine
			}
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

// defaultSysctls are set in every namespace. As Docker has it: nobody outside
// can tell who in a container listens on a low port or sends a ping, so its
// users need no capability for them.
var defaultSysctls = [][2]string{
	{"ipv4/ip_unprivileged_port_start", "0"},
	{"ipv4/ping_group_range", "0 2147483647"},
}

// withIPv6 is for a namespace that will have a link: our addresses are unique
// by construction, and no other container may play the router.
var withIPv6 = [][2]string{
	{"ipv6/conf/default/accept_dad", "0"},
	{"ipv6/conf/default/accept_ra", "0"},
}

// withoutIPv6 is for a namespace on a network that lacks it.
var withoutIPv6 = [][2]string{{"ipv6/conf/default/disable_ipv6", "1"}}

// newNamespace makes an empty namespace.
func (d *Driver) newNamespace(settings [][2]string) (*namespace, error) {
	n := &namespace{}
	err := inNamespace(d.host, func() error {
		return kernelError("make a network namespace", unix.Unshare(unix.CLONE_NEWNET))
	}, func() error {
		for _, s := range settings {
			if err := writeSysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
				return kernelError("set "+s[0], err)
			}
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return kernelError("open a network namespace", err)
		}
		n.ns = os.NewFile(uintptr(fd), "netns")
		if n.rtnl, err = dial(); err != nil {
			_ = n.ns.Close()
			return kernelError("connect to a network namespace", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// nameTries bounds the names that are tried for a link: an engine that had the
// same process number may have left some that live on.
const nameTries = 256

// addLink makes an interface of a namespace; it stays down there. Its host's end,
// "" if it has none, is added to the namespace's links.
func (d *Driver) addLink(n *namespace, l network.Link) error {
	if l.Kind != "" {
		n.links = append(n.links, "")
		return d.addShare(n, l)
	}
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	b := d.bridges[l.Bridge]
	if b == nil {
		return fmt.Errorf("bridge %s was not set up: %w", l.Bridge, errdefs.ErrFailedPrecondition)
	}
	for range nameTries {
		name := d.links.make()
		err := d.rtnl.do(veth(name, b.index, b.MTU, l.Name, int(n.ns.Fd())))
		if err == nil {
			n.links = append(n.links, name)
			if l.Isolated {
				return d.isolate(name)
			}
		}
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		// A link that an earlier engine left: the next name is free.
	}
	return fmt.Errorf("no free name for an interface on bridge %s: %w", l.Bridge, errdefs.ErrUnavailable)
}

// configure sets up the loopback interface and one link of a namespace.
func (n *namespace) configure(l network.Link) error {
	index, err := n.rtnl.linkIndex(l.Name)
	if err != nil {
		return kernelError("find interface "+l.Name, err)
	}
	var attrs []*nl.RtAttr
	if l.MTU > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(l.MTU))))
	}
	if l.MAC != "" {
		mac, err := net.ParseMAC(l.MAC)
		if err != nil || len(mac) != 6 {
			return fmt.Errorf("invalid MAC address %q: %w", l.MAC, errdefs.ErrInvalidArgument)
		}
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	}
	batch := []request{setLink(index, attrs...)}
	if l.IPv4.IsValid() {
		batch = append(batch, addAddr(index, l.IPv4))
	}
	if l.IPv6.IsValid() {
		batch = append(batch, addAddr(index, l.IPv6))
	}
	if l.Gateway4.IsValid() {
		batch = append(batch, addDefaultRoute(index, l.Gateway4))
	}
	if l.Gateway6.IsValid() {
		batch = append(batch, addDefaultRoute(index, l.Gateway6))
	}
	return n.rtnl.do(batch...)
}

// loopback is always the first interface.
const loopback = 1

// Open implements network.Driver.
func (d *Driver) Open(ctx context.Context, want network.Namespace) (*network.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	settings := defaultSysctls
	switch {
	case len(want.Links) == 0:
	case slices.ContainsFunc(want.Links, func(l network.Link) bool { return l.IPv6.IsValid() }):
		settings = slices.Concat(settings, withIPv6)
	default:
		settings = slices.Concat(settings, withoutIPv6)
	}
	n, err := d.newNamespace(settings)
	if err != nil {
		return nil, err
	}
	if err := d.connect(n, want); err != nil {
		_ = n.close()
		return nil, err
	}
	_ = n.rtnl.close() // nothing more is to be set up
	id, err := namespaceID(n.ns)
	if err != nil {
		_ = n.close()
		return nil, err
	}
	return &network.Sandbox{
		Path:      "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(n.ns.Fd())),
		ID:        id,
		HostLinks: n.links,
		Close:     sync.OnceValue(n.ns.Close),
	}, nil
}

// connect sets up what is in a new namespace.
func (d *Driver) connect(n *namespace, want network.Namespace) error {
	if err := n.rtnl.do(setLink(loopback)); err != nil {
		return err
	}
	for _, l := range want.Links {
		if err := d.addLink(n, l); err != nil {
			return err
		}
		if err := n.configure(l); err != nil {
			return err
		}
	}
	if len(want.Sysctls) == 0 {
		return nil
	}
	// Last, for they may be of an interface.
	return inNamespace(d.host, func() error {
		return kernelError("enter a network namespace", unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET))
	}, func() error { return setSysctls(want.Sysctls) })
}

// setSysctls sets what a client asks for in the thread's namespace.
func setSysctls(sysctls map[string]string) error {
	for name, value := range sysctls {
		file, err := sysctlFile(name)
		if err != nil {
			return err
		}
		err = writeSysctl(file, value)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sysctl %q: network namespaces of this kernel have no such setting: %w", name, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return kernelError("set sysctl "+name, err)
		}
	}
	return nil
}

// sysctlFile is where under net/ a setting lives. As sysctl(8) has it, the
// first separator in the name tells which of dot and slash separates.
func sysctlFile(name string) (string, error) {
	p := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		p = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	file, ok := strings.CutPrefix(p, "net/")
	if !ok || file == "" || path.Clean("/"+file) != "/"+file {
		return "", fmt.Errorf("sysctl %q is not one of a network namespace: %w", name, errdefs.ErrInvalidArgument)
	}
	return file, nil
}
