package spec

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxIDs is the size of the range that a private user namespace maps: enough
// for nobody (65534).
const maxIDs = 65536

// DefaultIDs is the range that --userns=private maps to.
var DefaultIDs = IDRange{First: 100000, Size: maxIDs}

// mode is how a container relates to one kind of namespace.
type mode int

const (
	own  mode = iota // a new one
	host             // the host's: no entry
	join             // the path that Input.Join has
)

// namespaces lists what the container gets of its own. The time namespace has
// no offsets: the clocks run as on the host but cannot be seen to be the host's.
func namespaces(in *Input, s *specs.Spec) error {
	h := in.Host
	table := []struct {
		kind specs.LinuxNamespaceType
		mode mode
	}{
		{specs.MountNamespace, own},
		{specs.NetworkNamespace, pick(h.NetworkMode.IsHost(), false)},
		{specs.UTSNamespace, pick(h.UTSMode.IsHost(), false)},
		{specs.PIDNamespace, pick(h.PidMode.IsHost(), h.PidMode.IsContainer())},
		{specs.IPCNamespace, pick(h.IpcMode.IsHost(), h.IpcMode.IsContainer())},
		{specs.CgroupNamespace, pick(h.CgroupnsMode.IsHost(), false)},
		{specs.TimeNamespace, own},
	}
	if in.UserNS.Size > 0 {
		table = append(table, struct {
			kind specs.LinuxNamespaceType
			mode mode
		}{specs.UserNamespace, own})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: in.UserNS.First, Size: in.UserNS.Size}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	}
	for _, n := range table {
		ns := specs.LinuxNamespace{Type: n.kind}
		switch n.mode {
		case host:
			continue
		case join:
			if ns.Path = in.Join[n.kind]; ns.Path == "" {
				return fmt.Errorf("no path of the %s namespace to join: %w", n.kind, errdefs.ErrInternal)
			}
		}
		s.Linux.Namespaces = append(s.Linux.Namespaces, ns)
	}
	return nil
}

func pick(isHost, isJoin bool) mode {
	switch {
	case isHost:
		return host
	case isJoin:
		return join
	}
	return own
}

// hasOwn says that the spec makes a new namespace of that kind.
func hasOwn(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	for _, n := range s.Linux.Namespaces {
		if n.Type == kind {
			return n.Path == ""
		}
	}
	return false
}

// ValidateModes checks the words of the namespace modes, when a container is
// created.
func ValidateModes(h *container.HostConfig) error {
	switch {
	case !h.IpcMode.Valid():
		return invalid("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return invalid("invalid PID mode: %v", h.PidMode)
	case !h.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", h.UTSMode)
	case !h.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case h.Cgroup != "":
		return fmt.Errorf("the cgroup of another container (HostConfig.Cgroup) is not supported: %w", errdefs.ErrNotImplemented)
	}
	if _, err := UserNS(h); err != nil {
		return err
	}
	return nil
}

// UserNS is the range that a --userns argument asks for.
func UserNS(h *container.HostConfig) (IDRange, error) {
	switch m := strings.ToLower(string(h.UsernsMode)); m {
	case "", "host":
		return IDRange{}, nil
	case "private":
		for name, conflict := range map[string]bool{
			"privileged mode":             h.Privileged,
			"the host's pid namespace":    h.PidMode.IsHost(),
			"the host's network":          h.NetworkMode.IsHost(),
			"the host's ipc namespace":    h.IpcMode.IsHost(),
			"another container's pids":    h.PidMode.IsContainer(),
			"another container's ipc":     h.IpcMode.IsContainer(),
			"another container's network": h.NetworkMode.IsContainer(),
		} {
			if conflict {
				return IDRange{}, invalid("conflicting options: a private user namespace and %s", name)
			}
		}
		return DefaultIDs, nil
	default:
		return IDRange{}, invalid("invalid USER mode: %q: use host or private", h.UsernsMode)
	}
}
