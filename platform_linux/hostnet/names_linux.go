package hostnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/platform_linux/hostnet/resolver"
)

// servedNames is what of the containers' names the server's process was told.
type servedNames struct {
	d *Driver

	mu     sync.Mutex
	client *resolver.Client // nil: the process was not needed yet, or is gone
	all    func() []network.Served
	served map[string]bool   // containers with sockets
	gates  map[string]string // network to bridge
	closed bool
}

// Serve implements network.Driver.
func (d *Driver) Serve(_ context.Context, h network.Served) error {
	s := d.names
	if d.cfg.Names.Program == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		if err := s.start(); err != nil {
			return err
		}
	}
	return s.put(h)
}

// Unserve implements network.Driver.
func (d *Driver) Unserve(id string) {
	s := d.names
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.served, id)
	if s.client == nil {
		return
	}
	if err := s.client.Drop(id); err != nil {
		d.log.Debug("cannot end serving names", "container", id, "error", err)
	}
}

// sync makes the process know what it should.
func (s *servedNames) sync(all func() []network.Served) error {
	if s.d.cfg.Names.Program == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = all
	if s.client != nil {
		return s.tell()
	}
	if len(all()) > 0 {
		return s.start()
	}
	c, err := resolver.Find(s.d.cfg.Names)
	if errdefs.IsNotFound(err) {
		return nil // nobody needs it, and it does not run
	}
	if err != nil {
		return err
	}
	s.use(c)
	return s.tell()
}

// start finds or starts the process and tells it everything. The caller holds mu.
func (s *servedNames) start() error {
	if s.closed {
		return fmt.Errorf("the engine is shutting down: %w", errdefs.ErrUnavailable)
	}
	c, err := resolver.Start(s.d.cfg.Names)
	if err != nil {
		return err
	}
	s.use(c)
	return s.tell()
}

// use takes a connection, and starts another process should this one end.
func (s *servedNames) use(c *resolver.Client) {
	s.client = c
	go func() {
		<-c.Done()
		for delay := firstAgain; s.again(c); delay = min(2*delay, lastAgain) {
			time.Sleep(delay)
		}
	}()
}

const (
	firstAgain = 10 * time.Millisecond
	lastAgain  = 10 * time.Second
)

// again starts the process anew after the end of c's, if somebody needs it, and
// tells whether it must be tried once more.
func (s *servedNames) again(c *resolver.Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.client != nil && s.client != c {
		return false
	}
	c.Close()
	s.client = nil
	if s.all == nil || len(s.all()) == 0 {
		return false
	}
	s.d.log.Warn("the server of containers' names ended, starting it again")
	if err := s.start(); err != nil {
		s.d.log.Error("containers' names are not served", "error", err)
		return s.client == nil
	}
	return false
}

// tell makes the process know the containers that there are, and no others. The
// caller holds mu.
func (s *servedNames) tell() error {
	state, err := s.client.List()
	if err != nil {
		return err
	}
	s.served, s.gates = map[string]bool{}, map[string]string{}
	for _, id := range state.Served {
		s.served[id] = true
	}
	for _, network := range state.Gates {
		if err := s.client.Ungate(network); err != nil { // its bridge may be another
			return err
		}
	}
	var want []network.Served
	if s.all != nil {
		want = s.all()
	}
	for _, id := range state.Known {
		if !slices.ContainsFunc(want, func(h network.Served) bool { return h.ID == id }) {
			delete(s.served, id)
			if err := s.client.Drop(id); err != nil {
				return err
			}
		}
	}
	for _, h := range want {
		if err := s.put(h); err != nil {
			s.d.log.Warn("a container's names are not served", "container", h.ID, "error", err)
		}
	}
	return nil
}

