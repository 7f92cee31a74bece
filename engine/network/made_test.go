package network

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// makeNetwork makes one and fails the test unless that works.
func makeNetwork(t *testing.T, m *Manager, r CreateRequest) Network {
	t.Helper()
	n, err := m.Create(context.Background(), r, func(Network) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ipam(configs ...network.IPAMConfig) *network.IPAM { return &network.IPAM{Config: configs} }

func subnet(s string) network.IPAMConfig { return network.IPAMConfig{Subnet: netip.MustParsePrefix(s)} }

func TestCreateNetwork(t *testing.T) {
	d := newFakeDriver()
	d.used = []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("192.168.7.0/24")}
	m := newTestManager(t, d, nil)
	yes := true
	n := makeNetwork(t, m, CreateRequest{Name: "first", IPv6: &yes, Labels: map[string]string{"a": "b"}})
	if n.Driver != "bridge" || n.IPv4 != netip.MustParsePrefix("172.19.0.1/16") || n.IPv6.Bits() != 64 || n.Interface != "cstestn1" || d.bridges["cstestn1"].Internal {
		t.Errorf("%+v", n)
	}
	internal := makeNetwork(t, m, CreateRequest{Name: "inside", Internal: true, Options: map[string]string{optMTU: "1400", optMasquerade: "false"}})
	if b := d.bridges[internal.Interface]; !b.Internal || b.MTU != 1400 || !b.NoMasquerade || b.IPv4 == n.IPv4 {
		t.Errorf("%+v", b)
	}
	makeNetwork(t, m, CreateRequest{Name: "first", Tenant: "other"}) // names are a tenant's own

	is := func(kinds ...func(error) bool) []func(error) bool { return kinds }
	for what, tt := range map[string]struct {
		r    CreateRequest
		kind []func(error) bool
	}{
		"the same name":             {CreateRequest{Name: "first"}, is(errdefs.IsConflict)},
		"a predefined name":         {CreateRequest{Name: "bridge"}, is(errdefs.IsPermissionDenied, ByState)},
		"a bad name":                {CreateRequest{Name: "a/b"}, is(errdefs.IsInvalidArgument)},
		"an unknown driver":         {CreateRequest{Name: "x", Driver: "overlay"}, is(errdefs.IsNotFound)},
		"a second host":             {CreateRequest{Name: "x", Driver: "host"}, is(errdefs.IsPermissionDenied)},
		"a used subnet":             {CreateRequest{Name: "x", IPAM: ipam(subnet("172.19.4.0/24"))}, is(errdefs.IsPermissionDenied, ByState)},
		"two of a family":           {CreateRequest{Name: "x", IPAM: ipam(subnet("10.1.0.0/16"), subnet("10.2.0.0/16"))}, is(errdefs.IsInvalidArgument)},
		"a subnet of one address":   {CreateRequest{Name: "x", IPAM: ipam(subnet("10.1.0.0/32"))}, is(errdefs.IsInvalidArgument)},
		"a gateway elsewhere":       {CreateRequest{Name: "x", IPAM: ipam(network.IPAMConfig{Subnet: netip.MustParsePrefix("10.1.0.0/16"), Gateway: netip.MustParseAddr("10.2.0.1")})}, is(errdefs.IsInvalidArgument)},
		"a range elsewhere":         {CreateRequest{Name: "x", IPAM: ipam(network.IPAMConfig{Subnet: netip.MustParsePrefix("10.1.0.0/16"), IPRange: netip.MustParsePrefix("10.0.0.0/8")})}, is(errdefs.IsInvalidArgument)},
		"no family":                 {CreateRequest{Name: "x", IPv4: new(bool)}, is(errdefs.IsInvalidArgument)},
		"an option's value":         {CreateRequest{Name: "x", Options: map[string]string{optICC: "perhaps"}}, is(errdefs.IsInvalidArgument)},
		"another's bridge":          {CreateRequest{Name: "x", Options: map[string]string{optBridgeName: "cstestn1"}}, is(errdefs.IsConflict)},
		"a tenant's macvlan":        {CreateRequest{Name: "x", Tenant: "t", Driver: "macvlan"}, is(errdefs.IsPermissionDenied)},
		"a tenant's interface name": {CreateRequest{Name: "x", Tenant: "t", Options: map[string]string{optBridgeName: "eth7"}}, is(errdefs.IsPermissionDenied)},
		"the host's own subnet":     {CreateRequest{Name: "x", Tenant: "t", IPAM: ipam(subnet("192.168.0.0/16"))}, is(errdefs.IsPermissionDenied)},
	} {
		noted := false
		_, err := m.Create(context.Background(), tt.r, func(Network) error { noted = true; return nil })
		for _, kind := range tt.kind {
			if err == nil || !kind(err) || noted {
				t.Errorf("%s: %v (noted: %v)", what, err, noted)
			}
		}
	}
	if _, err := m.Create(context.Background(), CreateRequest{Name: "lan", IPAM: ipam(subnet("192.168.0.0/16"))}, func(Network) error { return nil }); err != nil {
		t.Errorf("the host's owner may overlap the host's subnets: %v", err)
	}
}

// What is stored is what an engine that starts again has.
func TestNetworkSurvives(t *testing.T) {
	m := newTestManager(t, newFakeDriver(), nil)
	n := makeNetwork(t, m, CreateRequest{Name: "kept", IPAM: ipam(network.IPAMConfig{
		Subnet: netip.MustParsePrefix("10.9.0.0/24"), IPRange: netip.MustParsePrefix("10.9.0.64/30"),
		AuxAddress: map[string]netip.Addr{"router": netip.MustParseAddr("10.9.0.65")},
	})})
	d := newFakeDriver()
	again, err := NewManager(Config{HostID: "test", Spares: -1}, d)
	if err != nil {
		t.Fatal(err)
	}
	again.Load(n)
	if err := again.Restore(context.Background(), nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.bridges[n.Interface]; !ok || len(d.synced.Bridges) != 2 {
		t.Errorf("%+v", d.synced.Bridges)
	}
	var got []string
	for i := range 3 {
		a, _, err := again.Attach(context.Background(), Request{Container: string(rune('a' + i)), Mode: "kept"})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.Endpoints[0].IPv4.Addr().String())
	}
	if want := []string{"10.9.0.64", "10.9.0.66", "10.9.0.67"}; !slices.Equal(got, want) {
		t.Errorf("addresses of the range: %q", got)
	}
	if _, _, err := again.Attach(context.Background(), Request{Container: "full", Mode: "kept"}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a full range: %v", err)
	}
}

func TestRemoveNetwork(t *testing.T) {
	d := newFakeDriver()
	m := newTestManager(t, d, nil)
	n := makeNetwork(t, m, CreateRequest{Name: "n"})
	ctx := context.Background()
	a, _, err := m.Attach(ctx, Request{Container: "c", Name: "c", Mode: "n"})
	if err != nil {
		t.Fatal(err)
	}
	never := func() error { t.Error("forgotten"); return nil }
	if err := m.Remove(ctx, n.ID, never); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "has active endpoints") {
		t.Errorf("in use: %v", err)
	}
	if err := m.Remove(ctx, m.Networks()[0].ID, never); !errdefs.IsPermissionDenied(err) {
		t.Errorf("the default bridge: %v", err)
	}
	if err := m.Release(ctx, a); err != nil {
		t.Fatal(err)
	}
	gone := false
	if err := m.Remove(ctx, n.ID, func() error { gone = true; return nil }); err != nil || !gone {
		t.Errorf("%v", err)
	}
	if _, ok := d.bridges[n.Interface]; ok {
		t.Error("its bridge is still there")
	}
	if err := m.Remove(ctx, n.ID, never); !errdefs.IsNotFound(err) {
		t.Errorf("twice: %v", err)
	}
}

