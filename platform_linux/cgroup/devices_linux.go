package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// deviceRule is one OCI device rule, checked. Later rules win over earlier ones
// for the access bits they name.
type deviceRule struct {
	allow        bool
	kind         byte // 'a' both, 'b', 'c'
	major, minor int64
	access       uint32 // bits of accessMknod, accessRead, accessWrite
}

const anyNumber = -1

// Access bits as the kernel gives them to a BPF_PROG_TYPE_CGROUP_DEVICE program.
const (
	accessMknod = unix.BPF_DEVCG_ACC_MKNOD
	accessRead  = unix.BPF_DEVCG_ACC_READ
	accessWrite = unix.BPF_DEVCG_ACC_WRITE
	accessAll   = accessMknod | accessRead | accessWrite
)

var accessBits = map[rune]uint32{'r': accessRead, 'w': accessWrite, 'm': accessMknod}

func parseDeviceRules(rules []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	out := make([]deviceRule, 0, len(rules))
	for _, r := range rules {
		d := deviceRule{allow: r.Allow, kind: 'a', major: anyNumber, minor: anyNumber}
		switch r.Type {
		case "", "a":
		case "b", "c":
			d.kind = r.Type[0]
		case "u":
			d.kind = 'c'
		default:
			return nil, fmt.Errorf("device rule of type %q, want a, b or c: %w", r.Type, errdefs.ErrInvalidArgument)
		}
		if r.Major != nil {
			d.major = *r.Major
		}
		if r.Minor != nil {
			d.minor = *r.Minor
		}
		if d.major < anyNumber || d.minor < anyNumber || d.major > 1<<32-1 || d.minor > 1<<32-1 {
			return nil, fmt.Errorf("device rule for %d:%d: %w", d.major, d.minor, errdefs.ErrInvalidArgument)
		}
		for _, c := range r.Access {
			if accessBits[c] == 0 {
				return nil, fmt.Errorf("device rule with access %q, want some of rwm: %w", r.Access, errdefs.ErrInvalidArgument)
			}
			d.access |= accessBits[c]
		}
		if r.Access == "" {
			d.access = accessAll
		}
		out = append(out, d)
	}
	return out, nil
}

// line writes the rule as version 1's devices.allow and devices.deny read it.
func (d deviceRule) line() string {
	number := func(n int64) string {
		if n == anyNumber {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	var access strings.Builder
	for _, c := range "rwm" {
		if d.access&accessBits[c] != 0 {
			access.WriteRune(c)
		}
	}
	return string(d.kind) + " " + number(d.major) + ":" + number(d.minor) + " " + access.String()
}

func (g *Group) devices(rules []specs.LinuxDeviceCgroup, fresh bool) error {
	parsed, err := parseDeviceRules(rules)
	if err != nil {
		return err
	}
	if dir := g.host.v1["devices"]; dir != "" {
		return writeDeviceRules(g.v1("devices"), parsed)
	}
	if g.host.unified == "" {
		return fmt.Errorf("device rules cannot be enforced: this host has no devices control group: %w", errdefs.ErrUnavailable)
	}
	return attachDeviceProgram(g.unified(), parsed, fresh)
}

func writeDeviceRules(dir string, rules []deviceRule) error {
	for _, r := range rules {
		file := "devices.deny"
		if r.allow {
			file = "devices.allow"
		}
		if err := writeFile(filepath.Join(dir, file), r.line()); err != nil {
			if errors.Is(err, unix.EPERM) {
				return fmt.Errorf("device rule %q: the cgroup above does not allow that: %w", r.line(), errdefs.ErrPermissionDenied)
			}
			return err
		}
	}
	return nil
}
