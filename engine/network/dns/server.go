package dns

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Bounds of one container.
const (
	maxRate     = 20_000 // queries a second
	maxForwards = 128    // queries under way to other servers
	maxConns    = 32     // TCP connections
	tcpIdle     = 10 * time.Second
	tcpWrite    = 5 * time.Second
	maxUDP      = 4096 // bytes of a query
)

// ttl is how long an answer about a container holds, in seconds: it may be
// another one soon.
const ttl = 5

// Server answers queries. Make one with New. Safe for concurrent use.
type Server struct {
	mu    sync.RWMutex
	gates map[string]*gate              // by network
	hosts map[string]*host              // by container
	zones map[string]map[string][]*host // by network, by name in lower case
	owner map[place]*host               // who has an address
	turn  atomic.Uint32

	forwards chan struct{} // of all containers
}

// place is an address on a network.
type place struct {
	network string
	addr    netip.Addr
}

// host is a container with its sockets.
type host struct {
	Host
	sockets Sockets
	bucket  bucket
	out     chan struct{} // queries to other servers
	conns   chan struct{}
	server  *Server
	open    sync.Map // net.Conn → struct{}
	closed  atomic.Bool
}

// Sockets are where a container's queries arrive.
type Sockets struct {
	UDP *net.UDPConn
	TCP *net.TCPListener
}

// New makes a server that knows nobody.
func New() *Server {
	return &Server{
		hosts: map[string]*host{}, zones: map[string]map[string][]*host{}, owner: map[place]*host{}, gates: map[string]*gate{},
		forwards: make(chan struct{}, maxAllForwards),
	}
}

// Put tells of a container, in place of what was told of it before. Sockets
// without a UDP socket leave it with those it has.
func (s *Server) Put(h Host, socks Sockets) {
	n := &host{Host: h, server: s, out: make(chan struct{}, maxForwards), conns: make(chan struct{}, maxConns)}
	s.mu.Lock()
	old := s.hosts[h.ID]
	if old != nil {
		s.unlist(old)
		if socks.UDP == nil {
			// Its goroutines go on; they look the host up anew for each query.
			old.Host = h
			n = old
		}
	}
	if n != old {
		n.sockets = socks
		n.bucket.fill(time.Now())
	}
	s.hosts[h.ID] = n
	s.list(n)
	s.mu.Unlock()
	if n == old {
		return
	}
	if old != nil {
		old.close()
	}
	self := func(netip.Addr) *host { return n }
	s.serve(socks, self)
}

// serve answers what arrives at sockets until they are closed. who tells whose
// queries come from an address, nil if nobody's.
func (s *Server) serve(socks Sockets, who func(netip.Addr) *host) {
	if socks.UDP != nil {
		go serveUDP(socks.UDP, who)
	}
	if socks.TCP != nil {
		go serveTCP(socks.TCP, who)
	}
}

// gate is where the containers of a network ask whose own namespace has no
// socket of ours.
type gate struct{ Sockets }

// Gate serves the containers with a stack of their own that are on a network,
// until Ungate.
func (s *Server) Gate(network string, socks Sockets) {
	s.Ungate(network)
	s.mu.Lock()
	s.gates[network] = &gate{socks}
	s.mu.Unlock()
	s.serve(socks, func(from netip.Addr) *host {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if h := s.owner[place{network, from.Unmap()}]; h != nil && h.OwnStack {
			return h
		}
		return nil
	})
}

// Ungate ends a gate.
func (s *Server) Ungate(network string) {
	s.mu.Lock()
	g := s.gates[network]
	delete(s.gates, network)
	s.mu.Unlock()
	if g != nil {
		g.close()
	}
}

// Gates lists the networks that have one.
func (s *Server) Gates() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.gates))
}

// Drop forgets a container and closes its sockets.
func (s *Server) Drop(id string) {
	s.mu.Lock()
	h := s.hosts[id]
	if h != nil {
		s.unlist(h)
		delete(s.hosts, id)
	}
	s.mu.Unlock()
	if h != nil {
		h.close()
	}
}

// Served lists the containers that have sockets.
func (s *Server) Served() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids := []string{}
	for id, h := range s.hosts {
		if h.sockets.UDP != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Known lists all containers.
func (s *Server) Known() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.hosts))
}

// Close forgets everybody.
func (s *Server) Close() {
	for _, id := range s.Known() {
		s.Drop(id)
	}
	for _, network := range s.Gates() {
		s.Ungate(network)
	}
}

