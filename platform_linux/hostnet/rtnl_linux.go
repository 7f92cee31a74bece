package hostnet

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is a route netlink socket that sends several requests in one system
// call. A socket belongs to the namespace in which it was made and can be used
// from any. Not safe for concurrent use.
type conn struct {
	fd  int
	buf []byte
}

// dial makes a socket in the calling thread's namespace.
func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	// Without the request in each answer, all answers to a batch fit the socket.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &conn{fd: fd}, nil
}

// close may be repeated. Requests fail from then on.
func (c *conn) close() error {
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1 // the number may soon be that of another file
	return unix.Close(fd)
}

// request is one message of a batch, with what it does, for errors.
type request struct {
	what string
	*nl.NetlinkRequest
}

// do sends a batch and waits for it. The kernel carries out all requests, also
// those after a failed one; the first failure is returned.
func (c *conn) do(batch ...request) error {
	if len(batch) == 0 {
		return nil
	}
	c.buf = c.buf[:0]
	last := batch[len(batch)-1]
	last.Flags |= unix.NLM_F_ACK // errors are answered in any case
	for _, r := range batch {
		c.buf = append(c.buf, r.Serialize()...)
	}
	if err := ignoringEINTR(func() error {
		return unix.Sendto(c.fd, c.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}); err != nil {
		return kernelError(last.what, err)
	}
	var answer [4096]byte
	var failure error
	for {
		var n int
		err := ignoringEINTR(func() (err error) {
			n, _, err = unix.Recvfrom(c.fd, answer[:], 0)
			return err
		})
		if err != nil {
			return kernelError(last.what, err)
		}
		for b := answer[:n]; len(b) >= unix.SizeofNlMsghdr+4; {
			size := int(nl.NativeEndian().Uint32(b))
			kind := nl.NativeEndian().Uint16(b[4:])
			seq := nl.NativeEndian().Uint32(b[8:])
			if size < unix.SizeofNlMsghdr+4 || size > len(b) {
				return kernelError(last.what, unix.EBADMSG)
			}
			if kind == unix.NLMSG_ERROR {
				errno := unix.Errno(-int32(nl.NativeEndian().Uint32(b[unix.SizeofNlMsghdr:])))
				if errno != 0 && failure == nil {
					for _, r := range batch {
						if r.Seq == seq {
							failure = kernelError(r.what, errno)
						}
					}
				}
				if seq == last.Seq {
					return failure
				}
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR { //nolint:errorlint // straight from the system call
			return err
		}
	}
}

// linkIndex finds an interface in the socket's namespace, without a lock.
func (c *conn) linkIndex(name string) (int, error) {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := ignoringEINTR(func() error { return unix.IoctlIfreq(c.fd, unix.SIOCGIFINDEX, r) }); err != nil {
		return 0, err
	}
	return int(r.Uint32()), nil
}

// setLink changes a link: up, and what attrs say.
func setLink(index int, attrs ...*nl.RtAttr) request {
	r := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	info.Flags, info.Change = unix.IFF_UP, unix.IFF_UP
	r.AddData(info)
	for _, a := range attrs {
		r.AddData(a)
	}
	return request{"bring up an interface", r}
}

// delLink removes a link by name.
func delLink(name string) request {
	r := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return request{"remove interface " + name, r}
}

// hairpin lets packets leave through the port by which they came, which happens
// when a container reaches itself at a published port.
func hairpin(index int) request {
	r := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_BRIDGE)
	info.Index = int32(index)
	r.AddData(info)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})
	r.AddData(port)
	return request{"set a bridge's port to hairpin mode", r}
}

// addAddr gives an interface an address, usable at once.
func addAddr(index int, p netip.Prefix) request {
	r := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewIfAddrmsg(unix.AF_INET)
	msg.Prefixlen = uint8(p.Bits())
	msg.Index = uint32(index)
	if p.Addr().Is6() {
		msg.Family = unix.AF_INET6
		// The addresses are ours to give, nobody else can have this one.
		msg.Flags = unix.IFA_F_NODAD
	}
	r.AddData(msg)
	raw := p.Addr().AsSlice()
	r.AddData(nl.NewRtAttr(unix.IFA_LOCAL, raw))
	r.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, raw))
	if p.Addr().Is4() && p.Bits() < 31 {
		r.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p).AsSlice()))
	}
	return request{"add address " + p.String(), r}
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	mask := net.CIDRMask(p.Bits(), 32)
	for i := range b {
		b[i] |= ^mask[i]
	}
	return netip.AddrFrom4(b)
}

// addDefaultRoute sends everything else through a gateway.
func addDefaultRoute(index int, gateway netip.Addr) request {
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewRtMsg()
	msg.Family = unix.AF_INET
	if gateway.Is6() {
		msg.Family = unix.AF_INET6
	}
	r.AddData(msg)
	r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice()))
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return request{fmt.Sprintf("add default route via %s", gateway), r}
}

// veth makes a pair: host, up and a port of the bridge, and peer, down, in the
// namespace of the descriptor.
func veth(host string, bridge, mtu int, peer string, ns int) request {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Flags, info.Change = unix.IFF_UP, unix.IFF_UP
	r.AddData(info)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(host)))
	r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	// One queue each way: the default is one per CPU, each with its directory
	// in sysfs, and a veth gains nothing by them unless it is set up for it.
	r.AddData(nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1)))
	r.AddData(nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1)))
	r.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	link := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	link.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	data := link.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	other := data.AddRtAttr(nl.VETH_INFO_PEER, nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize())
	other.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(peer))
	other.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	other.AddRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1))
	other.AddRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1))
	other.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	r.AddData(link)
	return request{"make interface " + host, r}
}
