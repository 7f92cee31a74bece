package network

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

// Whatever the order of takes, reservations and releases: no address is given
// twice, none is the subnet's own, its broadcast address or reserved, all can be
// had, and one given back is not given again before all others were.
func TestAddrPool(t *testing.T) {
	for _, subnet := range []string{"10.0.0.0/30", "192.0.2.0/24", "10.1.2.0/23", "172.17.0.0/16", "10.0.0.0/8", "fd00::/64", "fd00::/120", "fd00::/126"} {
		t.Run(subnet, func(t *testing.T) {
			prefix := netip.MustParsePrefix(subnet)
			p := newAddrPool(prefix)
			gateway := addrAt(prefix, 1)
			if err := p.reserve(gateway); err != nil {
				t.Fatal(err)
			}
			room := p.free
			held := map[netip.Addr]bool{}
			var order []netip.Addr
			rnd := rand.New(rand.NewPCG(1, 2))
			for range 4 * min(room, 3000) {
				if len(order) > 0 && rnd.IntN(3) == 0 {
					i := rnd.IntN(len(order))
					p.release(order[i])
					delete(held, order[i])
					order[i] = order[len(order)-1]
					order = order[:len(order)-1]
					continue
				}
				a, err := p.take()
				if len(held) == room {
					if !errdefs.IsResourceExhausted(err) {
						t.Fatalf("full, but got %v, %v", a, err)
					}
					continue
				}
				switch {
				case err != nil:
					t.Fatal(err)
				case held[a], a == gateway, a == prefix.Addr(), !prefix.Contains(a):
					t.Fatalf("gave %s", a)
				case prefix.Addr().Is4() && a == lastAddr(prefix):
					t.Fatalf("gave the broadcast address")
				}
				held[a] = true
				order = append(order, a)
			}
			if p.free != room-len(held) {
				t.Errorf("%d free, want %d", p.free, room-len(held))
			}
		})
	}
}

func TestAddrPoolRests(t *testing.T) {
	p := newAddrPool(netip.MustParsePrefix("192.0.2.0/28"))
	first, err := p.take()
	if err != nil {
		t.Fatal(err)
	}
	p.release(first)
	for i := range 13 {
		a, err := p.take()
		if err != nil || a == first {
			t.Fatalf("take %d gave %s, %v", i, a, err)
		}
	}
	if a, err := p.take(); err != nil || a != first {
		t.Errorf("the last one is %s, %v; want %s", a, err, first)
	}
}

func TestAddrPoolReserve(t *testing.T) {
	p := newAddrPool(netip.MustParsePrefix("10.0.0.0/8"))
	far := netip.MustParseAddr("10.200.0.1")
	for range 2 {
		if err := p.reserve(far); err != nil {
			t.Fatal(err)
		}
		if err := p.reserve(far); !errdefs.IsConflict(err) {
			t.Errorf("reserved twice: %v", err)
		}
		p.release(far)
	}
	for _, a := range []string{"10.0.0.0", "10.0.255.255"} {
		near := netip.MustParseAddr(a)
		if err := p.reserve(near); (err != nil) != (a == "10.0.0.0") {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := p.reserve(netip.MustParseAddr("11.0.0.1")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("outside: %v", err)
	}
	p.release(netip.MustParseAddr("11.0.0.1")) // nobody minds
}

func TestFreeSubnet(t *testing.T) {
	prefixes := func(s ...string) (p []netip.Prefix) {
		for _, x := range s {
			p = append(p, netip.MustParsePrefix(x))
		}
		return p
	}
	tests := []struct {
		used []string
		want string
	}{
		{nil, "172.17.0.0/16"},
		{[]string{"172.17.0.0/16"}, "172.18.0.0/16"},
		{[]string{"172.17.5.0/24", "172.18.0.0/15"}, "172.20.0.0/16"},
		{[]string{"172.20.0.0/15", "172.17.0.0/16", "172.18.0.0/15"}, "172.22.0.0/16"},
		{[]string{"172.16.0.0/12"}, "192.168.0.0/20"},
		{[]string{"172.16.0.0/12", "192.168.1.0/24"}, "192.168.16.0/20"},
		{[]string{"172.16.0.0/12", "192.168.0.0/16"}, ""},
		{[]string{"0.0.0.0/1", "128.0.0.0/1"}, ""},
		{[]string{"fd00::/8"}, "172.17.0.0/16"},
	}
	for _, tt := range tests {
		got, err := freeSubnet(DefaultPools(), prefixes(tt.used...))
		if tt.want == "" {
			if !errdefs.IsResourceExhausted(err) {
				t.Errorf("%v: %v, %v", tt.used, got, err)
			}
			continue
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("%v: %v, %v; want %s", tt.used, got, err, tt.want)
		}
	}
	edge := []AddressPool{{Base: netip.MustParsePrefix("255.255.255.0/24"), Size: 28}}
	if _, err := freeSubnet(edge, prefixes("255.255.255.0/24")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("the last subnet of all: %v", err)
	}
}