// list enters a host's names. The caller holds mu.
func (s *Server) list(h *host) {
	for _, p := range h.Places {
		zone := s.zones[p.Network]
		if zone == nil {
			zone = map[string][]*host{}
			s.zones[p.Network] = zone
		}
		if len(p.Names) > 0 {
			s.owner[place{p.Network, p.IPv4}] = h
			s.owner[place{p.Network, p.IPv6}] = h
		}
		for _, name := range p.Names {
			name = strings.ToLower(name)
			if !slices.Contains(zone[name], h) {
				zone[name] = append(zone[name], h)
			}
		}
	}
}

// unlist takes them out. The caller holds mu.
func (s *Server) unlist(h *host) {
	for _, p := range h.Places {
		for _, addr := range []netip.Addr{p.IPv4, p.IPv6} {
			if at := (place{p.Network, addr}); s.owner[at] == h {
				delete(s.owner, at)
			}
		}
		zone := s.zones[p.Network]
		for _, name := range p.Names {
			name = strings.ToLower(name)
			zone[name] = slices.DeleteFunc(zone[name], func(o *host) bool { return o == h })
			if len(zone[name]) == 0 {
				delete(zone, name)
			}
		}
		if len(zone) == 0 {
			delete(s.zones, p.Network)
		}
	}
}

// addresses are those of a name as a host sees it. known tells whether there is
// such a name, whatever addresses it has. The caller holds mu.
func (s *Server) addresses(h *host, name string) (addrs []netip.Addr, known bool) {
	if fixed, ok := h.Fixed[name]; ok {
		return fixed, true
	}
	if target, ok := h.Links[name]; ok {
		name = strings.ToLower(target)
	}
	for _, p := range h.Places {
		zone := s.zones[p.Network]
		found := zone[name]
		if found == nil {
			// name.network is a name, too.
			if short, ok := strings.CutSuffix(name, "."+strings.ToLower(p.Name)); ok {
				found = zone[short]
			}
		}
		for _, o := range found {
			for _, q := range o.Places {
				if q.Network == p.Network {
					addrs = append(addrs, q.IPv4, q.IPv6)
				}
			}
		}
		if found != nil {
			return addrs, true
		}
	}
	return nil, false
}

// nameOf is the name of an address as a host sees it, "" if there is none. The
// caller holds mu.
func (s *Server) nameOf(h *host, addr netip.Addr) string {
	for _, p := range h.Places {
		o := s.owner[place{p.Network, addr}]
		if o == nil {
			continue
		}
		for _, q := range o.Places {
			if q.Network == p.Network {
				return q.Names[0] + "." + p.Name + "."
			}
		}
	}
	return ""
}

// local answers a query from what is known; nil if others must be asked.
func (h *host) local(q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	s := h.server
	s.mu.RLock()
	defer s.mu.RUnlock()
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: ttl}
	if question.Qtype == dns.TypePTR {
		addr, ok := reverse(name)
		if !ok {
			return nil
		}
		target := s.nameOf(h, addr)
		if target == "" {
			return nil
		}
		r := answer(q, dns.RcodeSuccess)
		r.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: target}}
		return r
	}
	addrs, known := s.addresses(h, name)
	if !known {
		return nil
	}
	r := answer(q, dns.RcodeSuccess)
	for _, a := range addrs {
		switch {
		case !a.IsValid():
		case question.Qtype == dns.TypeA && a.Is4():
			r.Answer = append(r.Answer, &dns.A{Hdr: header, A: a.AsSlice()})
		case question.Qtype == dns.TypeAAAA && a.Is6():
			r.Answer = append(r.Answer, &dns.AAAA{Hdr: header, AAAA: a.AsSlice()})
		}
	}
	if n := len(r.Answer); n > 1 {
		// Each in turn: clients take the first.
		at := int(s.turn.Add(1)) % n
		r.Answer = slices.Concat(r.Answer[at:], r.Answer[:at])
	}
	return r
}

func answer(q *dns.Msg, rcode int) *dns.Msg {
	r := new(dns.Msg)
	r.SetRcode(q, rcode)
	r.RecursionAvailable = true
	if q.IsEdns0() != nil {
		r.SetEdns0(maxUDP, false)
	}
	return r
}

