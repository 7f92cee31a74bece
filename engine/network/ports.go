package network

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// protocols are those that can be published.
var protocols = map[string]bool{"tcp": true, "udp": true, "sctp": true}

// portKey is one port of the host: what can be held once.
type portKey struct {
	proto string
	addr  netip.Addr
	port  uint16
}

// boundPort is one published port. Its socket keeps others from taking the
// port, and serves what the firewall does not forward.
type boundPort struct {
	portKey
	owner  string
	inside network.Port
	target netip.AddrPort
	socket io.Closer // nil: only our own table keeps the port
}

// forward tells how the firewall must treat the port; false if it cannot.
func (b *boundPort) forward() (Forward, bool) {
	if b.addr.Is4() != b.target.Addr().Is4() || b.addr == netip.IPv6Loopback() {
		return Forward{}, false
	}
	return Forward{Proto: b.proto, HostIP: b.addr, HostPort: b.port, Target: b.target}, true
}

func forwards(ports []*boundPort) []Forward {
	var f []Forward
	for _, p := range ports {
		if x, ok := p.forward(); ok {
			f = append(f, x)
		}
	}
	return f
}

// portTable knows which container has which port of the host.
type portTable struct {
	listen func(k portKey, target netip.AddrPort) (io.Closer, error)

	mu        sync.Mutex
	held      map[portKey]*boundPort
	count     map[portKey]int // holders of a protocol and port, whatever the address; addr is zero
	ephemeral [2]uint16
	next      uint16
}

func newPortTable(ephemeral [2]uint16) *portTable {
	if ephemeral[0] == 0 || ephemeral[0] > ephemeral[1] {
		ephemeral = [2]uint16{49153, 65535} // what IANA left for this
	}
	return &portTable{
		listen: listenAndProxy, held: make(map[portKey]*boundPort), count: make(map[portKey]int),
		ephemeral: ephemeral, next: ephemeral[0],
	}
}

// bind takes a port. Errors: Conflict (another container has it, or somebody
// else on the host).
func (t *portTable) bind(b *boundPort) error {
	if err := t.claim(b); err != nil {
		return err
	}
	socket, err := t.listen(b.portKey, b.target)
	if err != nil {
		t.unclaim(b)
		return fmt.Errorf("failed to bind host port for %s/%s: %w", netip.AddrPortFrom(b.addr, b.port), b.proto, err)
	}
	t.mu.Lock()
	b.socket = socket
	t.mu.Unlock()
	return nil
}

// claim enters a port into the table.
func (t *portTable) claim(b *boundPort) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if holder := t.holder(b.portKey); holder != nil {
		return fmt.Errorf("Bind for %s failed: port is already allocated (by container %s): %w", //nolint:staticcheck // Docker's words
			netip.AddrPortFrom(b.addr, b.port), holder.owner, errdefs.ErrConflict)
	}
	t.held[b.portKey] = b
	t.count[b.anyAddr()]++
	return nil
}

func (k portKey) anyAddr() portKey { return portKey{proto: k.proto, port: k.port} }

