package vm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

func ptr[T any](v T) *T { return &v }

// base is a container that a machine can take.
func base() *specs.Spec {
	return &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}}, Resources: &specs.LinuxResources{}},
	}
}

func planOf(t *testing.T, s *specs.Spec, stateDir string) (*plan, error) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	n := uint32(0)
	return newPlan(&backendpb.Container{Id: "c", Spec: b, StateDir: stateDir}, false, func() uint32 { n++; return n })
}

// What names something of this host is carried over or refused, never left out.
func TestPlanRefuses(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"what is not there": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such", Options: []string{"rbind", "ro"}})
		},
		"device of the host": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/dev/null", Options: []string{"rbind"}})
		},
		"mounts that spread": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/usr", Options: []string{"rbind", "rslave"}})
		},
		"device": func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}}
		},
		"network of the host": func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] },
		"another's namespace": func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
		"users": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"hooks": func(s *specs.Spec) { s.Hooks = &specs.Hooks{} },
	} {
		s := base()
		change(s)
		if _, err := planOf(t, s, t.TempDir()); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlan(t *testing.T) {
	dir := t.TempDir()
	hosts := filepath.Join(dir, "hosts")
	if err := os.WriteFile(hosts, []byte("names\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(t.TempDir(), "_data")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	s := base()
	s.Mounts = []specs.Mount{
		{Destination: "/etc/hosts", Type: "bind", Source: hosts, Options: []string{"rbind"}},
		{Destination: "/data", Type: "bind", Source: volume, Options: []string{"rbind", "x-caisson.copyup"}},
		{Destination: "/again", Type: "bind", Source: volume, Options: []string{"rbind"}},
		{Destination: "/conf", Type: "bind", Source: "/etc/passwd", Options: []string{"bind", "ro"}},
	}
	s.Linux.Resources = &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(300 << 20))},
		CPU:     &specs.LinuxCPU{Quota: ptr(int64(150_000)), Period: ptr(uint64(100_000)), Cpus: "7"},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(300))},
	}
	p, err := planOf(t, s, dir)
	if err != nil {
		t.Fatal(err)
	}
	if p.memory != 300<<20 || p.cpus != 2 || p.spec.Linux.Resources.CPU.Cpus != "" {
		t.Errorf("%d bytes, %d processors, pinned to %q", p.memory, p.cpus, p.spec.Linux.Resources.CPU.Cpus)
	}
	if p.host == nil || p.host.CPU.Cpus != "7" || *p.host.BlockIO.Weight != 300 {
		t.Errorf("the host is to keep %+v", p.host)
	}
	if len(p.prepare.GetFiles()) != 1 || string(p.prepare.GetFiles()[0].GetData()) != "names\n" {
		t.Errorf("files: %v", p.prepare.GetFiles())
	}
	if want := []shared{{ID: 1, Source: volume, Recursive: true}, {ID: 2, Source: "/etc/passwd", File: true, ReadOnly: true}}; !slices.Equal(p.shares.list, want) {
		t.Errorf("shares: %v, want %v", p.shares.list, want)
	}
	for _, m := range p.spec.Mounts {
		if strings.HasPrefix(m.Source, dir) || m.Source == volume {
			t.Errorf("the guest is told of %s", m.Source)
		}
	}
	if slices.ContainsFunc(p.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }) {
		t.Error("the container does not have its machine's network")
	}
}

func TestOptions(t *testing.T) {
	t.Setenv(EnvMemory, "1g")
	t.Setenv(EnvPool, "3")
	o, err := FromEnvironment()
	if err != nil || o.Memory != 1<<30 || o.Pool != 3 || o.CPUs != 1 {
		t.Errorf("%+v %v", o, err)
	}
	t.Setenv(EnvMemory, "1m")
	if _, err := FromEnvironment(); err == nil {
		t.Error("a machine of 1 MiB")
	}
}
