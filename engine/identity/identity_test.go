package identity

import (
	"context"
	"slices"
	"strings"
	"testing"
)

func TestDir(t *testing.T) {
	for _, s := range []string{"web", "uid:1000", "cert:CN with, all: of/it=\\;", "a.b-c_d", "cert:ü", "cert:.."} {
		d := Dir(s)
		if strings.Trim(d, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+._-~") != "" || d == "" {
			t.Errorf("%q: %q", s, d)
		}
		if back, ok := ScopeOf(d); !ok || back != s {
			t.Errorf("%q: %q back: %q %v", s, d, back, ok)
		}
	}
	for _, s := range []string{"", ".", "..", strings.Repeat("x", 121), "cert:" + strings.Repeat(":", 60)} {
		if d := Dir(s); d != "" {
			t.Errorf("%q: %q", s, d)
		}
	}
	for _, d := range []string{"%", "a b", "%61", "..", ""} {
		if s, ok := ScopeOf(d); ok {
			t.Errorf("%q is %q", d, s)
		}
	}
}

func TestSees(t *testing.T) {
	admin, a := Identity{Tenant: "uid:0", Admin: true}, Identity{Tenant: "a"}
	for _, c := range []struct {
		id    Identity
		scope string
		want  bool
	}{{admin, "", true}, {admin, "a", true}, {a, "a", true}, {a, "b", false}, {a, "", false}, {Identity{}, "", false}, {Engine, "a", true}, {Anonymous, "", false}} {
		if c.id.Sees(c.scope) != c.want {
			t.Errorf("%+v %q", c.id, c.scope)
		}
	}
	if admin.Scope() != "" || a.Scope() != "a" {
		t.Error(admin.Scope(), a.Scope())
	}
	if From(context.Background()).Tenant != "engine" || From(With(context.Background(), a)).Tenant != "a" {
		t.Error("the context's identity")
	}
}

func TestParse(t *testing.T) {
	for s, want := range map[string]Identity{
		"uid:5": FromPeer(5, -1, 0), "uid:5:6": FromPeer(5, 6, 0), "uid:5:6,7,8": FromPeer(5, 6, 0, 7, 8), "anonymous": Anonymous, "cert:x:y": FromCert("x:y", "CN=x:y"),
	} {
		got, ok := Parse(s)
		if !ok || got.Name() != want.Name() || got.GID != want.GID || !slices.Equal(got.Groups, want.Groups) || got.Common != want.Common || got.Admin {
			t.Errorf("%s: %+v %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "uid:", "uid:-1", "uid:x", "uid:5:", "uid:5:-1", "cert:", "engine", "root"} {
		if got, ok := Parse(s); ok {
			t.Errorf("%s: %+v", s, got)
		}
	}
}
