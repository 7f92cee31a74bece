package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine/network/dns"
)

// fakeDriver keeps a host's network in memory. Its knobs make verbs fail.
type fakeDriver struct {
	facts Facts
	used  []netip.Prefix
	fail  map[string]error // by verb
	added []string         // bridges, while containers ran
	// failBridge is why a bridge cannot be made, by its name.
	failBridge map[string]error

	mu       sync.Mutex
	bridges  map[string]Bridge
	forwards map[Forward]bool
	open     int
	opened   int
	remade   bool
	synced   State
	links    []Link // of the last namespace
	plugged  []Link
	via      [2]Via
	served   map[string]dns.Host
}

func newFakeDriver() *fakeDriver {
	return &fakeDriver{
		facts: Facts{IPv6: true, Firewall: true, EphemeralPorts: [2]uint16{42000, 42009}},
		fail:  map[string]error{}, bridges: map[string]Bridge{}, forwards: map[Forward]bool{},
		served: map[string]dns.Host{},
	}
}

func (d *fakeDriver) Facts() Facts                        { return d.facts }
func (d *fakeDriver) Used(string) ([]netip.Prefix, error) { return d.used, d.fail["Used"] }
func (d *fakeDriver) Lock() (func(), error)               { return func() {}, d.fail["Lock"] }
func (d *fakeDriver) Close() error                        { return nil }
func (d *fakeDriver) Cleanup([]string) error              { return nil }

func (d *fakeDriver) RemoveBridge(b Bridge) error {
	delete(d.bridges, b.Name)
	return d.fail["RemoveBridge"]
}

func (d *fakeDriver) EnsureParent(string, bool) error { return d.fail["EnsureParent"] }
func (d *fakeDriver) RemoveParent(string) error       { return nil }

func (d *fakeDriver) Plug(_ context.Context, _ Reach, l Link) (string, error) {
	d.plugged = append(d.plugged, l)
	return "v" + l.Name, d.fail["Plug"]
}

func (d *fakeDriver) Unplug(_ Reach, _, name string) error {
	d.plugged = slices.DeleteFunc(d.plugged, func(l Link) bool { return l.Name == name })
	return d.fail["Unplug"]
}

func (d *fakeDriver) Route(_ Reach, v4, v6 Via) error {
	d.via = [2]Via{v4, v6}
	return d.fail["Route"]
}

func (d *fakeDriver) Serve(_ context.Context, h Served) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served[h.ID] = h.Host
	return d.fail["Serve"]
}

func (d *fakeDriver) Unserve(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.served, id)
}

func (d *fakeDriver) AddBridge(b Bridge) error {
	d.added = append(d.added, b.Name)
	return d.EnsureBridge(b)
}

func (d *fakeDriver) EnsureBridge(b Bridge) error {
	if err := errors.Join(d.fail["EnsureBridge"], d.failBridge[b.Name]); err != nil {
		return err
	}
	d.bridges[b.Name] = b
	return nil
}

func (d *fakeDriver) Verify(Bridge) (bool, error) { return d.remade, d.fail["Verify"] }

func (d *fakeDriver) Sync(s State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.forwards)
	for _, f := range s.Forwards {
		d.forwards[f] = true
	}
	d.synced = s
	return d.fail["Sync"]
}

func (d *fakeDriver) Open(_ context.Context, n Namespace) (*Sandbox, error) {
	if err := d.fail["Open"]; err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open++
	d.opened++
	s := &Sandbox{Path: fmt.Sprint("/ns/", d.opened), ID: fmt.Sprint(d.opened)}
	d.links = n.Links
	for range n.Links {
		s.HostLinks = append(s.HostLinks, fmt.Sprint("v", d.opened))
	}
	s.Close = sync.OnceValue(func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.open--
		return nil
	})
	return s, nil
}

func (d *fakeDriver) Publish(fs []Forward, _ []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail["Publish"]; err != nil {
		return err
	}
	for _, f := range fs {
		d.forwards[f] = true
	}
	return nil
}

