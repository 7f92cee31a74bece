package hostnet

import (
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/caisson-engine/caisson/engine/network"
)

// Tenants' containers reach each other's published ports, as everybody does, and
// nothing else of each other; also after a restart of the engine.
func TestTenantsAreApart(t *testing.T) {
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNF, func(t *testing.T) {
			w := newWorld(t)
			if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(bridgeNF), 0); err != nil && bridgeNF == "1" {
				t.Skip("the kernel has no br_netfilter: ", err)
			}
			w.serve(w.outsidePath(), "outside", "tcp", 80)
			own, a, a2, b := w.attach("own"), w.attachOf("alpha", "a", "8080->80/tcp"), w.attachOf("alpha", "a2"), w.attachOf("beta", "b")
			for _, x := range []*box{own, a, a2, b} {
				for _, port := range []int{80, 81} {
					w.serve(x.ns.Path, x.Container, "tcp", port)
					w.serve(x.ns.Path, x.Container, "udp", port)
				}
			}
			check := func(when string) {
				t.Helper()
				w.expect(when+": outbound", a.ns.Path, "tcp", "198.51.100.2:80", "outside 198.51.100.1")
				w.expect(when+": outbound, IPv6", b.ns.Path, "tcp", "[2001:db8:1::2]:80", "outside 2001:db8:1::1")
				w.expect(when+": within a tenant", a2.ns.Path, "tcp", a.ip4().String()+":81", "a-id "+a2.ip4().String())
				w.expect(when+": within a tenant, IPv6", a2.ns.Path, "tcp", "["+a.ip6().String()+"]:81", "a-id "+a2.ip6().String())
				w.expect(when+": published, from outside", w.outsidePath(), "tcp", "198.51.100.1:8080", "a-id 198.51.100.2")
				w.expect(when+": published, from another tenant", b.ns.Path, "tcp", "198.51.100.1:8080", "a-id "+a.Endpoints[0].Gateway4.String())
				var wg sync.WaitGroup // each waits in vain
				for _, from := range []*box{own, a, b} {
					for _, to := range []*box{own, a, b} {
						for _, proto := range []string{"tcp", "udp"} {
							for _, addr := range []netip.Addr{to.ip4(), to.ip6()} {
								if from != to {
									wg.Go(func() {
										w.expect(when+": "+from.Container+" to "+to.Container, from.ns.Path, proto, netip.AddrPortFrom(addr, 81).String(), "")
									})
								}
							}
						}
					}
				}
				wg.Wait()
			}
			check("at first")
			w.ok(w.manager.Close())
			w.start("test", network.Config{}, own.Attachment, a.Attachment, a2.Attachment, b.Attachment)
			check("after a restart")
			if c := w.attachOf("alpha", "c"); !a.Endpoints[0].IPv4.Masked().Contains(c.ip4()) || c.ip4() == a.ip4() {
				t.Errorf("%s after a restart, %s before", c.ip4(), a.ip4())
			}
		})
	}
}
