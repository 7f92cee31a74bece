package store

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/identity"
)

func TestIndexKnowsScopes(t *testing.T) {
	admin := identity.Identity{Tenant: "uid:0", Admin: true}
	a, b := identity.Identity{Tenant: "a"}, identity.Identity{Tenant: "b"}
	x := NewIndex[string]("thing")
	for _, c := range []struct{ scope, id, name string }{
		{"", "0aaa", "web"}, {"a", "1aaa", "web"}, {"b", "1bbb", "web"}, {"a", "2aaa", "db"}, {"b", "3bbb", "only"},
	} {
		if _, err := x.Reserve(c.scope, c.name, c.id); err != nil {
			t.Fatal(err)
		}
		x.Put(c.scope, c.id, c.id)
	}
	if owner, err := x.Reserve("a", "web", "9"); !errdefs.IsAlreadyExists(err) || owner != "1aaa" {
		t.Errorf("a name taken: %s %v", owner, err)
	}
	for _, c := range []struct {
		as        identity.Identity
		ref, want string
		is        func(error) bool
	}{
		{admin, "web", "0aaa", nil}, {a, "web", "1aaa", nil}, {b, "/web", "1bbb", nil},
		{a, "1", "1aaa", nil}, // what another has does not make it ambiguous
		{admin, "1", "", errdefs.IsInvalidArgument},
		{a, "3bbb", "", errdefs.IsNotFound}, {a, "3", "", errdefs.IsNotFound}, {a, "only", "", errdefs.IsNotFound},
		{a, "0aaa", "", errdefs.IsNotFound}, {a, "", "", errdefs.IsNotFound},
		{admin, "only", "3bbb", nil}, {admin, "db", "2aaa", nil},
		{identity.Identity{}, "0aaa", "", errdefs.IsNotFound}, // who is nobody sees nothing
	} {
		got, err := x.Find(c.as, c.ref)
		if c.is == nil && (err != nil || got != c.want) || c.is != nil && !c.is(err) {
			t.Errorf("%s finds %q: %q %v", c.as.Tenant, c.ref, got, err)
		}
	}
	for _, c := range []struct {
		as   identity.Identity
		want int
	}{{admin, 5}, {a, 2}, {b, 2}, {identity.Identity{}, 0}} {
		if got := len(x.Visible(c.as)); got != c.want {
			t.Errorf("%s sees %d, want %d", c.as.Tenant, got, c.want)
		}
	}
	x.Delete("0aaa", "web")
	if _, err := x.Find(admin, "web"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name that two tenants have: %v", err)
	}
	if _, err := x.Reserve("", "web", "4"); err != nil {
		t.Error(err)
	}
}
