package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// A published port is held by a socket on the host. What the firewall forwards
// never reaches it; what it cannot forward, the socket's owner carries to the
// container: connections to [::1], to a family that the container lacks, and
// all of them on a host without nftables.

const (
	maxProxied      = 4096             // TCP connections at a time, of an engine
	maxProxiedFlows = 1024             // UDP clients at a time, of a port
	udpIdle         = 90 * time.Second // without a packet in either direction
	proxyDial       = 10 * time.Second
	maxDatagram     = 65535
)

// proxySlots bounds the TCP connections proxied by this process.
var proxySlots = make(chan struct{}, maxProxied)

// listenAndProxy holds a port until the result is closed. Errors: Conflict,
// InvalidArgument (not an address of this host), PermissionDenied, Unavailable.
func listenAndProxy(k portKey, target netip.AddrPort) (io.Closer, error) {
	family := "6"
	if k.addr.Is4() {
		family = "4"
	}
	at := netip.AddrPortFrom(k.addr, k.port)
	switch k.proto {
	case "tcp":
		l, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(at))
		if err != nil {
			return nil, listenError(err)
		}
		p := &tcpProxy{listener: l, target: target.String()}
		go p.serve()
		return p, nil
	case "udp":
		c, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(at))
		if err != nil {
			return nil, listenError(err)
		}
		p := &udpProxy{conn: c, target: net.UDPAddrFromAddrPort(target), flows: make(map[netip.AddrPort]*udpFlow)}
		go p.serve()
		return p, nil
	default: // SCTP: few kernels have sockets for it; the engine's table holds the port
		return nopCloser{}, nil
	}
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// listenError gives a failed bind its kind.
func listenError(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("address already in use by another program on the host: %w", errdefs.ErrConflict)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("no interface of the host has this address: %w", errdefs.ErrInvalidArgument)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}

// tcpProxy carries connections to a container.
type tcpProxy struct {
	listener *net.TCPListener
	target   string
	conns    sync.Map // net.Conn → struct{}
	closed   atomic.Bool
}

func (p *tcpProxy) serve() {
	for {
		c, err := p.listener.AcceptTCP()
		if err != nil {
			if p.closed.Load() || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, or the client was gone already: neither
			// ends the service. Waiting for a slot's holder to finish is the
			// only thing that helps against the first.
			time.Sleep(50 * time.Millisecond)
			continue
		}
		proxySlots <- struct{}{}
		go func() {
			defer func() { <-proxySlots }()
			p.carry(c)
		}()
	}
}

// carry joins a client with the container until both directions have ended.
func (p *tcpProxy) carry(client *net.TCPConn) {
	defer client.Close() //nolint:errcheck // both ends were closed for writing
	p.conns.Store(client, struct{}{})
	defer p.conns.Delete(client)
	dialer := net.Dialer{Timeout: proxyDial}
	c, err := dialer.DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		_ = client.SetLinger(0) // a reset, as a closed port would answer
		return
	}
	server := c.(*net.TCPConn)
	defer server.Close() //nolint:errcheck // as above
	p.conns.Store(server, struct{}{})
	defer p.conns.Delete(server)
	if p.closed.Load() {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		pour(server, client)
	}()
	pour(client, server)
	<-done
}

// pour copies one direction and passes its end on.
func pour(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		// A broken direction breaks the connection.
		_ = to.SetLinger(0)
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
	_ = from.CloseRead()
}

// Close stops listening and ends the connections carried.
func (p *tcpProxy) Close() error {
	p.closed.Store(true)
	err := p.listener.Close()
	p.conns.Range(func(c, _ any) bool {
		_ = c.(*net.TCPConn).Close()
		return true
	})
	return err
}

// udpProxy carries datagrams to a container, with one socket per client so that
// answers find their way.
type udpProxy struct {
	conn   *net.UDPConn
	target *net.UDPAddr

	mu     sync.Mutex
	flows  map[netip.AddrPort]*udpFlow
	closed bool
}

type udpFlow struct {
	conn *net.UDPConn
	last atomic.Int64 // nanoseconds, of the last packet
}

func (f *udpFlow) touch() { f.last.Store(time.Now().UnixNano()) }

func (p *udpProxy) serve() {
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := p.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an answer of ours was refused by a client
		}
		if f := p.flow(client); f != nil {
			f.touch()
			_, _ = f.conn.Write(buf[:n]) // datagrams may be lost
		}
	}
}

// flow is the client's socket; nil if none can be had, the datagram is then lost.
func (p *udpProxy) flow(client netip.AddrPort) *udpFlow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[client]; f != nil {
		return f
	}
	if p.closed || len(p.flows) >= maxProxiedFlows {
		return nil
	}
	c, err := net.DialUDP("udp", nil, p.target)
	if err != nil {
		return nil
	}
	f := &udpFlow{conn: c}
	f.touch()
	p.flows[client] = f
	go p.answer(client, f)
	return f
}

// answer carries what the container sends back, until the flow is idle.
func (p *udpProxy) answer(client netip.AddrPort, f *udpFlow) {
	defer func() {
		p.mu.Lock()
		delete(p.flows, client)
		p.mu.Unlock()
		_ = f.conn.Close()
	}()
	buf := make([]byte, maxDatagram)
	for {
		_ = f.conn.SetReadDeadline(time.Unix(0, f.last.Load()).Add(udpIdle))
		n, err := f.conn.Read(buf)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			continue // nobody listens in the container yet
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			if time.Since(time.Unix(0, f.last.Load())) >= udpIdle {
				return
			}
			continue // the client sent meanwhile
		}
		f.touch()
		_, _ = p.conn.WriteToUDPAddrPort(buf[:n], client)
	}
}

// Close stops listening and ends all flows.
func (p *udpProxy) Close() error {
	p.mu.Lock()
	p.closed = true
	for _, f := range p.flows {
		_ = f.conn.Close()
	}
	p.mu.Unlock()
	return p.conn.Close()
}
