package spec

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// allowed is what every container may use: the nodes that the runtime makes in
// /dev, terminals, and making any node (which is of no use without the right
// to open it).
var allowed = []specs.LinuxDeviceCgroup{
	{Allow: false, Access: "rwm"},
	rule("c", -1, -1, "m"),
	rule("b", -1, -1, "m"),
	rule("c", 1, 3, "rwm"),    // null
	rule("c", 1, 5, "rwm"),    // zero
	rule("c", 1, 7, "rwm"),    // full
	rule("c", 1, 8, "rwm"),    // random
	rule("c", 1, 9, "rwm"),    // urandom
	rule("c", 5, 0, "rwm"),    // tty
	rule("c", 5, 1, "rwm"),    // console
	rule("c", 5, 2, "rwm"),    // ptmx
	rule("c", 136, -1, "rwm"), // pts/*
}

func rule(typ string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: true, Type: typ, Access: access}
	if major >= 0 {
		r.Major = &major
	}
	if minor >= 0 {
		r.Minor = &minor
	}
	return r
}

// deviceRuleRE is a --device-cgroup-rule: type major:minor access.
var deviceRuleRE = regexp.MustCompile(`^([acb]) ([0-9]{1,9}|\*):([0-9]{1,9}|\*) ([rwm]{1,3})$`)

func devices(in *Input, s *specs.Spec) error {
	res := s.Linux.Resources
	if len(in.Host.DeviceRequests) > 0 {
		return fmt.Errorf("could not select device driver %q with capabilities: %v: %w",
			in.Host.DeviceRequests[0].Driver, in.Host.DeviceRequests[0].Capabilities, errdefs.ErrNotImplemented)
	}
	if in.Host.Privileged {
		res.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		if in.Devices == nil {
			return nil
		}
		all, err := in.Devices.All()
		if err != nil {
			return fmt.Errorf("list the host's devices: %w", err)
		}
		for _, d := range all {
			s.Linux.Devices = append(s.Linux.Devices, node(d))
		}
		return nil
	}
	res.Devices = append(res.Devices, allowed...)
	for _, m := range in.Host.Devices {
		access := m.CgroupPermissions
		if access == "" {
			access = "rwm"
		}
		if strings.Trim(access, "rwm") != "" {
			return invalid("invalid device mode: %s", access)
		}
		inside := m.PathInContainer
		if inside == "" {
			inside = m.PathOnHost
		}
		if !path.IsAbs(inside) {
			return invalid("%q is not an absolute path", inside)
		}
		if in.Devices == nil {
			return invalid("error gathering device information while adding custom device %q: this host has no device nodes", m.PathOnHost)
		}
		found, err := in.Devices.Resolve(m.PathOnHost, path.Clean(inside))
		if err != nil {
			return err // names the device
		}
		for _, d := range found {
			s.Linux.Devices = append(s.Linux.Devices, node(d))
			res.Devices = append(res.Devices, rule(d.Type, d.Major, d.Minor, access))
		}
	}
	for _, r := range in.Host.DeviceCgroupRules {
		m := deviceRuleRE.FindStringSubmatch(r)
		if m == nil {
			return invalid("invalid device cgroup rule format: '%s'", r)
		}
		res.Devices = append(res.Devices, rule(m[1], wild(m[2]), wild(m[3]), m[4]))
	}
	return nil
}

// wild is a device number, -1 for *.
func wild(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func node(d Device) specs.LinuxDevice {
	mode := os.FileMode(d.Mode).Perm()
	return specs.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.UID, GID: &d.GID}
}

// sysctlOf tells the namespace that a kernel parameter belongs to; one that
// belongs to none would change the host.
var sysctlOf = map[string]specs.LinuxNamespaceType{
	"kernel.msgmax":          specs.IPCNamespace,
	"kernel.msgmnb":          specs.IPCNamespace,
	"kernel.msgmni":          specs.IPCNamespace,
	"kernel.sem":             specs.IPCNamespace,
	"kernel.shmall":          specs.IPCNamespace,
	"kernel.shmmax":          specs.IPCNamespace,
	"kernel.shmmni":          specs.IPCNamespace,
	"kernel.shm_rmid_forced": specs.IPCNamespace,
	"kernel.domainname":      specs.UTSNamespace,
}

var sysctlRE = regexp.MustCompile(`^[a-zA-Z0-9_*-]+(\.[a-zA-Z0-9_*/@-]+)+$`)

// sysctls of the network are set by whoever makes the network namespace; see
// NetSysctls.
func sysctls(in *Input, s *specs.Spec) error {
	for k, v := range in.Host.Sysctls {
		kind, ok := sysctlOf[k]
		switch {
		case strings.HasPrefix(k, "net."):
			kind, ok = specs.NetworkNamespace, true
		case strings.HasPrefix(k, "fs.mqueue."):
			kind, ok = specs.IPCNamespace, true
		}
		if !ok || !sysctlRE.MatchString(k) || strings.Contains(k, "..") {
			return invalid("sysctl %q is not in a separate kernel namespace", k)
		}
		if !hasOwn(s, kind) {
			return invalid("sysctl %q is not allowed as the container shares the %s namespace", k, kind)
		}
		if kind == specs.NetworkNamespace {
			continue
		}
		if s.Linux.Sysctl == nil {
			s.Linux.Sysctl = map[string]string{}
		}
		s.Linux.Sysctl[k] = v
	}
	return nil
}

// NetSysctls are those that belong to the network namespace.
func NetSysctls(all map[string]string) map[string]string {
	var out map[string]string
	for k, v := range all {
		if strings.HasPrefix(k, "net.") {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}