// Several networks: which is first, and by which packets leave.
func TestSeveralNetworks(t *testing.T) {
	d := newFakeDriver()
	m := newTestManager(t, d, nil)
	yes := true
	makeNetwork(t, m, CreateRequest{Name: "alpha"})
	makeNetwork(t, m, CreateRequest{Name: "beta", IPv6: &yes})
	makeNetwork(t, m, CreateRequest{Name: "closed", Internal: true})
	ctx := context.Background()
	for _, tt := range []struct {
		endpoints map[string]*network.EndpointSettings
		order     string
		out4      string // by which network IPv4 leaves
		out6      string
	}{
		{map[string]*network.EndpointSettings{"beta": {}, "alpha": {}, "closed": {}}, "beta alpha closed", "alpha", "beta"},
		{map[string]*network.EndpointSettings{"beta": {GwPriority: 1}, "alpha": {}}, "beta alpha", "beta", "beta"},
		{map[string]*network.EndpointSettings{"closed": {}, "beta": nil}, "beta closed", "beta", "beta"},
		{nil, "beta", "beta", "beta"},
	} {
		a, _, err := m.Attach(ctx, Request{Container: "c", Name: "c", Mode: "beta", Endpoints: tt.endpoints})
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		var out4, out6 string
		for i, l := range d.links {
			order = append(order, a.Endpoints[i].Network)
			if l.Gateway4.IsValid() {
				out4 += a.Endpoints[i].Network
			}
			if l.Gateway6.IsValid() {
				out6 += a.Endpoints[i].Network
			}
		}
		if got := strings.Join(order, " "); got != tt.order || out4 != tt.out4 || out6 != tt.out6 || d.links[0].Name != "eth0" {
			t.Errorf("%v: %s, out by %s and %s", tt.endpoints, got, out4, out6)
		}
		if h := d.served["c"]; len(h.Places) != len(order) || h.Sealed || !slices.Contains(h.Places[0].Names, "c") {
			t.Errorf("names: %+v", h)
		}
		if err := m.Release(ctx, a); err != nil {
			t.Fatal(err)
		}
		if len(d.served) != 0 {
			t.Error("names are still served")
		}
	}
	a, _, err := m.Attach(ctx, Request{Container: "s", Mode: "closed"})
	if err != nil {
		t.Fatal(err)
	}
	if h := d.served["s"]; !h.Sealed {
		t.Errorf("on an internal network alone: %+v", h)
	}
	_ = m.Release(ctx, a)
}