func (d *fakeDriver) Unpublish(fs []Forward) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range fs {
		delete(d.forwards, f)
	}
	return d.fail["Unpublish"]
}

func newTestManager(t *testing.T, d *fakeDriver, change func(*Config)) *Manager {
	t.Helper()
	cfg := Config{HostID: "test", DataDir: t.TempDir(), Spares: -1, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	m, err := NewManager(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(context.Background(), nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func port(s string) network.Port { return network.MustParsePort(s) }

func TestAttachModes(t *testing.T) {
	d := newFakeDriver()
	m := newTestManager(t, d, nil)
	ctx := context.Background()
	for _, tt := range []struct {
		mode, want, path string
		endpoints        int
	}{
		{"", "bridge", "/ns/1", 1},
		{"default", "bridge", "/ns/2", 1},
		{"bridge", "bridge", "/ns/3", 1},
		{m.Networks()[0].ID[:12], m.Networks()[0].ID[:12], "/ns/4", 1},
		{"none", "none", "/ns/5", 0},
		{"host", "host", "", 0},
		{"container:abc", "container:abc", "", 0},
	} {
		a, ns, err := m.Attach(ctx, Request{Container: "c" + tt.mode, Mode: tt.mode})
		if err != nil || a.Mode != tt.want || ns.Path != tt.path || len(a.Endpoints) != tt.endpoints {
			t.Errorf("mode %q: %+v, %+v, %v", tt.mode, a, ns, err)
			continue
		}
		if err := errors.Join(ns.Close(), ns.Close(), m.Release(ctx, a), m.Release(ctx, a)); err != nil {
			t.Errorf("mode %q: %v", tt.mode, err)
		}
	}
	if d.open != 0 {
		t.Errorf("%d namespaces are held", d.open)
	}
	if _, _, err := m.Attach(ctx, Request{Container: "x", Mode: "nope"}); !errdefs.IsNotFound(err) {
		t.Errorf("unknown network: %v", err)
	}
	if _, _, err := m.Attach(ctx, Request{Container: "x", Endpoints: map[string]*network.EndpointSettings{
		"bridge": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("172.17.0.9")}},
	}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an address of one's own on the default bridge: %v", err)
	}
}

// An attachment that fails takes nothing, wherever it fails.
func TestAttachFails(t *testing.T) {
	for _, verb := range []string{"Verify", "Open", "Publish"} {
		d := newFakeDriver()
		m := newTestManager(t, d, nil)
		ctx := context.Background()
		free := m.networks[0].pool4.free
		d.fail[verb] = errdefs.ErrUnavailable
		r := Request{Container: "c", Ports: network.PortMap{port("80/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1")}}}}
		if _, _, err := m.Attach(ctx, r); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v", verb, err)
		}
		if m.networks[0].pool4.free != free || d.open != 0 || len(m.ports.held) != 0 || len(m.live) != 0 || len(m.networks[0].Endpoints) != 0 {
			t.Errorf("%s leaves something: %d addresses, %d namespaces, ports %v, live %v", verb, free-m.networks[0].pool4.free, d.open, m.ports.held, m.live)
		}
		delete(d.fail, verb)
		if _, _, err := m.Attach(ctx, r); err != nil {
			t.Errorf("after %s works again: %v", verb, err)
		}
		if _, _, err := m.Attach(ctx, r); !errdefs.IsAlreadyExists(err) {
			t.Errorf("attached twice: %v", err)
		}
	}
}

