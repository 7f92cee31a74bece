package hostnet

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/caisson-engine/caisson/engine/network"
)

func TestOutbound(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outsidePath(), "outside", "tcp", 80)
	w.serve(w.outsidePath(), "outside", "udp", 53)
	a, b := w.attach("a"), w.attach("b")
	w.serve(b.ns.Path, "b", "tcp", 80)
	// The outside has no route to the containers: it answers only to the host.
	w.expect("IPv4", a.ns.Path, "tcp", "198.51.100.2:80", "outside 198.51.100.1")
	w.expect("IPv6", a.ns.Path, "tcp", "[2001:db8:1::2]:80", "outside 2001:db8:1::1")
	w.expect("UDP", a.ns.Path, "udp", "198.51.100.2:53", "outside 198.51.100.1")
	w.expect("between containers", a.ns.Path, "tcp", b.ip4().String()+":80", "b "+a.ip4().String())
	w.expect("between containers, IPv6", a.ns.Path, "tcp", "["+b.ip6().String()+"]:80", "b "+a.ip6().String())
	w.expect("host to container", "", "tcp", b.ip4().String()+":80", "b 172.17.0.1")
}

func TestPublished(t *testing.T) {
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNF, func(t *testing.T) {
			w := newWorld(t)
			if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(bridgeNF), 0); err != nil && bridgeNF == "1" {
				t.Skip("the kernel has no br_netfilter: ", err)
			}
			testPublished(w)
		})
	}
}

func testPublished(w *world) {
	outside := w.outsidePath()
	a := w.attach("a", "8080->80/tcp", "5353->53/udp", "127.0.0.1:9000->90/tcp", "198.51.100.1:9001->91/tcp", "[2001:db8:1::1]:9002->92/tcp")
	b := w.attach("b")
	for _, port := range []int{80, 90, 91, 92, 99} {
		w.serve(a.ns.Path, "a", "tcp", port)
	}
	w.serve(a.ns.Path, "a", "udp", 53)

	// A client on another machine keeps its address.
	w.expect("outside", outside, "tcp", "198.51.100.1:8080", "a 198.51.100.2")
	w.expect("outside, IPv6", outside, "tcp", "[2001:db8:1::1]:8080", "a 2001:db8:1::2")
	w.expect("outside, UDP", outside, "udp", "198.51.100.1:5353", "a 198.51.100.2")
	w.expect("outside, UDP, IPv6", outside, "udp", "[2001:db8:1::1]:5353", "a 2001:db8:1::2")
	// The host itself.
	w.expect("localhost", "", "tcp", "127.0.0.1:8080", "a 172.17.0.1")
	w.expect("localhost, UDP", "", "udp", "127.0.0.1:5353", "a 172.17.0.1")
	w.expect("the host's address", "", "tcp", "198.51.100.1:8080", "a 198.51.100.1")
	gateway6 := a.Endpoints[0].Gateway6.String()
	w.expect("::1 by proxy", "", "tcp", "[::1]:8080", "a "+gateway6)
	w.expect("::1 by proxy, UDP", "", "udp", "[::1]:5353", "a "+gateway6)
	w.expect("the host's IPv6 address", "", "tcp", "[2001:db8:1::1]:8080", "a 2001:db8:1::1")
	// Containers, at the host's addresses: the answer has to come back the same way.
	w.expect("another container", b.ns.Path, "tcp", "198.51.100.1:8080", "a 172.17.0.1")
	w.expect("another container, gateway", b.ns.Path, "tcp", "172.17.0.1:8080", "a 172.17.0.1")
	w.expect("another container, IPv6", b.ns.Path, "tcp", "[2001:db8:1::1]:8080", "a "+gateway6)
	w.expect("itself", a.ns.Path, "tcp", "198.51.100.1:8080", "a 172.17.0.1")
	w.expect("itself, IPv6", a.ns.Path, "tcp", "[2001:db8:1::1]:8080", "a "+gateway6)
	w.expect("itself, UDP", a.ns.Path, "udp", "198.51.100.1:5353", "a 172.17.0.1")
	// Particular addresses.
	w.expect("published on loopback", "", "tcp", "127.0.0.1:9000", "a 172.17.0.1")
	w.expect("published on loopback, from outside", outside, "tcp", "198.51.100.1:9000", "")
	w.expect("published on one address", outside, "tcp", "198.51.100.1:9001", "a 198.51.100.2")
	w.expect("published on another address", "", "tcp", "127.0.0.1:9001", "")
	w.expect("published on one IPv6 address", outside, "tcp", "[2001:db8:1::1]:9002", "a 2001:db8:1::2")
	w.expect("not published", outside, "tcp", "198.51.100.1:99", "")

	// Containers must not reach the host's loopback through the bridge, nor
	// the outside a container past its published ports.
	w.in(outside, func() { w.addRoute(a.Endpoints[0].IPv4, hostAddr4) })
	w.expect("past the published ports", outside, "tcp", a.ip4().String()+":99", "")
	a.release()
	w.expect("released", outside, "tcp", "198.51.100.1:8080", "")
	w.expect("released", "", "tcp", "[::1]:8080", "")
}