func TestConnectWhileRunning(t *testing.T) {
	d := newFakeDriver()
	m := newTestManager(t, d, nil)
	where := "/proc/1/ns/net"
	if err := m.Restore(context.Background(), nil, func(string) string { return where }); err != nil {
		t.Fatal(err)
	}
	n := makeNetwork(t, m, CreateRequest{Name: "alpha"})
	bridge := m.Networks()[0].ID
	ctx := context.Background()
	r := Request{Container: "c", Name: "c", Ports: network.PortMap{port("80/tcp"): {{HostPort: "42001"}}}}
	if _, _, err := m.Attach(ctx, r); err != nil {
		t.Fatal(err)
	}
	r.Endpoints = map[string]*network.EndpointSettings{"bridge": {}, "alpha": {Aliases: []string{"x"}, GwPriority: 5}}
	a, err := m.Connect(ctx, r, n.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Endpoints) != 2 || a.Endpoints[1].Interface != "eth1" || d.plugged[0].Gateway4.IsValid() || d.via[0].Interface != "eth1" {
		t.Errorf("%+v %+v", a.Endpoints, d.via)
	}
	target := func() netip.Addr {
		for f := range d.forwards {
			if f.HostIP.Is4() {
				return f.Target.Addr()
			}
		}
		return netip.Addr{}
	}
	if target() != a.Endpoints[1].IPv4.Addr() {
		t.Errorf("the port leads to %s", target())
	}
	if names := d.served["c"].Places[0].Names; !slices.Contains(names, "x") {
		t.Errorf("names: %q", names)
	}
	if _, err := m.Connect(ctx, r, n.ID); !errdefs.IsPermissionDenied(err) {
		t.Errorf("twice: %v", err)
	}
	if err := m.Remove(ctx, n.ID, nil); !errdefs.IsPermissionDenied(err) {
		t.Errorf("removed: %v", err)
	}
	if a, err = m.Disconnect(ctx, "c", n.ID); err != nil || len(a.Endpoints) != 1 || d.via[0].Interface != "eth0" || len(d.plugged) != 0 {
		t.Errorf("%+v %v %+v", a, err, d.via)
	}
	if target() != a.Endpoints[0].IPv4.Addr() {
		t.Errorf("the port leads to %s", target())
	}
	if _, err := m.Disconnect(ctx, "c", n.ID); !errdefs.IsNotFound(err) {
		t.Errorf("twice: %v", err)
	}
	if _, err := m.Connect(ctx, r, bridge); !errdefs.IsPermissionDenied(err) {
		t.Errorf("where it is: %v", err)
	}
	// What fails changes nothing.
	d.fail["Plug"] = errdefs.ErrUnavailable
	if _, err := m.Connect(ctx, r, n.ID); !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
	delete(d.fail, "Plug")
	where = ""
	if _, err := m.Connect(ctx, r, n.ID); !errdefs.IsNotImplemented(err) {
		t.Errorf("where the host cannot reach: %v", err)
	}
	if err := m.Remove(ctx, n.ID, func() error { return nil }); err != nil {
		t.Errorf("after failed connections: %v", err)
	}
	if err := m.Release(ctx, a); err != nil || len(d.forwards) != 0 {
		t.Errorf("%v %v", err, d.forwards)
	}
}

