package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

func names(list []Network) string {
	var out []string
	for _, n := range list {
		out = append(out, n.Name+"@"+n.Tenant)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Each tenant has a bridge of its own in place of the owner's, from the first
// container on, and keeps it.
func TestTenantBridges(t *testing.T) {
	d, dir := newFakeDriver(), t.TempDir()
	with := func(c *Config) { c.DataDir = dir }
	m := newTestManager(t, d, with)
	ctx := context.Background()
	if got := names(m.NetworksFor("a")); got != "bridge@a host@ none@" || len(d.added) != 0 {
		t.Errorf("before: %s %v", got, d.added)
	}
	promised := m.NetworksFor("a")[0].ID
	var wg sync.WaitGroup
	got := make([]*Attachment, 40)
	for i := range got {
		wg.Go(func() {
			tenant := []string{"", "a", "b", "c"}[i%4]
			a, ns, err := m.Attach(ctx, Request{Container: fmt.Sprint("c", i), Tenant: tenant, Name: "x"})
			if err != nil {
				t.Error(err)
				return
			}
			_ = ns.Close()
			got[i] = a
		})
	}
	wg.Wait()
	if len(d.added) != 3 || len(d.bridges) != 4 {
		t.Errorf("bridges %v, of them added %v", d.bridges, d.added)
	}
	for i, a := range got {
		for j, b := range got[:i] {
			if same := i%4 == j%4; same != (a.Endpoints[0].NetworkID == b.Endpoints[0].NetworkID) ||
				same != (a.Endpoints[0].IPv4.Masked() == b.Endpoints[0].IPv4.Masked()) ||
				same != (a.Endpoints[0].IPv6.Masked() == b.Endpoints[0].IPv6.Masked()) ||
				!same && a.Endpoints[0].IPv4.Overlaps(b.Endpoints[0].IPv4) {
				t.Fatalf("%+v beside %+v", a.Endpoints, b.Endpoints)
			}
		}
	}
	if got[1].Endpoints[0].NetworkID != promised {
		t.Error("the network's id is another than was shown")
	}
	if got := names(m.NetworksFor("a")); got != "bridge@a host@ none@" {
		t.Error(got)
	}
	if got := names(m.NetworksFor("")); got != "bridge@ bridge@a bridge@b bridge@c host@ none@" {
		t.Error(got)
	}
	for i, n := range d.bridges {
		if len(n.Name) > 15 {
			t.Errorf("%s: %s is too long for an interface", i, n.Name)
		}
	}
	// Another's network has no name for a tenant.
	if _, _, err := m.Attach(ctx, Request{Container: "thief", Tenant: "a", Mode: got[2].Endpoints[0].NetworkID}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, _, err := m.Attach(ctx, Request{Container: "thief", Tenant: "a", Mode: got[0].Endpoints[0].NetworkID}); !errdefs.IsNotFound(err) {
		t.Errorf("the owner's bridge: %v", err)
	}
	_ = m.Close()

	// After a restart they are as before, and one that cannot be made spoils
	// its own tenant's containers only.
	m, err := NewManager(Config{HostID: "test", DataDir: dir, Spares: -1, Log: slog.New(slog.DiscardHandler)}, d)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	bad := errors.New("no such luck")
	d.failBridge = map[string]error{m.networks[slices.IndexFunc(m.networks, func(n *subnetwork) bool { return n.Tenant == "b" })].Interface: bad}
	if err := m.Restore(ctx, got, nil); err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[string]error{"": nil, "a": nil, "b": bad, "c": nil} {
		a, ns, err := m.Attach(ctx, Request{Container: "again" + tenant, Tenant: tenant})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v", tenant, err)
		}
		if err != nil {
			continue
		}
		_ = ns.Close()
		first := got[map[string]int{"": 0, "a": 1, "c": 3}[tenant]]
		if a.Endpoints[0].IPv4.Masked() != first.Endpoints[0].IPv4.Masked() || slices.ContainsFunc(got, func(o *Attachment) bool { return o.Endpoints[0].IPv4 == a.Endpoints[0].IPv4 }) {
			t.Errorf("%q: %v after, %v before", tenant, a.Endpoints[0].IPv4, first.Endpoints[0].IPv4)
		}
	}
	// One that cannot be made in the first place is an error of that container.
	d.fail["Used"] = bad
	if _, _, err := m.Attach(ctx, Request{Container: "new", Tenant: "new"}); !errors.Is(err, bad) {
		t.Error(err)
	}
	delete(d.fail, "Used")
	if _, ns, err := m.Attach(ctx, Request{Container: "new", Tenant: "new"}); err != nil {
		t.Error(err)
	} else {
		_ = ns.Close()
	}
}