func (w *world) addRoute(to netip.Prefix, via netip.Addr) {
	h, err := netlink.NewHandle()
	w.ok(err)
	defer h.Close()
	dst := to.Masked()
	w.ok(h.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: via.AsSlice()}))
}

func TestPortRangeAndConflict(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", "7000-7002->80/tcp")
	b := w.attach("b", "7000-7002->80/tcp")
	w.attach("c", "7000-7002->80/tcp")
	if got := hostPort(b, "80/tcp"); got != "7001" {
		t.Errorf("second port of the range: %s", got)
	}
	_, err := w.tryAttach("d", "7000-7002->80/tcp")
	if !errdefs.IsConflict(err) {
		t.Errorf("range exhausted: %v", err)
	}
	links := w.links()
	_, err = w.tryAttach("e", "7001->80/tcp")
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "Bind for 0.0.0.0:7001 failed: port is already allocated (by container b)") {
		t.Errorf("conflict: %v", err)
	}
	if _, err = w.tryAttach("f", "127.0.0.1:7001->80/tcp"); !errdefs.IsConflict(err) {
		t.Errorf("conflict with the wildcard: %v", err)
	}
	w.attach("g", "7001->80/udp")
	if !settled(func() bool { return w.links() <= links+2*network.DefaultSpares }) {
		t.Errorf("links left by failed attachments")
	}
	a.release()
	w.attach("h", "7000->80/tcp")
	one, two := w.attach("i", "->80/tcp"), w.attach("j", "0->80/tcp")
	if hostPort(one, "80/tcp") == hostPort(two, "80/tcp") {
		t.Errorf("one port for two containers: %s", hostPort(one, "80/tcp"))
	}
}

func hostPort(b *box, inside string) string {
	for p, l := range b.Ports {
		if p.String() == inside {
			return l[0].HostPort
		}
	}
	return ""
}

// A ruleset flushed by somebody else is made again by the next container.
func TestRulesetFlushed(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outsidePath(), "outside", "tcp", 80)
	a := w.attach("a", "8080->80/tcp")
	w.serve(a.ns.Path, "a", "tcp", 80)
	for _, ports := range [][]string{nil, {"8081->81/tcp"}} {
		c, err := nftables.New()
		w.ok(err)
		c.FlushRuleset()
		w.ok(c.Flush())
		b := w.attach("b", ports...)
		w.expect("outbound", b.ns.Path, "tcp", "198.51.100.2:80", "outside 198.51.100.1")
		w.expect("published before", w.outsidePath(), "tcp", "198.51.100.1:8080", "a 198.51.100.2")
		c.FlushRuleset()
		w.ok(c.Flush())
		b.release()
		if len(ports) > 0 { // the end of a port is a change, too
			w.expect("published before", w.outsidePath(), "tcp", "198.51.100.1:8080", "a 198.51.100.2")
		}
		w.attach("c").release()
		w.attach("d", "8082->82/tcp").release() // the socket still counts answers right
		w.expect("published before", w.outsidePath(), "tcp", "198.51.100.1:8080", "a 198.51.100.2")
	}
}