// reverse reads 4.3.2.1.in-addr.arpa and its like of IPv6.
func reverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(rest, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 62; i >= 0; i -= 2 {
		b.WriteByte(rest[i])
		if n := 62 - i; n%8 == 6 && i > 0 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}

// parse reads a query. A nil query with a nil refusal is to be ignored.
func parse(b []byte) (q, refusal *dns.Msg) {
	q = new(dns.Msg)
	if err := q.Unpack(b); err != nil {
		if len(b) < 12 || b[2]&0x80 != 0 {
			return nil, nil
		}
		bad := new(dns.Msg)
		bad.Id = uint16(b[0])<<8 | uint16(b[1])
		bad.Response, bad.Rcode = true, dns.RcodeFormatError
		return nil, bad
	}
	switch {
	case q.Response:
		return nil, nil
	case q.Opcode != dns.OpcodeQuery:
		return nil, answer(q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return nil, answer(q, dns.RcodeFormatError)
	}
	return q, nil
}

// serveUDP answers what arrives at a socket until it is closed.
func serveUDP(c *net.UDPConn, who func(netip.Addr) *host) {
	buf, out := make([]byte, maxUDP), make([]byte, maxUDP)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an answer of ours was refused
		}
		h := who(from.Addr())
		if h == nil {
			continue
		}
		h.bucket.take()
		q, r := parse(buf[:n])
		if q != nil {
			r = h.local(q)
		}
		switch {
		case r != nil:
			size := dns.MinMsgSize
			if q != nil {
				if o := q.IsEdns0(); o != nil {
					size = min(max(int(o.UDPSize()), size), maxUDP)
				}
			}
			r.Truncate(size)
			if b, err := r.PackBuffer(out); err == nil {
				_, _ = c.WriteToUDPAddrPort(b, from) // datagrams may be lost
			}
		case q != nil:
			raw := slices.Clone(buf[:n])
			h.outside(func() {
				if b := h.forward("udp", q, raw); b != nil {
					_, _ = c.WriteToUDPAddrPort(b, from)
				}
			})
		}
	}
}

// outside runs f, which asks another server, unless too many do already: then
// the query is lost.
func (h *host) outside(f func()) {
	select {
	case h.out <- struct{}{}:
	default:
		return
	}
	select {
	case h.server.forwards <- struct{}{}:
	default:
		<-h.out
		return
	}
	go func() {
		defer func() { <-h.out; <-h.server.forwards }()
		f()
	}()
}

// serveTCP takes connections until the socket is closed.
func serveTCP(l *net.TCPListener, who func(netip.Addr) *host) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(50 * time.Millisecond) // out of descriptors, or the client is gone already
			continue
		}
		from, _ := c.RemoteAddr().(*net.TCPAddr)
		h := who(from.AddrPort().Addr())
		if h == nil {
			_ = c.Close()
			continue
		}
		select {
		case h.conns <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		go func() {
			defer func() { <-h.conns }()
			h.converse(c)
		}()
	}
}

// converse answers the queries of one connection, one after the other.
func (h *host) converse(tcp *net.TCPConn) {
	defer tcp.Close() //nolint:errcheck // all was written
	h.open.Store(tcp, struct{}{})
	defer h.open.Delete(tcp)
	if h.closed.Load() {
		return
	}
	c := &dns.Conn{Conn: tcp}
	for {
		_ = tcp.SetReadDeadline(time.Now().Add(tcpIdle))
		b, err := c.ReadMsgHeader(nil)
		if err != nil {
			return
		}
		h.bucket.take()
		q, r := parse(b)
		if q != nil {
			r = h.local(q)
		}
		var reply []byte
		switch {
		case r != nil:
			reply, err = r.Pack()
		case q != nil:
			done := make(chan []byte, 1)
			h.outside(func() { done <- h.forward("tcp", q, b) })
			select {
			case reply = <-done:
			case <-time.After(tcpIdle):
			}
		}
		if err != nil || reply == nil {
			return
		}
		_ = tcp.SetWriteDeadline(time.Now().Add(tcpWrite))
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

func (h *host) close() {
	h.closed.Store(true)
	h.sockets.close()
	h.open.Range(func(c, _ any) bool {
		_ = c.(net.Conn).Close()
		return true
	})
}

func (s Sockets) close() {
	if s.UDP != nil {
		_ = s.UDP.Close()
	}
	if s.TCP != nil {
		_ = s.TCP.Close()
	}
}

// bucket makes who asks too fast wait: meanwhile the socket's own queue is full,
// and the kernel drops the rest.
type bucket struct {
	mu   sync.Mutex
	left float64
	last time.Time
}

func (b *bucket) fill(now time.Time) { b.left, b.last = maxRate, now }

func (b *bucket) take() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left--; b.left > 0 {
		return
	}
	now := time.Now()
	b.left = min(maxRate, b.left+now.Sub(b.last).Seconds()*maxRate)
	b.last = now
	if b.left < 1 {
		time.Sleep(10 * time.Millisecond)
	}
}
