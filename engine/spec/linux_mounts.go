package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/volume"
)

// DefaultShm is the size of /dev/shm in bytes where nobody sets it.
const DefaultShm = 64 << 20

// baseMounts are the kernel's filesystems and /dev. What a container must not
// write is read-only here and not only masked.
func baseMounts(in *Input, s *specs.Spec) error {
	sys := []string{"nosuid", "noexec", "nodev"}
	ro := append(slices.Clone(sys), "ro")
	if in.Host.Privileged {
		ro = sys
	}
	add := func(dest, typ, source string, opts ...string) {
		if !overridden(in, dest) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: dest, Type: typ, Source: source, Options: opts})
		}
	}
	add("/proc", "proc", "proc", sys...)
	add("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k")
	add("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
	add("/sys", "sysfs", "sysfs", ro...)
	add("/sys/fs/cgroup", "cgroup", "cgroup", ro...)
	add("/dev/mqueue", "mqueue", "mqueue", sys...) // of the ipc namespace, whosever that is
	switch ipc := in.Host.IpcMode; {
	case ipc.IsNone():
	case ipc.IsHost():
		add("/dev/shm", "bind", "/dev/shm", "rbind", "nosuid", "noexec", "nodev")
	case ipc.IsContainer():
		add("/dev/shm", "bind", in.DonorShm, "rbind", "nosuid", "noexec", "nodev")
	default:
		size := in.ShmSize
		if size <= 0 {
			size = DefaultShm
		}
		add("/dev/shm", "tmpfs", "shm", append(slices.Clone(sys), "mode=1777", fmt.Sprintf("size=%d", size))...)
	}
	return nil
}

// overridden says that a client mounts something of its own there.
func overridden(in *Input, dest string) bool {
	return slices.ContainsFunc(in.Mounts, func(m volume.Mount) bool { return m.Destination == dest })
}

// engineFiles binds the files that name the container and its peers.
func engineFiles(in *Input, s *specs.Spec) error {
	for _, f := range []struct{ dest, source string }{
		{"/etc/resolv.conf", in.Files.Resolv},
		{"/etc/hostname", in.Files.Hostname},
		{"/etc/hosts", in.Files.Hosts},
	} {
		if f.source == "" || overridden(in, f.dest) {
			continue
		}
		opts := []string{"rbind", "rprivate"}
		if in.Host.ReadonlyRootfs {
			opts = append(opts, "ro")
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: f.dest, Type: "bind", Source: f.source, Options: opts})
	}
	return nil
}

func volumes(in *Input, s *specs.Spec) error {
	for _, m := range in.Mounts {
		om := specs.Mount{Destination: m.Destination, Source: m.Source}
		switch m.Type {
		case mount.TypeTmpfs:
			om.Type, om.Source, om.Options = "tmpfs", "tmpfs", m.Options
		case mount.TypeBind, mount.TypeVolume, mount.TypeImage:
			om.Type, om.Options = "bind", bindOptions(m)
			if m.Type == mount.TypeVolume && in.UserNS.Size > 0 {
				// A volume is the container's own: its files belong to the
				// container's users. What a host path holds belongs to the host's.
				om.Options = append(om.Options, "idmap")
			}
		default:
			return invalid("mount type unknown: %q", m.Type)
		}
		s.Mounts = append(s.Mounts, om)
	}
	return nil
}

func bindOptions(m volume.Mount) []string {
	opts := []string{"rbind"}
	if m.NonRecursive {
		opts = []string{"bind"}
	}
	switch {
	case m.Propagation != "":
		opts = append(opts, string(m.Propagation))
	default:
		opts = append(opts, string(mount.PropagationRPrivate))
	}
	if m.ReadOnly {
		opts = append(opts, "ro")
		// rro is best effort in Docker: what lies below is read-only too where
		// the kernel can (5.12).
		if !m.ShallowRO && !m.NonRecursive {
			opts = append(opts, "rro")
		}
	}
	if m.Type == mount.TypeVolume && !m.NoCopy && !m.ReadOnly && m.Subpath == "" {
		opts = append(opts, OptionCopyUp)
	}
	return opts
}

// maskedPaths tell of the host or let a container harm it.
var maskedPaths = []string{
	"/proc/acpi",
	"/proc/asound",
	"/proc/interrupts",
	"/proc/kcore",
	"/proc/keys",
	"/proc/latency_stats",
	"/proc/sched_debug",
	"/proc/scsi",
	"/proc/timer_list",
	"/proc/timer_stats",
	"/sys/devices/virtual/powercap",
	"/sys/firmware",
}

// readonlyPaths are needed for reading, and dangerous to write.
var readonlyPaths = []string{
	"/proc/bus",
	"/proc/fs",
	"/proc/irq",
	"/proc/sys",
	"/proc/sysrq-trigger",
}

// ThermalPaths tell how hot each processor of this host is, which is a channel
// between its containers. They are masked like the fixed list.
func ThermalPaths() []string {
	paths, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	if err != nil {
		return nil // only a bad pattern is an error
	}
	return paths
}

// PathDefaults fills in the masked and read-only paths that a client left
// open: nil is the default and more, an empty list is none.
func PathDefaults(h *container.HostConfig, more []string) {
	if h.Privileged {
		return
	}
	for _, o := range h.SecurityOpt {
		if o == "systempaths=unconfined" {
			h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
			return
		}
	}
	if h.MaskedPaths == nil {
		h.MaskedPaths = maskedPaths
		if len(more) > 0 {
			h.MaskedPaths = slices.Concat(maskedPaths, more)
		}
	}
	if h.ReadonlyPaths == nil {
		h.ReadonlyPaths = readonlyPaths
	}
}

func hiddenPaths(in *Input, s *specs.Spec) error {
	if in.Host.Privileged {
		return nil
	}
	for _, p := range slices.Concat(in.Host.MaskedPaths, in.Host.ReadonlyPaths) {
		if !strings.HasPrefix(p, "/") {
			return invalid("masked and read-only paths must be absolute, not %q", p)
		}
	}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = in.Host.MaskedPaths, in.Host.ReadonlyPaths
	return nil
}