// Another program, such as dockerd, has iptables' FORWARD chain drop packets.
func TestForwardPolicyDrop(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outsidePath(), "outside", "tcp", 80)
	c, err := nftables.New()
	w.ok(err)
	drop := nftables.ChainPolicyDrop
	var tables []*nftables.Table
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		table := c.AddTable(&nftables.Table{Name: "filter", Family: family})
		c.AddChain(&nftables.Chain{Table: table, Name: "FORWARD", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
		tables = append(tables, table)
	}
	w.ok(c.Flush())
	t.Cleanup(func() {
		for _, table := range tables {
			rules, err := c.GetRules(table, &nftables.Chain{Name: "FORWARD", Table: table})
			if err != nil || len(rules) != 0 {
				t.Errorf("left in the tables of others: %d rules, %v", len(rules), err)
			}
			c.DelTable(table)
		}
		w.ok(c.Flush())
	})
	t.Cleanup(func() { w.ok(w.manager.Cleanup()) }) // before the check above
	for range 2 {                                   // the rules are added once
		a := w.attach("a", "8080->80/tcp")
		w.serve(a.ns.Path, "a", "tcp", 80)
		w.expect("outbound", a.ns.Path, "tcp", "198.51.100.2:80", "outside 198.51.100.1")
		w.expect("outbound, IPv6", a.ns.Path, "tcp", "[2001:db8:1::2]:80", "outside 2001:db8:1::1")
		w.expect("inbound", w.outsidePath(), "tcp", "198.51.100.1:8080", "a 198.51.100.2")
		a.release()
	}
	for _, table := range tables {
		rules, err := c.GetRules(table, &nftables.Chain{Name: "FORWARD", Table: table})
		if err != nil || len(rules) != 2 {
			t.Errorf("%d rules, want 2: %v", len(rules), err)
		}
	}
}

// A chain that the host's owner wrote is not touched, but told of.
func TestForeignForwardChain(t *testing.T) {
	w := newWorld(t)
	c, err := nftables.New()
	w.ok(err)
	drop := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Name: "site", Family: nftables.TableFamilyINet})
	chain := c.AddChain(&nftables.Chain{Table: table, Name: "fwd", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	w.ok(c.Flush())
	t.Cleanup(func() {
		c.DelTable(table)
		w.ok(c.Flush())
	})
	w.attach("a")
	if ws := w.manager.Warnings(); len(ws) != 1 || !strings.Contains(ws[0], "chain fwd of table site") {
		t.Errorf("warnings: %q", ws)
	}
	if rules, err := c.GetRules(table, chain); err != nil || len(rules) != 0 {
		t.Errorf("rules added to another's chain: %d, %v", len(rules), err)
	}
}

// Somebody removes the bridge: the next container has one again.
func TestBridgeRemoved(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outsidePath(), "outside", "tcp", 80)
	w.attach("a").release()
	if !settled(func() bool { return w.links() >= 3+1 }) {
		t.Fatal("no spare namespace was made")
	}
	bridge, err := netlink.LinkByName("cstest")
	w.ok(err)
	w.ok(netlink.LinkDel(bridge))
	b := w.attach("b")
	w.expect("outbound", b.ns.Path, "tcp", "198.51.100.2:80", "outside 198.51.100.1")
}

// Two engines choose their subnets one after the other.
func TestLock(t *testing.T) {
	w := newWorld(t)
	unlock, err := w.driver.Lock()
	w.ok(err)
	other, err := New(Config{HostID: "lock"})
	w.ok(err)
	second := make(chan func())
	go func() {
		unlock, err := other.Lock()
		if err != nil {
			t.Error(err)
		}
		second <- unlock
	}()
	select {
	case <-second:
		t.Fatal("locked twice")
	case <-time.After(50 * time.Millisecond): // it can only err on the side of success
	}
	unlock()
	(<-second)()
	w.ok(other.Close())
}

// An engine that starts again takes over what runs, and removes what does not.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outsidePath(), "outside", "tcp", 80)
	a, b := w.attach("a", "8080->80/tcp", "->81/tcp"), w.attach("b", "8081->80/tcp")
	w.serve(a.ns.Path, "a", "tcp", 80)
	w.serve(b.ns.Path, "b", "tcp", 80)
	w.ok(w.manager.Close())
	w.expect("while the engine is away", w.outsidePath(), "tcp", "198.51.100.1:8080", "a 198.51.100.2")

	w.start("test", network.Config{}, a.Attachment)
	subnet := w.manager.Networks()[0].IPv4
	if !subnet.Contains(a.ip4()) {
		t.Fatalf("the subnet changed to %s", subnet)
	}
	w.expect("forwarded on", w.outsidePath(), "tcp", "198.51.100.1:8080", "a 198.51.100.2")
	w.expect("proxied again", "", "tcp", "[::1]:8080", "a "+a.Endpoints[0].Gateway6.String())
	w.expect("outbound", a.ns.Path, "tcp", "198.51.100.2:80", "outside 198.51.100.1")
	w.expect("of a dead container", w.outsidePath(), "tcp", "198.51.100.1:8081", "")
	if _, err := netlink.LinkByName(b.Endpoints[0].HostLink); err == nil {
		t.Error("the link of a container that nobody claims is still there")
	}
	if _, err := w.tryAttach("c", "8080->80/tcp"); !errdefs.IsConflict(err) {
		t.Errorf("the port of a restored container: %v", err)
	}
	for i := range 300 {
		if c := w.attach(fmt.Sprint("n", i)); c.ip4() == a.ip4() || c.ip6() == a.ip6() {
			t.Fatal("the address of a restored container was given away")
		} else if i > 10 {
			c.release()
		}
	}
}

