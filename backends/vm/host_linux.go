package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
	shim "github.com/caisson-engine/caisson/vmshim/host"
	"github.com/caisson-engine/caisson/vmshim/template"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// hostParts is what this host has of what machines need. Everything is looked for when
// it is first asked for: a host that never runs a machine pays nothing.
type hostParts struct {
	cfg  Config
	qemu string // "" if there is none

	guest   vmm.Guest
	problem error // why no machine can run, nil if one can

	monitor func() (*vmm.QEMU, error)
	accel   func() vmm.Accel
	reason  string // why, set by accel

	templates *template.Store
}

const monitorName = "qemu-system-x86_64"

func newHost(cfg Config) *hostParts {
	h := &hostParts{cfg: cfg}
	h.problem = h.find()
	h.monitor = sync.OnceValues(h.readMonitor)
	h.accel = sync.OnceValue(h.probe)
	h.templates = template.New(template.Options{Failed: func(k template.Key, err error) {
		cfg.Log.Error("no template could be made, virtual machines boot instead", "tenant", k.Tenant, "err", err)
	}})
	return h
}

// find looks for monitor, shim and guest.
func (h *hostParts) find() error {
	path, err := exec.LookPath(monitorName)
	if err != nil {
		return fmt.Errorf("%s is not installed (Debian: qemu-system-x86)", monitorName)
	}
	h.qemu = path
	if _, err := os.Stat(h.cfg.ShimPath); err != nil {
		return fmt.Errorf("caisson-vmshim is missing: %w", err)
	}
	if h.guest, err = vmm.FindGuest(h.cfg.GuestDirs...); err != nil {
		return err
	}
	return nil
}

// usable is nil if machines can run here.
func (h *hostParts) usable() error {
	if h.problem != nil {
		return fmt.Errorf("no virtual machine can run on this host: %w: %w", h.problem, errdefs.ErrUnavailable)
	}
	return nil
}

// probeCache remembers for all engines of this host what a guest proved since it
// was booted.
const probeCache = "/run/caisson-kvm-probe"

// readMonitor asks the monitor who it is.
func (h *hostParts) readMonitor() (*vmm.QEMU, error) {
	return vmm.NewQEMU(vmm.QEMUOptions{
		Binary: h.qemu, Dir: filepath.Join(h.cfg.StateDir, "jail"), Stage: []string{h.cfg.ShimPath, shim.JailStage},
	})
}

// probe decides how machines run.
func (h *hostParts) probe() vmm.Accel {
	q, err := h.monitor()
	if err != nil {
		return vmm.TCG
	}
	uid := h.cfg.Options.FirstUID + h.cfg.Options.UIDs
	accel, reason := q.Probe(context.Background(), vmm.ProbeOptions{Guest: h.guest, Jail: vmm.Jail{UID: uid, GID: uid}, Cache: probeCache})
	h.reason = reason
	return accel
}

// warnEmulated is what a host owner must know.
const warnEmulated = "virtual machines are emulated on this host (no usable KVM): emulation is no security boundary by QEMU's own statement, the jail around it is the only one"

// describe is what Info tells.
func (h *hostParts) describe() (facts []*backendpb.Fact, warnings []string) {
	if h.problem != nil {
		return nil, []string{"no virtual machine can run on this host: " + h.problem.Error()}
	}
	q, err := h.monitor()
	if err != nil {
		h.problem = err
		return nil, []string{"no virtual machine can run on this host: " + err.Error()}
	}
	accel := h.accel()
	if accel == vmm.TCG {
		warnings = append(warnings, warnEmulated)
	}
	for _, f := range []struct{ key, value string }{
		{"accelerator", string(accel)},
		{"accelerator.reason", h.reason},
		{"vmm", q.Name()},
		{"guest.kernel", h.guest.Kernel},
		{"guest.protocol", strconv.Itoa(guestpb.Protocol)},
		{"memory.default", strconv.FormatInt(h.cfg.Options.Memory, 10)},
		{"templates", strconv.FormatBool(h.cfg.Options.Templates)},
		{"templates.shared", strconv.FormatBool(h.cfg.Options.ShareTemplates)},
		{"pool", strconv.Itoa(h.cfg.Options.Pool)},
	} {
		facts = append(facts, &backendpb.Fact{Key: f.key, Value: f.value})
	}
	return facts, warnings
}

// Slots of a machine's disks.
const (
	slotImage = iota
	slotScratch
)

// classes are the sizes of memory that machines come in, so that few templates
// serve all; a larger machine is made to measure.
var classes = []int64{256 << 20, 512 << 20, 1 << 30, 2 << 30, 4 << 30, 8 << 30, 16 << 30}

// agentWords are on the kernel's command line. What the kernel does not know goes
// into its init's environment: the agent's own scheduler need not interrupt it.
const agentWords = "caisson.guest=1 GODEBUG=asyncpreemptoff=1"

// shape of a machine for a container with these limits; zero is none.
func (h *hostParts) shape(memory int64, cpus int) (vmm.Shape, error) {
	if memory > maxMemory-guestOverhead {
		return vmm.Shape{}, fmt.Errorf("a virtual machine has %d GiB of memory at most: %w", maxMemory>>30, errdefs.ErrInvalidArgument)
	}
	want := h.cfg.Options.Memory
	if memory > 0 {
		want = memory + guestOverhead
	}
	for _, class := range classes {
		if want <= class {
			want = class
			break
		}
	}
	want = (want + 1<<20 - 1) &^ (1<<20 - 1)
	if cpus == 0 {
		cpus = h.cfg.Options.CPUs
	}
	return vmm.Shape{
		Accel: h.accel(), Kernel: h.guest.Kernel, Initrd: h.guest.Initrd, Flavour: h.guest.Flavour, Cmdline: agentWords,
		Memory: want, CPUs: min(cpus, maxCPUs),
		Disks: []vmm.DiskSlot{slotImage: {ReadOnly: true}, slotScratch: {}}, NICs: 1, Ports: []string{guestpb.Port, guestpb.SharePort},
	}, nil
}

// close ends what is kept ready.
func (h *hostParts) close(*Backend) { h.templates.Close() }

// build boots a machine and saves it.
func (b *Backend) build(name string, shape vmm.Shape) (*vmm.Template, error) {
	ctx := context.Background()
	m, err := b.start(ctx, order{name: name, cgroup: filepath.Join(b.cfg.CgroupParent, name), shape: shape, savable: true})
	if err != nil {
		return nil, err
	}
	t, err := func() (*vmm.Template, error) {
		if err := m.ctl.Running(); err != nil {
			return nil, m.failed("boot a virtual machine", err)
		}
		return m.ctl.Save()
	}()
	return t, errors.Join(err, m.destroy(ctx))
}

// template is one to clone for a tenant, nil to boot, and what ends its use.
func (b *Backend) template(tenant string, shape vmm.Shape) (*vmm.Template, func()) {
	none := func() {}
	if !b.cfg.Options.Templates {
		return nil, none
	}
	q, err := b.host.monitor()
	if err != nil {
		return nil, none
	}
	known, err := q.Know(shape)
	if err != nil {
		return nil, none
	}
	if b.cfg.Options.ShareTemplates {
		tenant = ""
	}
	t, release := b.host.templates.Get(template.Key{Tenant: tenant, Shape: known.Key}, func() (*vmm.Template, error) {
		return b.build(b.serialName("template"), shape)
	})
	if t == nil {
		return nil, none
	}
	return t, release
}
