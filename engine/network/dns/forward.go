package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxAllForwards bounds the queries under way to other servers, of all
	// containers: each has a descriptor.
	maxAllForwards = 2048
	maxServers     = 3 // of one container that are asked
	serverTime     = 2 * time.Second
)

// forward asks a container's own servers, one after the other, and gives the
// answer as it came; one of ours where there is none.
func (h *host) forward(network string, q *dns.Msg, raw []byte) []byte {
	h.server.mu.RLock()
	servers, sealed, ndots := h.Servers, h.Sealed, h.Ndots
	h.server.mu.RUnlock()
	question := q.Question[0]
	rooted := !strings.Contains(strings.TrimSuffix(question.Name, "."), ".")
	if ndots && rooted && (question.Qtype == dns.TypeA || question.Qtype == dns.TypeAAAA) {
		// The client wants its search domains tried first.
		return pack(answer(q, dns.RcodeSuccess))
	}
	var last []byte
	if !sealed {
		for _, server := range servers[:min(len(servers), maxServers)] {
			b := ask(network, server, q, raw)
			if b == nil {
				continue
			}
			if rcode := int(b[3] & 0xf); rcode != dns.RcodeServerFailure && rcode != dns.RcodeRefused {
				return b
			}
			last = b // perhaps another one knows
		}
	}
	if last == nil {
		return pack(answer(q, dns.RcodeServerFailure))
	}
	return last
}

func pack(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// ask asks one server; nil if it does not answer. Each query has a socket, and
// so a port, of its own.
func ask(network string, server netip.AddrPort, q *dns.Msg, raw []byte) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), serverTime)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil
	}
	defer conn.Close() //nolint:errcheck // the answer is there, or will not be
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	c := &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize}
	if _, err := c.Write(raw); err != nil {
		return nil
	}
	for {
		b, err := c.ReadMsgHeader(nil)
		if err != nil {
			return nil
		}
		if answers(q, b) {
			return b
		}
	}
}

// answers tells whether a message answers a query.
func answers(q *dns.Msg, b []byte) bool {
	r := new(dns.Msg)
	if len(b) < 12 || b[2]&0x80 == 0 || uint16(b[0])<<8|uint16(b[1]) != q.Id {
		return false
	}
	if r.Unpack(b) != nil {
		return true // its own affair: the container asked for it
	}
	return slices.EqualFunc(r.Question, q.Question, func(a, b dns.Question) bool {
		return strings.EqualFold(a.Name, b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
	}) || len(r.Question) == 0
}
