package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

// # From a spec for this host to one for a guest
//
// The guest runs the same runtime, so nearly all of a spec means the same there.
// What names something of this host is either carried over (shares, and the small
// files that the engine makes) or refused with a reason: never left out in silence.

// plan is what a container needs of its machine.
type plan struct {
	spec    *specs.Spec // for the guest
	prepare *guestpb.PrepareRequest
	shares  shares
	largest int64 // bytes of the largest writable disk
	memory  int64 // bytes, 0 without a limit
	cpus    int   // 0 without one
	// host is what this host holds the whole machine to; nil if nothing.
	host *specs.LinuxResources
}

// maxFile bounds one file that is carried over, in bytes.
const maxFile = 4 << 20

// annotations of a sandbox that begin so are parameters of its network.
const sysctlPrefix = "caisson.sysctl."

func cutSysctl(key string) (string, bool) {
	name, ok := strings.CutPrefix(key, sysctlPrefix)
	return name, ok && strings.HasPrefix(name, "net.")
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// newPlan translates a container's spec.
func newPlan(r *backendpb.Container, hasNetwork bool, nextShare func() uint32) (*plan, error) {
	s := &specs.Spec{}
	if err := json.Unmarshal(r.GetSpec(), s); err != nil {
		return nil, fmt.Errorf("spec of container %s: %w: %w", r.GetId(), err, errdefs.ErrInvalidArgument)
	}
	if s.Process == nil || s.Root == nil && len(r.GetRootfs()) == 0 {
		return nil, unsupported("spec of container %s: it has no process", r.GetId())
	}
	p := &plan{spec: s, prepare: &guestpb.PrepareRequest{Container: r.GetId(), Image: "vda", Scratch: "vdb"}}
	p.shares = shares{container: r.GetId(), next: nextShare}
	if s.Hooks != nil {
		return nil, unsupported("hooks run on the host and are not possible for a container in a virtual machine")
	}
	s.Process.ApparmorProfile, s.Process.SelinuxLabel = "", "" // the guest's kernel has neither
	if err := p.linux(hasNetwork); err != nil {
		return nil, err
	}
	return p, p.mounts(r)
}

func (p *plan) linux(hasNetwork bool) error {
	l := p.spec.Linux
	if l == nil {
		return unsupported("the spec is none for Linux")
	}
	ownNetwork := false
	l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n specs.LinuxNamespace) bool {
		ownNetwork = ownNetwork || n.Type == specs.NetworkNamespace
		return n.Type == specs.NetworkNamespace // the machine's is the container's
	})
	if !ownNetwork && !hasNetwork {
		return unsupported("a container in a virtual machine cannot have the host's network: use a bridge network, or --network none")
	}
	for _, n := range l.Namespaces {
		switch {
		case n.Path != "":
			return unsupported("a container in a virtual machine cannot join a namespace of another (%s %s)", n.Type, n.Path)
		case n.Type == specs.UserNamespace:
			return unsupported("user namespaces are not possible in a virtual machine, whose users are none of the host's anyway: leave --userns out")
		}
	}
	l.MountLabel, l.CgroupsPath, l.IntelRdt = "", "", nil
	privileged := l.Resources != nil && len(l.Resources.Devices) == 1 && l.Resources.Devices[0].Allow
	if len(l.Devices) > 0 && !privileged {
		return unsupported("devices of the host cannot be given to a virtual machine: leave --device %s out, or run the container at another level", l.Devices[0].Path)
	}
	l.Devices = nil // of a privileged container: the host's. It gets the machine's.
	p.resources(l.Resources)
	return nil
}

// resources keeps what holds inside a machine, and says how large it must be and
// what is for the host to keep: what the machine gets of processors and disks that
// are the host's.
func (p *plan) resources(r *specs.LinuxResources) {
	if r == nil {
		return
	}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		p.memory = *m.Limit
	}
	if c := r.CPU; c != nil {
		if c.Quota != nil && *c.Quota > 0 {
			period := int64(100_000)
			if c.Period != nil && *c.Period > 0 {
				period = int64(*c.Period)
			}
			p.cpus = int((*c.Quota + period - 1) / period)
		}
		if c.Shares != nil || c.Cpus != "" || c.Mems != "" {
			p.host = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: c.Shares, Cpus: c.Cpus, Mems: c.Mems}}
		}
		c.Cpus, c.Mems = "", "" // numbers of the host's
		c.RealtimePeriod, c.RealtimeRuntime = nil, nil
	}
	if r.BlockIO != nil {
		if p.host == nil {
			p.host = &specs.LinuxResources{}
		}
		p.host.BlockIO = r.BlockIO
	}
	r.BlockIO, r.HugepageLimits, r.Network, r.Rdma = nil, nil, nil, nil
}

// mounts replaces what is bound from this host.
func (p *plan) mounts(r *backendpb.Container) error {
	var out []specs.Mount
	for _, m := range p.spec.Mounts {
		if isBind(m) {
			var err error
			if m, err = p.bind(r, m); err != nil {
				return err
			}
		}
		out = append(out, m)
	}
	// The id of the machine's boot is the template's, for all clones.
	p.spec.Mounts = append(out, specs.Mount{
		Destination: "/proc/sys/kernel/random/boot_id", Type: "bind", Source: guestpb.BootIDFile, Options: []string{"bind", "ro"},
	})
	return nil
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func (p *plan) bind(r *backendpb.Container, m specs.Mount) (specs.Mount, error) {
	if m.Source == "/dev/shm" {
		return m, nil // --ipc host: the machine's
	}
	if isOurs(r, m) {
		return p.file(m)
	}
	for _, o := range m.Options {
		if strings.HasSuffix(o, "shared") || strings.HasSuffix(o, "slave") {
			return m, unsupported("mount %s at %s: what is mounted later does not spread between this host and a virtual machine: leave %s out, or run the container at another level", m.Source, m.Destination, o)
		}
	}
	at, err := p.shares.add(m.Source, slices.Contains(m.Options, "ro"), slices.Contains(m.Options, "rbind"))
	if err != nil {
		return m, unsupported("mount %s at %s in a virtual machine: %v", m.Source, m.Destination, err)
	}
	m.Source = at
	return m, nil
}

// isOurs tells a file that the engine made for this container.
func isOurs(r *backendpb.Container, m specs.Mount) bool {
	rel, err := filepath.Rel(r.GetStateDir(), m.Source)
	return err == nil && filepath.IsLocal(rel)
}

// file carries one over that the engine made.
func (p *plan) file(m specs.Mount) (specs.Mount, error) {
	fi, err := os.Stat(m.Source)
	if err != nil || fi.Size() > maxFile {
		return m, unsupported("mount %s at %s: no small file (%v)", m.Source, m.Destination, err)
	}
	data, err := os.ReadFile(m.Source)
	if err != nil {
		return m, unsupported("mount %s at %s: %v", m.Source, m.Destination, err)
	}
	f := &guestpb.File{Name: fmt.Sprintf("f%d", len(p.prepare.Files)), Data: data, Mode: uint32(fi.Mode().Perm())}
	p.prepare.Files = append(p.prepare.Files, f)
	m.Source = guestpb.FilePath(p.prepare.GetContainer(), f.GetName())
	return m, nil
}

// guestRoot is a container's root filesystem in the guest.
func guestRoot(id string) []*backendpb.Mount {
	return []*backendpb.Mount{{Type: "overlay", Source: "overlay", Options: guestpb.Overlay(id)}}
}
