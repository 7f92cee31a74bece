package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// listen makes a container's sockets.
func listen(t testing.TB) (Sockets, string) {
	t.Helper()
	for range 50 { // until one port is free for both
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		at := udp.LocalAddr().(*net.UDPAddr)
		tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: at.IP, Port: at.Port})
		if err == nil {
			return Sockets{udp, tcp}, at.String()
		}
		_ = udp.Close()
	}
	t.Fatal("no port is free")
	return Sockets{}, ""
}

// world is a server with containers on networks: web (with alias w) and worker
// (w, too) on front, db on back, and gate on both.
type world struct {
	testing.TB
	*Server
	addr map[string]string // of each container's sockets
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func newWorld(t testing.TB, servers ...netip.AddrPort) *world {
	w := &world{t, New(), map[string]string{}}
	t.Cleanup(w.Close)
	front := func(n int, names ...string) Place {
		return Place{Network: "f", Name: "front", Names: names, IPv4: addr(fmt.Sprint("10.0.0.", n)), IPv6: addr(fmt.Sprint("fd00::", n))}
	}
	back := func(n int, names ...string) Place {
		return Place{Network: "b", Name: "back", Names: names, IPv4: addr(fmt.Sprint("10.1.0.", n))}
	}
	for _, h := range []Host{
		{ID: "web", Places: []Place{front(2, "web", "w", "0123456789ab")}, Servers: servers},
		{ID: "worker", Places: []Place{front(3, "worker", "W")}, Servers: servers, Links: map[string]string{"site": "web"}},
		{ID: "db", Places: []Place{back(2, "db")}, Servers: servers, Sealed: true},
		{ID: "gate", Places: []Place{front(4, "gate"), back(4, "gate")}, Servers: servers, Ndots: true, Fixed: map[string][]netip.Addr{"host.docker.internal": {addr("10.0.0.1")}}},
	} {
		s, at := listen(t)
		w.addr[h.ID] = at
		w.Put(h, s)
	}
	return w
}

// ask asks as a container and gives rcode and answers, sorted.
func (w *world) ask(as, network, name string, qtype uint16) (string, []string) {
	w.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	r, _, err := c.Exchange(q, w.addr[as])
	if err != nil {
		return err.Error(), nil
	}
	var out []string
	for _, rr := range r.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return dns.RcodeToString[r.Rcode], out
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		as, name string
		qtype    uint16
		rcode    string
		answers  string
	}{
		{"worker", "web", dns.TypeA, "NOERROR", "10.0.0.2"},
		{"worker", "WEB", dns.TypeA, "NOERROR", "10.0.0.2"},
		{"worker", "web.front", dns.TypeA, "NOERROR", "10.0.0.2"},
		{"worker", "0123456789ab", dns.TypeA, "NOERROR", "10.0.0.2"},
		{"worker", "web", dns.TypeAAAA, "NOERROR", "fd00::2"},
		{"worker", "w", dns.TypeA, "NOERROR", "10.0.0.2 10.0.0.3"},
		{"worker", "site", dns.TypeA, "NOERROR", "10.0.0.2"},
		{"web", "site", dns.TypeA, "SERVFAIL", ""}, // the worker's own name for it
		{"web", "web", dns.TypeA, "NOERROR", "10.0.0.2"},
		{"gate", "db", dns.TypeAAAA, "NOERROR", ""}, // it is there, without IPv6
		{"gate", "db", dns.TypeMX, "NOERROR", ""},
		{"gate", "db", dns.TypeA, "NOERROR", "10.1.0.2"},
		{"web", "db", dns.TypeA, "SERVFAIL", ""}, // on another network
		{"web", "gate.back", dns.TypeA, "SERVFAIL", ""},
		{"db", "gate", dns.TypeA, "NOERROR", "10.1.0.4"},
		{"gate", "nosuch", dns.TypeA, "NOERROR", ""}, // its search domains come first
		{"gate", "host.docker.internal", dns.TypeA, "NOERROR", "10.0.0.1"},
		{"web", "2.0.0.10.in-addr.arpa", dns.TypePTR, "NOERROR", "web.front."},
		{"web", "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", dns.TypePTR, "NOERROR", "web.front."},
		{"web", "2.0.1.10.in-addr.arpa", dns.TypePTR, "SERVFAIL", ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			rcode, got := w.ask(tt.as, network, tt.name, tt.qtype)
			if rcode != tt.rcode || strings.Join(got, " ") != tt.answers {
				t.Errorf("%s asks for %s %s by %s: %s %q, want %s %q", tt.as, dns.TypeToString[tt.qtype], tt.name, network, rcode, got, tt.rcode, tt.answers)
			}
		}
	}
	// Each of those that share a name is first in its turn.
	first := map[string]bool{}
	for range 4 {
		q := new(dns.Msg)
		q.SetQuestion("w.", dns.TypeA)
		r, err := dns.Exchange(q, w.addr["web"])
		if err != nil {
			t.Fatal(err)
		}
		first[r.Answer[0].String()] = true
	}
	if len(first) != 2 {
		t.Errorf("always the same first: %v", first)
	}
}

