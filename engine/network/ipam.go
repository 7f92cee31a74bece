package network

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/containerd/errdefs"
)

// poolWindow is how many addresses of a subnet are handed out; a larger subnet
// has room for addresses that a client chooses.
const poolWindow = 1 << 16

// addrPool hands out the addresses of one subnet. It takes the next free one
// after the last it gave, so that an address given back is the last to be used
// again: neighbours and connection tables have forgotten it by then. The zero
// value is not usable. Not safe for concurrent use.
type addrPool struct {
	subnet netip.Prefix
	used   []uint64        // bit n: address n of the window
	size   int             // addresses in the window
	next   int             // where the search begins
	free   int             // clear bits in used
	far    map[uint64]bool // chosen addresses beyond the window
	within netip.Prefix    // of which take gives; zero: the whole subnet
}

// newAddrPool makes the pool of a subnet, without its first address and, for
// IPv4, without its last one.
func newAddrPool(subnet netip.Prefix) *addrPool {
	subnet = subnet.Masked()
	size := poolWindow
	if host := subnet.Addr().BitLen() - subnet.Bits(); host < 16 {
		size = 1 << host
	}
	p := &addrPool{subnet: subnet, used: make([]uint64, (size+63)/64), size: size, free: size}
	for n := size; n < len(p.used)*64; n++ {
		p.used[n/64] |= 1 << (n % 64)
	}
	p.mark(0)
	if subnet.Addr().Is4() {
		_ = p.reserve(lastAddr(subnet))
	}
	return p
}

func (p *addrPool) mark(n int)       { p.used[n/64] |= 1 << (n % 64); p.free-- }
func (p *addrPool) taken(n int) bool { return p.used[n/64]&(1<<(n%64)) != 0 }

// take gives an address that nobody has.
func (p *addrPool) take() (netip.Addr, error) {
	if p.within.IsValid() && p.within != p.subnet {
		return p.takeWithin()
	}
	if p.free == 0 {
		return netip.Addr{}, fmt.Errorf("no free address is left in %s: remove containers, or give the network a larger subnet: %w", p.subnet, errdefs.ErrResourceExhausted)
	}
	for word, words := p.next/64, len(p.used); ; word = (word + 1) % words {
		v := p.used[word]
		if word == p.next/64 {
			v |= 1<<(p.next%64) - 1
			p.next = word * 64 // on the second visit the whole word counts
		}
		if v == ^uint64(0) {
			continue
		}
		n := word*64 + bits.TrailingZeros64(^v)
		p.mark(n)
		p.next = (n + 1) % p.size
		return addrAt(p.subnet, uint64(n)), nil
	}
}

// takeWithin is take where a client bounded what is handed out.
func (p *addrPool) takeWithin() (netip.Addr, error) {
	room := poolWindow
	if host := p.within.Addr().BitLen() - p.within.Bits(); host < 16 {
		room = 1 << host
	}
	for range room {
		a := addrAt(p.within, uint64(p.next%room))
		p.next++
		if p.reserve(a) == nil {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address is left in the range %s: remove containers, or give the network a larger range: %w", p.within, errdefs.ErrResourceExhausted)
}

// reserve takes one particular address.
func (p *addrPool) reserve(a netip.Addr) error {
	n, ok := offsetOf(p.subnet, a)
	if !ok {
		return fmt.Errorf("address %s is not in the subnet %s: %w", a, p.subnet, errdefs.ErrInvalidArgument)
	}
	held := p.far[n]
	if n < uint64(p.size) {
		held = p.taken(int(n))
	}
	if held {
		return fmt.Errorf("address %s is already in use: %w", a, errdefs.ErrConflict)
	}
	if n < uint64(p.size) {
		p.mark(int(n))
		return nil
	}
	if p.far == nil {
		p.far = make(map[uint64]bool)
	}
	p.far[n] = true
	return nil
}

// release gives an address back. One that is not taken is left alone.
func (p *addrPool) release(a netip.Addr) {
	n, ok := offsetOf(p.subnet, a)
	switch {
	case !ok:
	case n >= uint64(p.size):
		delete(p.far, n)
	case p.taken(int(n)):
		p.used[n/64] &^= 1 << (n % 64)
		p.free++
	}
}

// addrAt is the n-th address of a subnet.
func addrAt(subnet netip.Prefix, n uint64) netip.Addr {
	if base := subnet.Addr(); base.Is4() {
		b := base.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := subnet.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+n)
	return netip.AddrFrom16(b)
}

// offsetOf is the inverse of addrAt. It tells false for an address outside the
// subnet, or one that is 2^64 or more addresses into it.
func offsetOf(subnet netip.Prefix, a netip.Addr) (uint64, bool) {
	if !subnet.Contains(a) {
		return 0, false
	}
	if a.Is4() {
		x, y := a.As4(), subnet.Masked().Addr().As4()
		return uint64(binary.BigEndian.Uint32(x[:]) - binary.BigEndian.Uint32(y[:])), true
	}
	x, y := a.As16(), subnet.Masked().Addr().As16()
	if [8]byte(x[:8]) != [8]byte(y[:8]) {
		return 0, false
	}
	return binary.BigEndian.Uint64(x[8:]) - binary.BigEndian.Uint64(y[8:]), true
}

// lastAddr is the last address of a subnet: for IPv4 the broadcast address.
func lastAddr(subnet netip.Prefix) netip.Addr {
	b := subnet.Masked().Addr().AsSlice()
	for i := subnet.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// freeSubnet is the first subnet of the pools that overlaps none of the used ones.
func freeSubnet(pools []AddressPool, used []netip.Prefix) (netip.Prefix, error) {
	for _, pool := range pools {
		base := pool.Base.Masked()
		for a := base.Addr(); base.Contains(a); {
			subnet := netip.PrefixFrom(a, pool.Size)
			// Skipping past what is in the way bounds the search by the number
			// of used prefixes, not by the number of subnets.
			last := lastAddr(subnet)
			clash := false
			for _, u := range used {
				if u.Overlaps(subnet) {
					clash = true
					if l := lastAddr(u); last.Less(l) {
						last = l
					}
				}
			}
			if !clash {
				return subnet, nil
			}
			next := netip.PrefixFrom(last, pool.Size).Masked().Addr()
			if next = lastAddr(netip.PrefixFrom(next, pool.Size)).Next(); !next.IsValid() {
				break
			}
			a = next
		}
	}
	return netip.Prefix{}, fmt.Errorf("all predefined address pools have been fully subnetted or are used by the host: set --bip or --default-address-pool: %w", errdefs.ErrResourceExhausted)
}