// holder is who has a port, or one that includes it or is included in it.
func (t *portTable) holder(k portKey) *boundPort {
	if t.count[k.anyAddr()] == 0 {
		return nil
	}
	if h := t.held[k]; h != nil {
		return h
	}
	wild := k
	wild.addr = unspecified(k.addr)
	if h := t.held[wild]; h != nil {
		return h
	}
	if k.addr != wild.addr {
		return nil
	}
	for other, h := range t.held {
		if other.proto == k.proto && other.port == k.port && other.addr.Is4() == k.addr.Is4() {
			return h
		}
	}
	return nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (t *portTable) unclaim(b *boundPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[b.portKey] != b {
		return
	}
	delete(t.held, b.portKey)
	if t.count[b.anyAddr()]--; t.count[b.anyAddr()] == 0 {
		delete(t.count, b.anyAddr())
	}
}

// release gives a port back.
func (t *portTable) release(b *boundPort) {
	t.mu.Lock()
	socket := b.socket
	b.socket = nil
	t.mu.Unlock()
	if socket != nil {
		_ = socket.Close() // nothing is left to be written
	}
	t.unclaim(b)
}

// close closes every socket.
func (t *portTable) close() {
	t.mu.Lock()
	all := make([]*boundPort, 0, len(t.held))
	for _, b := range t.held {
		all = append(all, b)
	}
	t.mu.Unlock()
	for _, b := range all {
		t.release(b)
	}
}

// candidate is the n-th port to try of a range. The ephemeral range is gone
// through in a circle, so that a port just given back rests.
func (t *portTable) candidates(first, last uint16) func(yield func(uint16) bool) {
	return func(yield func(uint16) bool) {
		if first != 0 {
			for p := int(first); p <= int(last); p++ {
				if !yield(uint16(p)) {
					return
				}
			}
			return
		}
		for range int(t.ephemeral[1]) - int(t.ephemeral[0]) + 1 {
			t.mu.Lock()
			p := t.next
			if t.next++; t.next > t.ephemeral[1] || t.next == 0 {
				t.next = t.ephemeral[0]
			}
			t.mu.Unlock()
			if !yield(p) {
				return
			}
		}
	}
}

// take binds one container port at one or more host addresses, with the same
// host port on all of them.
func (t *portTable) take(owner string, inside network.Port, addrs []netip.Addr, first, last uint16, target func(netip.Addr) netip.AddrPort) ([]*boundPort, error) {
	var failure error
	for port := range t.candidates(first, last) {
		var got []*boundPort
		var err error
		for _, addr := range addrs {
			b := &boundPort{portKey: portKey{string(inside.Proto()), addr, port}, owner: owner, inside: inside, target: target(addr)}
			if err = t.bind(b); err != nil {
				break
			}
			got = append(got, b)
		}
		if err == nil {
			return got, nil
		}
		for _, b := range got {
			t.release(b)
		}
		failure = err
		if !errdefs.IsConflict(err) {
			break // another port would fail as well
		}
	}
	return nil, failure
}

// hostRange reads a binding's HostPort: "", "0", "8080" or "8000-8010". Zeros
// stand for any port.
func hostRange(s string) (first, last uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	lo, hi, isRange := strings.Cut(s, "-")
	if !isRange {
		hi = lo
	}
	a, errA := strconv.ParseUint(lo, 10, 16)
	b, errB := strconv.ParseUint(hi, 10, 16)
	if errA != nil || errB != nil || b < a || (a == 0 && b != 0) {
		return 0, 0, fmt.Errorf("invalid host port %q: write a port or a range such as 8000-8010: %w", s, errdefs.ErrInvalidArgument)
	}
	return uint16(a), uint16(b), nil
}

// publish binds and forwards what a request asks for, and adds it to at.
func (m *Manager) publish(r Request, at *attached) (network.PortMap, error) {
	result, wanted, err := wantedPorts(r)
	if err != nil || len(wanted) == 0 {
		return result, err
	}
	fail := func(err error) (network.PortMap, error) {
		return nil, fmt.Errorf("failed to set up container networking: driver failed programming external connectivity on endpoint %s: %w", at.name, err)
	}
	for _, port := range wanted {
		for _, binding := range r.Ports[port] {
			if err := m.publishOne(at, port, binding); err != nil {
				return fail(err)
			}
		}
		if len(r.Ports[port]) == 0 {
			if err := m.publishOne(at, port, network.PortBinding{}); err != nil {
				return fail(err)
			}
		}
	}
	for _, b := range at.ports {
		result[b.inside] = append(result[b.inside], network.PortBinding{HostIP: b.addr, HostPort: strconv.Itoa(int(b.port))})
	}
	if m.cfg.Firewall == FirewallNone {
		return result, nil
	}
	if err := m.driver.Publish(forwards(at.ports), hostLinks(at.Endpoints)); err != nil {
		return fail(err)
	}
	return result, nil
}

// hostLinks are the host's ends of the links of endpoints.
func hostLinks(eps []Endpoint) []string {
	var links []string
	for _, ep := range eps {
		if ep.HostLink != "" {
			links = append(links, ep.HostLink)
		}
	}
	return links
}

// targets are where a container's ports are reached, of each family: on the
// bridges by which it answers. Zero addresses if there is none.
func (m *Manager) targets(eps []Endpoint) (v4, v6 netip.Addr, binding netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	four, six := gateways(eps)
	for i, ep := range eps {
		n, err := m.byID(ep.NetworkID)
		if err != nil || !n.onHost() {
			continue
		}
		if i == four {
			v4 = ep.IPv4.Addr()
			binding, _ = netip.ParseAddr(n.Options[optHostBinding]) // checked when it was made
		}
		if i == six {
			v6 = ep.IPv6.Addr()
		}
	}
	return v4, v6, binding
}

// wantedPorts tells which ports to publish, in order, and begins the result
// with those that are only exposed.
func wantedPorts(r Request) (network.PortMap, []network.Port, error) {
	result := make(network.PortMap)
	var wanted []network.Port
	for _, port := range r.Exposed {
		if _, ok := r.Ports[port]; !ok {
			result[port] = nil
			if r.PublishAll {
				wanted = append(wanted, port)
			}
		}
	}
	for port := range r.Ports {
		wanted = append(wanted, port)
	}
	for _, port := range wanted {
		if !protocols[string(port.Proto())] || port.Num() == 0 {
			return nil, nil, fmt.Errorf("invalid port %s: want 1 to 65535 and tcp, udp or sctp: %w", port, errdefs.ErrInvalidArgument)
		}
	}
	// In order, so that ranges are given out the same way every time.
	slices.SortFunc(wanted, func(a, b network.Port) int {
		return cmp.Or(cmp.Compare(a.Proto(), b.Proto()), cmp.Compare(a.Num(), b.Num()))
	})
	return result, slices.Compact(wanted), nil
}

// publishOne binds one container port as one binding asks.
func (m *Manager) publishOne(at *attached, port network.Port, binding network.PortBinding) error {
	first, last, err := hostRange(binding.HostPort)
	if err != nil {
		return err
	}
	v4, v6, hostAddr := m.targets(at.Endpoints)
	if !v4.IsValid() && !v6.IsValid() {
		return nil // it has no way out by which it could answer
	}
	// A port of a family that the container lacks is proxied to the other.
	target := func(host netip.Addr) netip.AddrPort {
		same, other := v6, v4
		if host.Is4() {
			same, other = other, same
		}
		if !same.IsValid() {
			same = other
		}
		return netip.AddrPortFrom(same, port.Num())
	}
	addrs := []netip.Addr{binding.HostIP.Unmap()}
	switch {
	case binding.HostIP.IsValid():
	case hostAddr.IsValid():
		addrs = []netip.Addr{hostAddr}
	default:
		addrs = []netip.Addr{netip.IPv4Unspecified()}
		if m.facts.IPv6 {
			addrs = append(addrs, netip.IPv6Unspecified())
		}
	}
	got, err := m.ports.take(at.name, port, addrs, first, last, target)
	if err != nil {
		return err
	}
	at.ports = append(at.ports, got...)
	return nil
}

// adoptPorts binds the ports of a running container again.
func (m *Manager) adoptPorts(a *Attachment, at *attached) {
	for port, bindings := range a.Ports {
		for _, binding := range bindings {
			if err := m.publishOne(at, port, binding); err == nil {
				continue
			} else {
				m.log.Warn("a running container's port cannot be kept from others", "container", at.name, "port", port, "error", err)
			}
			// It is forwarded all the same: the container had it first.
			first, _, err := hostRange(binding.HostPort)
			if err != nil || first == 0 {
				continue
			}
			v4, v6, _ := m.targets(at.Endpoints)
			b := &boundPort{
				portKey: portKey{string(port.Proto()), binding.HostIP.Unmap(), first}, owner: at.name, inside: port,
				target: netip.AddrPortFrom(v4, port.Num()),
			}
			if b.addr.Is6() {
				b.target = netip.AddrPortFrom(v6, port.Num())
			}
			if b.target.Addr().IsValid() && m.ports.claim(b) == nil {
				at.ports = append(at.ports, b)
			}
		}
	}
}
