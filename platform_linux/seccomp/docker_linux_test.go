package seccomp

import (
	"testing"

	docker "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func dockerProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	s := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}, Linux: &specs.Linux{}}
	p, err := docker.GetDefaultProfile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// expected is the profile read naively, rule by rule.
func expected(s *specs.LinuxSeccomp, name string, args []uint64) bool {
	allowed := false
	for _, r := range s.Syscalls {
		for _, n := range r.Names {
			if n != name {
				continue
			}
			hit := len(r.Args) == 0
			for _, a := range r.Args {
				v := args[a.Index]
				switch a.Op {
				case specs.OpEqualTo:
					hit = hit || v == a.Value
				case specs.OpNotEqual:
					hit = hit || v != a.Value
				case specs.OpMaskedEqual:
					hit = hit || v&a.Value == a.ValueTwo
				case specs.OpLessThan:
					hit = hit || v < a.Value
				case specs.OpGreaterThan:
					hit = hit || v > a.Value
				}
			}
			if hit && r.Action == specs.ActAllow {
				allowed = true
			}
		}
	}
	return allowed
}

func TestDockerProfile(t *testing.T) {
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"}} {
		s := dockerProfile(t, caps...)
		m := load(t, s)
		f, err := Compile(s, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d instructions", len(f.Program)/8)
		for i := range archs {
			a := &archs[i]
			if a.audit != auditX8664 && a.audit != auditX86 {
				continue
			}
			for name, n := range a.numbers() {
				for _, first := range []uint64{0, 1, 8, 16, 38, 39, 40, 41, 0x20000, 0x7e020000, 0xffffffff} {
					args := []uint64{first, 0, 0, 0, 0, 0}
					got := m.call(a.audit, a.bit|n, args...)
					if want := expected(s, name, args); (got == retAllow) != want {
						t.Errorf("%s %s(%#x): %#x, allowed should be %v", a.name, name, first, got, want)
					}
				}
			}
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	s := dockerProfile(b)
	for b.Loop() {
		if _, err := Compile(s, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