// Two engines share a host.
func TestTwoEngines(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outsidePath(), "outside", "tcp", 80)
	a := w.attach("a", "8080->80/tcp")
	w.serve(a.ns.Path, "a", "tcp", 80)
	v := &world{TB: t, dir: t.TempDir(), host: w.host, outside: w.outside}
	v.start("other", network.Config{})
	b := v.attach("b", "8081->80/tcp")
	v.serve(b.ns.Path, "b", "tcp", 80)
	if a.Endpoints[0].IPv4.Overlaps(b.Endpoints[0].IPv4) || a.Endpoints[0].IPv6.Overlaps(b.Endpoints[0].IPv6) {
		t.Errorf("subnets overlap: %v %v", a.Endpoints[0], b.Endpoints[0])
	}
	v.expect("outbound", b.ns.Path, "tcp", "198.51.100.2:80", "outside 198.51.100.1")
	v.expect("inbound", w.outsidePath(), "tcp", "198.51.100.1:8081", "b 198.51.100.2")
	v.expect("from one engine's container past the other's ports", a.ns.Path, "tcp", b.ip4().String()+":80", "")
	v.expect("from one engine's container to the other's port", a.ns.Path, "tcp", "198.51.100.1:8081", "b 172.18.0.1")
	if _, err := v.tryAttach("c", "8080->80/tcp"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "another program") {
		t.Errorf("the other engine's port: %v", err)
	}
	b.release()
	w.ok(v.manager.Cleanup())
	w.ok(v.manager.Close())
	w.expect("after the other's end", w.outsidePath(), "tcp", "198.51.100.1:8080", "a 198.51.100.2")
	w.expect("after the other's end", a.ns.Path, "tcp", "198.51.100.2:80", "outside 198.51.100.1")
}

// Nothing is left of containers that came and went.
func TestNothingLeft(t *testing.T) {
	w := newWorld(t)
	w.attach("first", "8080->80/tcp", "8080->80/udp").release()
	before := struct{ links, fds, goroutines int }{0, fds(t), runtime.NumGoroutine()}
	for i := range 200 {
		ports := []string{"8080->80/tcp", "8080->80/udp"}
		b, err := w.tryAttach(fmt.Sprint(i), ports[:i%3%2*2]...)
		w.ok(err)
		w.ok(w.manager.Release(context.Background(), b.Attachment))
		w.ok(b.ns.Close())
	}
	c, err := nftables.New()
	w.ok(err)
	for _, name := range []string{"ports4", "any4", "ports6", "any6"} {
		set, err := c.GetSetByName(w.driver.wall.table().Table, name)
		w.ok(err)
		set.Table = w.driver.wall.table().Table
		elements, err := c.GetSetElements(set)
		w.ok(err)
		if len(elements) != 0 {
			t.Errorf("map %s has %d elements", name, len(elements))
		}
	}
	// The bridge, lo, out0 and spare links.
	if !settled(func() bool { return w.links() <= 3+network.DefaultSpares }) {
		t.Errorf("%d links are left", w.links())
	}
	if !settled(func() bool { return fds(t) <= before.fds+4*network.DefaultSpares }) {
		t.Errorf("%d descriptors, %d before", fds(t), before.fds)
	}
	if !settled(func() bool { return runtime.NumGoroutine() <= before.goroutines+2 }) {
		t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before.goroutines)
	}
}

