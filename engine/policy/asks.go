package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// Base is what a container has that asks for nothing: the daemon's own
// defaults, which are the host owner's word and need no permission.
type Base struct {
	Cgroupns        string
	CgroupParent    string
	NoNewPrivileges bool
	MaskedPaths     []string
	ReadonlyPaths   []string
}

// Bind is a path of the host that a container gets, or what a volume's driver
// mounts for it.
type Bind struct {
	Source      string
	ReadOnly    bool
	Propagation string
	Device      bool // Source is no path, but mount:TYPE:DEVICE,OPTIONS
}

// defaultCaps are the capabilities that every container may add: it has them anyway.
var defaultCaps = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
	"NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// lowPort is the first port of the host that everybody may publish on.
const lowPort = 1024

// Asks lists what a container asks for beyond what everybody may have. It must
// know every field of a HostConfig that gives power over the host.
func Asks(h *container.HostConfig, binds []Bind, base Base) []Ask {
	var out []Ask
	ask := func(cond bool, option string, value ...string) {
		if cond {
			a := Ask{Option: option}
			if len(value) > 0 {
				a.Value = value[0]
			}
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	ask(h.Privileged, "privileged")
	ask(h.NetworkMode.IsHost(), "host_network")
	ask(h.PidMode.IsHost(), "host_pid")
	ask(h.IpcMode.IsHost(), "host_ipc")
	ask(h.UTSMode.IsHost(), "host_uts")
	ask(h.UsernsMode.IsHost(), "host_userns")
	ask(h.CgroupnsMode.IsHost() && base.Cgroupns != "host", "host_cgroupns")
	ask(h.CgroupParent != "" && h.CgroupParent != base.CgroupParent, "cgroup_parent", h.CgroupParent)
	for _, c := range h.CapAdd {
		name := Capability(c)
		ask(!slices.Contains(defaultCaps, name), "capabilities", name)
	}
	for _, b := range binds {
		if b.Device {
			ask(true, "devices", b.Source)
			continue
		}
		v := cleanPath(b.Source)
		if b.ReadOnly {
			v += ":ro"
		}
		ask(true, "host_paths", v)
		ask(b.Propagation == "shared" || b.Propagation == "rshared", "shared_mounts", b.Propagation)
	}
	for _, d := range h.Devices {
		ask(true, "devices", cleanPath(d.PathOnHost))
	}
	for _, r := range h.DeviceCgroupRules {
		ask(true, "devices", "cgroup:"+r)
	}
	for _, r := range h.DeviceRequests {
		name := r.Driver
		if name == "" && len(r.Capabilities) > 0 {
			name = strings.Join(r.Capabilities[0], ",")
		}
		ask(true, "devices", "request:"+name)
	}
	askSecurity(h, base, ask)
	for _, bindings := range h.PortBindings {
		for _, b := range bindings {
			n, err := strconv.Atoi(b.HostPort)
			if low, _, ok := strings.Cut(b.HostPort, "-"); ok {
				n, err = strconv.Atoi(low)
			}
			// No number is any free port, which is a high one.
			ask(err == nil && n > 0 && n < lowPort, "host_ports", strconv.Itoa(n))
		}
	}
	ask(h.OomScoreAdj < 0, "oom", "--oom-score-adj "+strconv.Itoa(h.OomScoreAdj))
	ask(h.OomKillDisable != nil && *h.OomKillDisable, "oom", "--oom-kill-disable")
	ask(h.CPURealtimeRuntime != 0 || h.CPURealtimePeriod != 0, "realtime", "--cpu-rt-runtime")
	for _, u := range h.Ulimits {
		if u != nil && (u.Name == "rtprio" || u.Name == "nice") {
			ask(u.Hard != 0 || u.Soft != 0, "realtime", "--ulimit "+u.Name)
		}
	}
	for k := range h.Annotations {
		ask(true, "annotations", k)
	}
	slices.SortFunc(out, func(a, b Ask) int {
		return strings.Compare(a.Option+"\x00"+a.Value, b.Option+"\x00"+b.Value)
	})
	return out
}

// askSecurity reads what weakens the walls of the process level.
func askSecurity(h *container.HostConfig, base Base, ask func(bool, string, ...string)) {
	for _, opt := range h.SecurityOpt {
		name, value, has := strings.Cut(opt, "=")
		if !has {
			name, value, _ = strings.Cut(opt, ":")
		}
		on, err := strconv.ParseBool(value)
		switch name {
		case "seccomp":
			// A profile of the client's may allow anything.
			ask(value != "" && value != "builtin" && value != "default", "seccomp_unconfined")
		case "apparmor":
			ask(value == "unconfined", "apparmor_unconfined")
		case "systempaths":
			ask(true, "system_paths")
		case "writable-cgroups":
			ask(on || err != nil, "writable_cgroups")
		case "no-new-privileges":
			ask(base.NoNewPrivileges && err == nil && !on, "new_privileges")
		}
	}
	if !h.Privileged { // which has none masked, and is asked for itself
		less := func(have, def []string) bool {
			return have != nil && slices.ContainsFunc(def, func(p string) bool { return !slices.Contains(have, p) })
		}
		ask(less(h.MaskedPaths, base.MaskedPaths) || less(h.ReadonlyPaths, base.ReadonlyPaths), "system_paths")
	}
}

// Of is the question about a container of this configuration.
func (in Input) Of(c *container.Config, h *container.HostConfig, binds []Bind, base Base) Input {
	in.Labels, in.Network, in.Isolation, in.Runtime = c.Labels, string(h.NetworkMode), string(h.Isolation), h.Runtime
	if h.NetworkMode.IsContainer() {
		in.Network = "container"
	}
	in.Asks, in.Resources = Asks(h, binds, base), ResourcesOf(&h.Resources)
	return in
}

// defaultPeriod is the kernel's, in microseconds.
const defaultPeriod = 100_000

// ResourcesOf are a container's limits.
func ResourcesOf(r *container.Resources) Resources {
	out := Resources{Memory: r.Memory, Swap: r.MemorySwap, CPUs: float64(r.NanoCPUs) / 1e9}
	switch {
	case out.CPUs == 0 && r.CPUQuota > 0:
		out.CPUs = float64(r.CPUQuota) / float64(cmp.Or(r.CPUPeriod, defaultPeriod))
	case r.CPUQuota < 0:
		out.CPUs = -1
	}
	if r.PidsLimit != nil {
		out.Pids = *r.PidsLimit
	}
	return out
}