func TestPublish(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	d := newFakeDriver()
	m := newTestManager(t, d, nil)
	ctx := context.Background()
	a, _, err := m.Attach(ctx, Request{
		Container: "c", Name: "web", PublishAll: true,
		Exposed: []network.Port{port("80/tcp"), port("53/udp"), port("90/sctp")},
		Ports:   network.PortMap{port("80/tcp"): {{HostIP: loopback}, {HostIP: loopback, HostPort: "42005-42009"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := network.PortMap{
		port("90/sctp"): {{HostIP: netip.IPv4Unspecified(), HostPort: "42000"}, {HostIP: netip.IPv6Unspecified(), HostPort: "42000"}},
		port("80/tcp"):  {{HostIP: loopback, HostPort: "42001"}, {HostIP: loopback, HostPort: "42005"}},
		port("53/udp"):  {{HostIP: netip.IPv4Unspecified(), HostPort: "42002"}, {HostIP: netip.IPv6Unspecified(), HostPort: "42002"}},
	}
	if !reflect.DeepEqual(a.Ports, want) {
		t.Errorf("ports %v, want %v", a.Ports, want)
	}
	if len(d.forwards) != 6 {
		t.Errorf("forwards: %v", d.forwards)
	}
	// As stored by the engine.
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var stored Attachment
	if err := json.Unmarshal(b, &stored); err != nil || !reflect.DeepEqual(&stored, a) {
		t.Errorf("stored and loaded: %+v, %v", stored, err)
	}
	if err := m.Release(ctx, a); err != nil || len(d.forwards) != 0 || len(m.ports.held) != 0 {
		t.Errorf("released: %v, %v, %v", err, d.forwards, m.ports.held)
	}

	a, _, err = m.Attach(ctx, Request{Container: "c", Exposed: []network.Port{port("80/tcp")}})
	if bindings, ok := a.Ports[port("80/tcp")]; err != nil || !ok || bindings != nil {
		t.Errorf("exposed only: %v, %v", a.Ports, err)
	}
	for _, bad := range []struct {
		port, host string
	}{{"80/icmp", ""}, {"0/tcp", ""}, {"80/tcp", "x"}, {"80/tcp", "9-8"}, {"80/tcp", "0-5"}, {"80/tcp", "70000"}, {"80/tcp", "1-2-3"}} {
		_, _, err := m.Attach(ctx, Request{Container: "d", Ports: network.PortMap{port(bad.port): {{HostPort: bad.host}}}})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// Who holds a port is found whatever addresses the two ask for.
func TestPortConflicts(t *testing.T) {
	type p struct{ proto, addr string }
	tests := []struct {
		first, second p
		conflict      bool
	}{
		{p{"sctp", "0.0.0.0"}, p{"sctp", "0.0.0.0"}, true},
		{p{"sctp", "0.0.0.0"}, p{"sctp", "127.0.0.1"}, true},
		{p{"sctp", "127.0.0.1"}, p{"sctp", "0.0.0.0"}, true},
		{p{"sctp", "127.0.0.1"}, p{"sctp", "127.0.0.2"}, false},
		{p{"sctp", "0.0.0.0"}, p{"sctp", "::"}, false},
		{p{"sctp", "::"}, p{"sctp", "::1"}, true},
		{p{"sctp", "0.0.0.0"}, p{"tcp", "127.0.0.1"}, false},
	}
	for _, tt := range tests {
		table := newPortTable([2]uint16{})
		bound := func(x p, owner string) *boundPort {
			return &boundPort{portKey: portKey{x.proto, netip.MustParseAddr(x.addr), 42123}, owner: owner}
		}
		first := bound(tt.first, "one")
		if err := table.bind(first); err != nil {
			t.Fatal(err)
		}
		second := bound(tt.second, "two")
		err := table.bind(second)
		if errdefs.IsConflict(err) != tt.conflict || (tt.conflict && !strings.Contains(err.Error(), "by container one")) {
			t.Errorf("%v then %v: %v", tt.first, tt.second, err)
		}
		if tt.conflict {
			table.release(first)
			if err := table.bind(second); err != nil {
				t.Errorf("%v after %v was released: %v", tt.second, tt.first, err)
			}
		}
		table.close()
		if len(table.held)+len(table.count) > 0 {
			t.Errorf("left: %v %v", table.held, table.count)
		}
	}
}

func TestRestoreAdopts(t *testing.T) {
	ctx := context.Background()
	d := newFakeDriver()
	dir := t.TempDir()
	start := func() *Manager { return newTestManager(t, d, func(c *Config) { c.DataDir = dir }) }
	m := start()
	var live []*Attachment
	for i := range 3 {
		a, _, err := m.Attach(ctx, Request{Container: fmt.Sprint(i), Ports: network.PortMap{port("80/sctp"): {{}}}})
		if err != nil {
			t.Fatal(err)
		}
		live = append(live, a)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	// The host took what was free: the subnet is ours nevertheless.
	m = start()
	if m.networks[0].IPv4 != netip.MustParsePrefix("172.17.0.1/16") {
		t.Errorf("the subnet is now %s", m.networks[0].IPv4)
	}
	if err := m.Restore(ctx, append(live[:2:2], nil, &Attachment{Container: "h", Mode: "host"}), nil); err != nil {
		t.Fatal(err)
	}
	if len(d.forwards) != 4 || !slices.Contains(d.synced.Links, live[0].Endpoints[0].HostLink) || len(d.synced.Links) != 2 {
		t.Errorf("restored: %v, %v", d.forwards, d.synced.Links)
	}
	if _, _, err := m.Attach(ctx, Request{Container: "0"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a restored container again: %v", err)
	}
	if a, _, err := m.Attach(ctx, Request{Container: "n"}); err != nil || a.Endpoints[0].IPv4 == live[0].Endpoints[0].IPv4 || a.Endpoints[0].IPv4 == live[1].Endpoints[0].IPv4 {
		t.Errorf("a new container: %v, %v", a, err)
	}
	for _, a := range live {
		if err := m.Release(ctx, a); err != nil {
			t.Error(err)
		}
	}
	if len(d.forwards)+len(m.ports.held) > 0 {
		t.Errorf("left: %v %v", d.forwards, m.ports.held)
	}
}

func TestBridgeSubnet(t *testing.T) {
	dir := t.TempDir()
	d := newFakeDriver()
	with := func(c *Config) { c.DataDir = dir }
	if m := newTestManager(t, d, with); m.Networks()[0].IPv4.String() != "172.17.0.1/16" || !m.Networks()[0].IPv6.Addr().IsPrivate() {
		t.Errorf("first: %+v", m.Networks()[0])
	}
	d.used = []netip.Prefix{netip.MustParsePrefix("172.17.3.0/24")}
	if m := newTestManager(t, d, with); m.Networks()[0].IPv4.String() != "172.18.0.1/16" {
		t.Errorf("with the host in the way: %+v", m.Networks()[0])
	}
	d.used = nil
	if m := newTestManager(t, d, with); m.Networks()[0].IPv4.String() != "172.18.0.1/16" {
		t.Errorf("remembered: %+v", m.Networks()[0])
	}
	if m := newTestManager(t, d, func(c *Config) { with(c); c.BIP = netip.MustParsePrefix("10.9.8.7/24") }); m.Networks()[0].IPv4.String() != "10.9.8.7/24" {
		t.Errorf("as asked: %+v", m.Networks()[0])
	}
	d.facts.IPv6 = false
	if m := newTestManager(t, d, with); m.Networks()[0].IPv6.IsValid() {
		t.Errorf("a host without IPv6: %+v", m.Networks()[0])
	}
	if err := os.WriteFile(filepath.Join(dir, savedName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewManager(Config{HostID: "test", DataDir: dir}, d); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged: %v", err)
	}
}

// A host on which no bridge can be made still runs containers without one.
func TestWithoutBridge(t *testing.T) {
	for _, verb := range []string{"Used", "Lock", "EnsureBridge"} {
		d := newFakeDriver()
		d.fail[verb] = errdefs.ErrPermissionDenied
		m := newTestManager(t, d, func(c *Config) {
			if verb == "EnsureBridge" {
				c.BIP = netip.MustParsePrefix("10.0.0.1/24")
			}
		})
		if _, _, err := m.Attach(context.Background(), Request{Container: "a"}); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: %v", verb, err)
		}
		if _, _, err := m.Attach(context.Background(), Request{Container: "a", Mode: "none"}); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
		if w := m.Warnings(); len(w) != 1 || !strings.Contains(w[0], "default bridge") {
			t.Errorf("%s: warnings %q", verb, w)
		}
	}
}

// The spare namespaces are used, bounded, and gone in the end.
func TestSpares(t *testing.T) {
	ctx := context.Background()
	d := newFakeDriver()
	m := newTestManager(t, d, func(c *Config) { c.Spares = 2; c.BIP = netip.MustParsePrefix("10.0.0.1/29") })
	attach := func(id, mode string) *Attachment {
		t.Helper()
		a, ns, err := m.Attach(ctx, Request{Container: id, Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		_ = ns.Close()
		return a
	}
	fill := func() {
		m.spares.mu.Lock()
		m.spares.pending = true
		m.spares.mu.Unlock()
		m.spares.fill()
	}
	first := attach("1", "bridge")
	attach("n", "none")
	fill()
	if d.open != 4 || len(m.state().Links) != 3 {
		t.Fatalf("%d namespaces are held, links %v", d.open, m.state().Links)
	}
	opened := d.opened
	if second := attach("2", "bridge"); second.Endpoints[0].IPv4 == first.Endpoints[0].IPv4 || second.Endpoints[0].HostLink == "" {
		t.Errorf("a spare one: %+v", second)
	}
	attach("m", "none")
	if d.opened != opened {
		t.Error("the spare namespaces were not used")
	}
	fill()
	d.remade = true // they are cut off now
	attach("3", "bridge")
	if d.opened == opened+2 {
		t.Error("a spare namespace on a bridge that is gone was used")
	}
	d.remade = false
	// The subnet has 5 addresses for containers; spares do not count.
	attach("4", "bridge")
	fill()
	attach("5", "bridge")
	if _, _, err := m.Attach(ctx, Request{Container: "6"}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a full subnet: %v", err)
	}
	if err := m.Close(); err != nil || d.open != 0 {
		t.Errorf("%d namespaces are held in the end, %v", d.open, err)
	}
	if err := m.Release(ctx, first); err != nil {
		t.Error(err)
	}
	attach("7", "bridge") // a start that the engine's end overtook
}

func TestConfig(t *testing.T) {
	good := func() Config { return Config{HostID: "abc123"} }
	for name, change := range map[string]func(*Config){
		"host id":       func(c *Config) { c.HostID = "A/b" },
		"bridge name":   func(c *Config) { c.BridgeName = "a-name-too-long-for-it" },
		"bip":           func(c *Config) { c.BIP = netip.MustParsePrefix("10.0.0.0/24") },
		"bip broadcast": func(c *Config) { c.BIP = netip.MustParsePrefix("10.0.0.255/24") },
		"bip v6":        func(c *Config) { c.BIP = netip.MustParsePrefix("fd00::1/64") },
		"bip tiny":      func(c *Config) { c.BIP = netip.MustParsePrefix("10.0.0.1/31") },
		"mtu":           func(c *Config) { c.MTU = 3 },
		"firewall":      func(c *Config) { c.Firewall = "x" },
		"pool":          func(c *Config) { c.Pools = []AddressPool{{Base: netip.MustParsePrefix("10.0.0.0/16"), Size: 8}} },
	} {
		c := good()
		change(&c)
		if err := c.fill(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := good()
	if err := c.fill(); err != nil || c.BridgeName != "csabc123" {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	if p, err := ParseAddressPool("base=10.10.0.0/16,size=24"); err != nil || p.Size != 24 || p.Base.String() != "10.10.0.0/16" {
		t.Errorf("pool: %v, %v", p, err)
	}
	for _, bad := range []string{"", "base=10.0.0.0/8", "base=10.0.0.0/8,size=4", "base=x,size=24", "base=10.0.0.0/8,size=24,color=red", "size=24", "base=10.0.0.0/8,size=31"} {
		if _, err := ParseAddressPool(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("pool %q: %v", bad, err)
		}
	}
}