func TestStaticAddresses(t *testing.T) {
	m := newTestManager(t, newFakeDriver(), nil)
	makeNetwork(t, m, CreateRequest{Name: "static", IPAM: ipam(subnet("10.9.0.0/24"))})
	makeNetwork(t, m, CreateRequest{Name: "auto"})
	ctx := context.Background()
	at := func(container, mode, ip string) error {
		s := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(ip)}}
		_, _, err := m.Attach(ctx, Request{Container: container, Mode: mode, Endpoints: map[string]*network.EndpointSettings{mode: s}})
		return err
	}
	if err := at("a", "static", "10.9.0.200"); err != nil {
		t.Error(err)
	}
	if err := at("b", "static", "10.9.0.200"); !errdefs.IsConflict(err) {
		t.Errorf("taken: %v", err)
	}
	for _, x := range [][2]string{{"static", "10.8.0.1"}, {"auto", "172.18.0.9"}, {"bridge", "172.17.0.9"}} {
		if err := at("c", x[0], x[1]); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", x, err)
		}
	}
}

// A client's server that only the host could reach is not asked in its place.
func TestServersOfContainers(t *testing.T) {
	d := newFakeDriver()
	m := newTestManager(t, d, nil)
	makeNetwork(t, m, CreateRequest{Name: "own", IPAM: ipam(subnet("10.9.0.0/24"))})
	makeNetwork(t, m, CreateRequest{Name: "others", IPAM: ipam(subnet("10.8.0.0/24"))})
	var servers []netip.Addr
	for _, s := range []string{"10.9.0.77", "10.8.0.77", "127.0.0.1", "192.0.2.53"} {
		servers = append(servers, netip.MustParseAddr(s))
	}
	a, _, err := m.Attach(context.Background(), Request{Container: "c", Mode: "own", DNS: servers, DNSOptions: []string{"ndots:2"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range d.served["c"].Servers {
		got = append(got, s.String())
	}
	if want := []string{"10.9.0.77:53", "192.0.2.53:53"}; !slices.Equal(got, want) || !d.served["c"].Ndots {
		t.Errorf("%q", got)
	}
	conf := string(m.resolvConf(Request{DNSOptions: []string{"ndots:2"}, DNSSearch: []string{"example.com"}}, a))
	if conf != "nameserver 127.0.0.11\nsearch example.com\noptions ndots:2\n" {
		t.Errorf("%q", conf)
	}
}