func TestChurn(t *testing.T) {
	w := newWorld(t)
	moved := Host{ID: "web", Places: []Place{{Network: "f", Name: "front", Names: []string{"renamed"}, IPv4: addr("10.0.0.9")}}}
	w.Put(moved, Sockets{})
	if rcode, _ := w.ask("worker", "udp", "web", dns.TypeA); rcode != "SERVFAIL" {
		t.Errorf("an old name: %s", rcode)
	}
	if _, got := w.ask("web", "udp", "renamed", dns.TypeA); !slices.Equal(got, []string{"10.0.0.9"}) {
		t.Errorf("a new one: %q", got)
	}
	if rcode, _ := w.ask("worker", "udp", "2.0.0.10.in-addr.arpa", dns.TypePTR); rcode != "SERVFAIL" {
		t.Errorf("an old address: %s", rcode)
	}
	w.Drop("web")
	if rcode, _ := w.ask("worker", "udp", "renamed", dns.TypeA); rcode != "SERVFAIL" {
		t.Errorf("a container that is gone: %s", rcode)
	}
	if got := w.Served(); !slices.Equal(got, []string{"db", "gate", "worker"}) {
		t.Errorf("served: %q", got)
	}
	if _, err := net.DialTimeout("tcp", w.addr["web"], time.Second); err == nil {
		t.Error("its socket is still open")
	}
	for _, id := range w.Known() {
		w.Drop(id)
	}
	if len(w.zones)+len(w.owner) != 0 {
		t.Errorf("left behind: %v %v", w.zones, w.owner)
	}
}

// elsewhere is a server of the world outside.
func elsewhere(t testing.TB, handle dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	s, at := listen(t)
	for _, srv := range []*dns.Server{{PacketConn: s.UDP, Handler: handle}, {Listener: s.TCP, Handler: handle}} {
		go srv.ActivateAndServe()            //nolint:errcheck // until it is shut down
		t.Cleanup(func() { srv.Shutdown() }) //nolint:errcheck // the test is over
	}
	return netip.MustParseAddrPort(at)
}

func TestForward(t *testing.T) {
	broken := elsewhere(t, func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg)
		_ = w.WriteMsg(r.SetRcode(q, dns.RcodeServerFailure))
	})
	good := elsewhere(t, func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg)
		switch q.Question[0].Name {
		case "known.example.":
			r.SetReply(q)
			rr, _ := dns.NewRR("known.example. 60 IN A 192.0.2.1")
			r.Answer = append(r.Answer, rr)
		case "big.example.":
			r.SetReply(q)
			for i := range 100 {
				rr, _ := dns.NewRR(fmt.Sprintf("big.example. 60 IN A 192.0.2.%d", i))
				r.Answer = append(r.Answer, rr)
			}
			if w.LocalAddr().Network() == "udp" {
				r.Truncate(512)
			}
		default:
			r.SetRcode(q, dns.RcodeNameError)
		}
		_ = w.WriteMsg(r)
	})
	w := newWorld(t, broken, good)
	for _, network := range []string{"udp", "tcp"} {
		if rcode, got := w.ask("web", network, "known.example", dns.TypeA); rcode != "NOERROR" || !slices.Equal(got, []string{"192.0.2.1"}) {
			t.Errorf("%s: %s %q", network, rcode, got)
		}
		if rcode, _ := w.ask("web", network, "unknown.example", dns.TypeA); rcode != "NXDOMAIN" {
			t.Errorf("%s: %s", network, rcode)
		}
		if rcode, _ := w.ask("db", network, "known.example", dns.TypeA); rcode != "SERVFAIL" {
			t.Errorf("without a way out, by %s: %s", network, rcode)
		}
	}
	if _, got := w.ask("web", "tcp", "big.example", dns.TypeA); len(got) != 100 {
		t.Errorf("%d answers by TCP", len(got))
	}
	q := new(dns.Msg)
	q.SetQuestion("big.example.", dns.TypeA)
	if r, err := dns.Exchange(q, w.addr["web"]); err != nil || !r.Truncated {
		t.Errorf("by UDP: %v %v", r, err)
	}
}