// Hosts that lack something work without it.
func TestWithoutFirewall(t *testing.T) {
	w := newWorld(t)
	w.driver.wall.mu.Lock()
	w.driver.wall.problem = errdefs.ErrNotImplemented
	w.ok(w.driver.wall.remove())
	w.driver.wall.mu.Unlock()
	a := w.attach("a", "8080->80/tcp", "5353->53/udp")
	w.serve(a.ns.Path, "a", "tcp", 80)
	w.serve(a.ns.Path, "a", "udp", 53)
	w.expect("by proxy", w.outsidePath(), "tcp", "198.51.100.1:8080", "a 172.17.0.1")
	w.expect("by proxy, UDP", w.outsidePath(), "udp", "198.51.100.1:5353", "a 172.17.0.1")
	if ws := w.manager.Warnings(); len(ws) != 1 || !strings.Contains(ws[0], "nftables cannot be used") {
		t.Errorf("warnings: %q", ws)
	}
}

func TestWithoutIPv6(t *testing.T) {
	w := newWorld(t)
	v := &world{TB: t, dir: t.TempDir(), host: w.host, outside: w.outside}
	v.start("six", network.Config{NoIPv6: true})
	a := v.attach("a", "8080->80/tcp")
	v.serve(a.ns.Path, "a", "tcp4", 80)
	if a.ip6().IsValid() {
		t.Errorf("IPv6 address %s", a.ip6())
	}
	v.expect("IPv6 clients by proxy", w.outsidePath(), "tcp", "[2001:db8:1::1]:8080", "a "+a.Endpoints[0].Gateway4.String())
	v.in(a.ns.Path, func() {
		if got := readSysctl("ipv6/conf/eth0/disable_ipv6"); got != "1" {
			t.Errorf("disable_ipv6 is %q", got)
		}
	})
	a.release()
	v.ok(v.manager.Cleanup())
	v.ok(v.manager.Close())
}

func TestNamespaceSysctls(t *testing.T) {
	w := newWorld(t)
	a, ns, err := w.manager.Attach(context.Background(), network.Request{Container: "a", Sysctls: map[string]string{
		"net.ipv4.conf.eth0.forwarding": "1", "net/ipv4/ip_unprivileged_port_start": "1024",
	}})
	w.ok(err)
	w.in(ns.Path, func() {
		if got := readSysctl("ipv4/conf/eth0/forwarding") + readSysctl("ipv4/ip_unprivileged_port_start"); got != "11024" {
			t.Errorf("settings are %q", got)
		}
	})
	w.ok(w.manager.Release(context.Background(), a))
	w.ok(ns.Close())
	for _, bad := range []string{"kernel.shmmax", "net", "net.", "net/../kernel/shmmax", "net.ipv4./etc", "/net/x"} {
		if _, _, err := w.manager.Attach(context.Background(), network.Request{Container: "b", Sysctls: map[string]string{bad: "1"}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("sysctl %q: %v", bad, err)
		}
	}
}

// The thousandth published port costs what the first one does.
func TestManyPorts(t *testing.T) {
	w := newWorld(t)
	times := make([]time.Duration, 0, 1000)
	for i := range 1000 {
		begin := time.Now()
		f := []network.Forward{{Proto: "tcp", HostIP: netip.IPv4Unspecified(), HostPort: uint16(20000 + i), Target: netip.AddrPortFrom(netip.MustParseAddr("172.17.0.9"), 80)}}
		w.ok(w.driver.Publish(f, nil))
		times = append(times, time.Since(begin))
	}
	sum := func(t []time.Duration) (s time.Duration) {
		for _, d := range t {
			s += d
		}
		return s / time.Duration(len(t))
	}
	t.Logf("a port costs %v at first, %v at last", sum(times[:100]), sum(times[900:]))
	w.ok(w.driver.Sync(network.State{Bridges: w.driver.wall.bridges, Forwards: everyForward(w.driver.wall)}))
	c, err := nftables.New()
	w.ok(err)
	set, err := c.GetSetByName(w.driver.wall.table().Table, "any4")
	w.ok(err)
	set.Table = w.driver.wall.table().Table
	if elements, err := c.GetSetElements(set); err != nil || len(elements) != 1000 {
		t.Errorf("%d elements after a rebuild: %v", len(elements), err)
	}
}

func everyForward(w *firewall) (all []network.Forward) {
	for _, f := range w.forwards {
		all = append(all, f)
	}
	return all
}
