package policy

import (
	"os"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/engine/identity"
)

// The example that explains every key is a policy, and knows every option.
func TestTheExampleFile(t *testing.T) {
	b, err := os.ReadFile("../../packaging/policy.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := parse(t, string(b))
	if w := p.Warnings(); len(w) > 0 {
		t.Error(w)
	}
	for _, name := range OptionNames() {
		if !strings.Contains(string(b), name) {
			t.Errorf("option %s is not explained", name)
		}
	}
	ci := identity.FromCert("ci-7", "")
	in := Input{Names: []string{"registry.example.com/ci/x:1"}, Asks: []Ask{{"host_paths", "/srv/cache"}}}
	if d, err := p.decide(ci, in); err != nil || d.Rule != "trusted builds" {
		t.Errorf("%+v %v", d, err)
	}
	in.Names = nil
	if _, err := p.decide(ci, in); RuleOf(err) != "nobody mounts the socket's directory" {
		t.Error(err)
	}
	if d, err := p.decide(uid7, Input{}); err != nil || d.Set.Memory != 512<<20 || d.Set.CPUs != 2 {
		t.Errorf("%+v %v", d, err)
	}
}