// put tells of one container. The caller holds mu.
func (s *servedNames) put(h network.Served) error {
	for _, p := range h.Places {
		if !h.OwnStack || p.Bridge == "" || s.gates[p.Network] != "" {
			continue
		}
		files, err := openSockets(netip.AddrPortFrom(p.Gate, 53), p.Bridge)
		if err != nil {
			return fmt.Errorf("serve names at %s for containers with a kernel of their own: %w", p.Gate, err)
		}
		err = s.client.Gate(p.Network, files...)
		closeFiles(files)
		if err != nil {
			return err
		}
		s.gates[p.Network] = p.Bridge
	}
	if h.OwnStack || s.served[h.ID] || h.Reach.Path == "" {
		return s.client.Put(h.Host)
	}
	files, err := s.d.listenIn(h.Reach)
	if err != nil {
		return err
	}
	defer closeFiles(files)
	if err := s.client.Put(h.Host, files...); err != nil {
		return err
	}
	s.served[h.ID] = true
	return nil
}

// ungate ends what listens on a bridge.
func (s *servedNames) ungate(bridge string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for network, b := range s.gates {
		if b != bridge {
			continue
		}
		delete(s.gates, network)
		if s.client != nil {
			_ = s.client.Ungate(network) // an end of the process is noticed elsewhere
		}
	}
}

// close leaves the process alone.
func (s *servedNames) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// openSockets makes a UDP and a listening TCP socket in the calling thread's
// namespace, bound to a device if one is named.
func openSockets(at netip.AddrPort, device string) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeFiles(files)
			files = nil
		}
	}()
	family, where := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, where = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return files, kernelError("make a socket", err)
		}
		files = append(files, os.NewFile(uintptr(fd), "socket"))
		if device != "" {
			err = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device)
		}
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if err == nil {
			err = unix.Bind(fd, where)
		}
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, backlog)
		}
		if errors.Is(err, unix.EADDRINUSE) {
			return files, fmt.Errorf("listen at %s: another program does: %w", at, errdefs.ErrConflict)
		}
		if err != nil {
			return files, kernelError("listen at "+at.String(), err)
		}
	}
	return files, nil
}

const backlog = 64 // connections that wait to be accepted

// listenIn makes the sockets at which a container's queries arrive. They have
// ports of their own, to which a rule in the namespace leads port 53 of the
// server's address: so a container that is a name server itself can have that
// port on all its addresses. Without nftables they have the port itself.
func (d *Driver) listenIn(r network.Reach) (files []*os.File, err error) {
	ns, err := reach(r)
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // read-only
	err = d.within(&namespace{ns: ns}, func() (err error) {
		if files, err = openSockets(netip.AddrPortFrom(network.ServerAddr, 0), ""); err != nil {
			return err
		}
		if err = leadToSockets(ns, files); err == nil {
			return nil
		}
		d.log.Debug("no rules for name queries can be made in a container's namespace", "error", err)
		closeFiles(files)
		files, err = openSockets(netip.AddrPortFrom(network.ServerAddr, 53), "")
		return err
	})
	return files, err
}

// dnsTable is the table in a container's namespace.
const dnsTable = "caisson_dns"

// leadToSockets makes the rule, as nft(8) would print it:
//
//	table ip caisson_dns {
//		chain output {
//			type nat hook output priority dstnat; policy accept;
//			ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:<port>
//			ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:<port>
//		}
//	}
func leadToSockets(ns *os.File, files []*os.File) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: dnsTable, Family: nftables.TableFamilyIPv4}
	// Adding first makes the deletion valid whether it was there or not.
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "output", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	for i, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		where, err := unix.Getsockname(int(files[i].Fd()))
		if err != nil {
			return err
		}
		port := where.(*unix.SockaddrInet4).Port
		dst := fieldOf(unix.NFPROTO_IPV4, toAddr)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: dst.offset, Len: dst.size},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: network.ServerAddr.AsSlice()},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, 53)},
			&expr.Immediate{Register: 1, Data: network.ServerAddr.AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(uint16(port))},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		}})
	}
	return c.Flush()
}
