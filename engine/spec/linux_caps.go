package spec

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCaps are what a container has unless told otherwise.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD",
	"CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP",
	"CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// allCaps are the capabilities of Linux 5.9 and later. A runtime leaves out
// what its kernel or its own bounding set lacks.
var allCaps = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND",
	"CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_DAC_OVERRIDE",
	"CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE",
	"CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON",
	"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYSLOG",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE",
	"CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}

func capabilities(in *Input, s *specs.Spec) error {
	caps, err := Capabilities(in.Host.CapAdd, in.Host.CapDrop, in.Host.Privileged)
	if err != nil {
		return err
	}
	s.Process.Capabilities = Sets(caps)
	return nil
}

// Sets is the OCI form of a process's capabilities. Inheritable and ambient
// stay empty: a program gets none by being executed as another user. The
// runtime clears effective and permitted for a user other than 0.
func Sets(caps []string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// Capabilities are the defaults, without drop, with add, by Docker's rules: ALL
// stands for all; added ALL wins over dropped ALL, and what is dropped by name
// over added ALL; otherwise what is added wins.
func Capabilities(add, drop []string, privileged bool) ([]string, error) {
	adds, addAll, err := capNames(add)
	if err != nil {
		return nil, err
	}
	drops, dropAll, err := capNames(drop)
	if err != nil {
		return nil, err
	}
	switch {
	case privileged:
		return allCaps, nil
	case len(add) == 0 && len(drop) == 0:
		return defaultCaps, nil
	}
	dropped := func(c string) bool { return slices.Contains(drops, c) }
	switch {
	case addAll:
		return slices.DeleteFunc(slices.Clone(allCaps), dropped), nil
	case dropAll:
		return adds, nil
	}
	out := slices.DeleteFunc(slices.Clone(defaultCaps), dropped)
	for _, c := range adds {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}

func capNames(names []string) (out []string, all bool, err error) {
	for _, n := range names {
		c := strings.ToUpper(n)
		if c == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if !slices.Contains(allCaps, c) {
			return nil, false, invalid("invalid capability: %q", n)
		}
		out = append(out, c)
	}
	return out, all, nil
}