// What is no query is not answered, or refused, and never ends the server.
func TestRubbish(t *testing.T) {
	w := newWorld(t)
	c, err := net.Dial("udp", w.addr["web"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	response := new(dns.Msg)
	response.SetQuestion("web.", dns.TypeA)
	response.Response = true
	b, _ := response.Pack()
	for _, rubbish := range [][]byte{nil, {1}, make([]byte, 12), []byte(strings.Repeat("x", 4000)), b} {
		if _, err := c.Write(rubbish); err != nil {
			t.Fatal(err)
		}
	}
	two := new(dns.Msg)
	two.SetQuestion("web.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	if r, err := dns.Exchange(two, w.addr["web"]); err != nil || r.Rcode != dns.RcodeFormatError {
		t.Errorf("two questions: %v %v", r, err)
	}
	update := new(dns.Msg)
	update.SetUpdate("front.")
	if r, err := dns.Exchange(update, w.addr["web"]); err != nil || r.Rcode != dns.RcodeNotImplemented {
		t.Errorf("an update: %v %v", r, err)
	}
	if rcode, _ := w.ask("web", "udp", "web", dns.TypeA); rcode != "NOERROR" {
		t.Errorf("afterwards: %s", rcode)
	}
}

// One container's idle connections and endless queries do not stop another's.
func TestHostile(t *testing.T) {
	silent, _ := listen(t) // a server that never answers
	defer silent.close()
	w := newWorld(t, silent.UDP.LocalAddr().(*net.UDPAddr).AddrPort())
	var open []net.Conn
	for range 2 * maxConns {
		c, err := net.Dial("tcp", w.addr["web"])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	closed := 0
	for _, c := range open {
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err != nil && !strings.Contains(err.Error(), "timeout") {
			closed++
		}
	}
	if closed < maxConns {
		t.Errorf("%d of %d connections were refused", closed, len(open))
	}
	c, err := net.Dial("udp", w.addr["web"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion("elsewhere.example.", dns.TypeA)
	b, _ := q.Pack()
	for range 10 * maxForwards {
		_, _ = c.Write(b)
	}
	if rcode, _ := w.ask("worker", "tcp", "web", dns.TypeA); rcode != "NOERROR" {
		t.Errorf("another container: %s", rcode)
	}
	if n := len(w.forwards); n > maxForwards {
		t.Errorf("%d queries of one container are under way", n)
	}
	// Its own flood may fill its own socket, which then drops a query: a resolver asks
	// again.
	var rcode string
	for range 5 {
		if rcode, _ = w.ask("web", "udp", "web", dns.TypeA); rcode == "NOERROR" {
			break
		}
	}
	if rcode != "NOERROR" {
		t.Errorf("names that are known here: %s", rcode)
	}
}

// A container with a stack of its own asks at its network's gate, by its address.
func TestGate(t *testing.T) {
	w := newWorld(t)
	s, at := listen(t)
	w.Gate("f", s)
	w.addr["gate"] = at
	w.Put(Host{ID: "vm", OwnStack: true, Places: []Place{{Network: "f", Name: "front", Names: []string{"vm"}, IPv4: addr("127.0.0.1")}}}, Sockets{})
	for _, network := range []string{"udp", "tcp"} {
		if rcode, got := w.ask("gate", network, "web", dns.TypeA); rcode != "NOERROR" || len(got) != 1 {
			t.Errorf("%s: %s %q", network, rcode, got)
		}
	}
	if _, got := w.ask("web", "udp", "vm", dns.TypeA); !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Errorf("others find it at %q", got)
	}
	w.Drop("vm")
	q := new(dns.Msg)
	q.SetQuestion("web.", dns.TypeA)
	c := dns.Client{Timeout: 100 * time.Millisecond}
	if r, _, err := c.Exchange(q, at); err == nil {
		t.Errorf("nobody is answered: %v", r)
	}
	w.Ungate("f")
	if len(w.Gates()) != 0 {
		t.Error("the gate is still there")
	}
}

func FuzzParse(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("web.", dns.TypeA)
	b, _ := q.Pack()
	f.Add(b)
	f.Add([]byte{})
	w := newWorld(f)
	h := w.hosts["web"]
	f.Fuzz(func(t *testing.T, b []byte) {
		q, r := parse(b)
		if q != nil {
			r = h.local(q)
		}
		if r != nil {
			_, _ = r.Pack()
		}
	})
}

// BenchmarkLocal is one query about a container, from datagram to datagram
// without the sockets.
func BenchmarkLocal(b *testing.B) {
	w := newWorld(b)
	q := new(dns.Msg)
	q.SetQuestion("web.", dns.TypeA)
	raw, _ := q.Pack()
	out := make([]byte, maxUDP)
	h := w.hosts["worker"]
	for b.Loop() {
		q, _ := parse(raw)
		r := h.local(q)
		r.Truncate(dns.MinMsgSize)
		if _, err := r.PackBuffer(out); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUDP is one query after the other by a socket: client and server.
func BenchmarkUDP(b *testing.B) {
	w := newWorld(b)
	c, err := net.Dial("udp", w.addr["worker"])
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion("web.", dns.TypeA)
	raw, _ := q.Pack()
	buf := make([]byte, 512)
	for b.Loop() {
		if _, err := c.Write(raw); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
