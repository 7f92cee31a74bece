package spec

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/volume"
)

// Input is all that a spec is made of. Defaults are filled in: a rule never
// asks the engine.
type Input struct {
	ID      string
	OS      string // of the container: linux
	Config  *container.Config
	Host    *container.HostConfig
	Mounts  []volume.Mount
	Files   Files
	Devices Devices // nil: this host has no device nodes

	Hostname   string
	Domainname string
	// Join maps a namespace type to the path of the namespace to join, for the
	// container:<id> modes.
	Join map[specs.LinuxNamespaceType]string
	// DonorShm is the /dev/shm of the container whose ipc namespace is joined.
	DonorShm string
	// UserNS is the size of the id range and its first id on the host; zero
	// for no user namespace.
	UserNS IDRange

	CgroupParent    string // "" leaves it to the backend
	ShmSize         int64  // bytes
	NoNewPrivileges bool   // by default
	SeccompProfile  string // by default: JSON, "unconfined", "" the built-in
	Ulimits         []*container.Ulimit
}

// AnyNamespace joins namespaces that are not known yet: to check a spec that
// will be built again.
var AnyNamespace = map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "/", specs.IPCNamespace: "/"}

// IDRange maps ids 0…Size-1 of a container to the host's from First on.
type IDRange struct {
	First, Size uint32
}

// Files are the files that the engine writes for a container and binds into
// it; an empty path is no file.
type Files struct {
	Hostname, Hosts, Resolv string
}

// Rule adds one aspect to a spec. Rules of one list run in order, each may rely
// on what the ones before it wrote.
type Rule func(*Input, *specs.Spec) error

// lists has the rules of each operating system that containers may have.
var lists = map[string][]Rule{
	"linux": linuxRules,
}

// Build makes the spec of a container.
func Build(in *Input) (*specs.Spec, error) {
	rules, ok := lists[in.OS]
	if !ok {
		return nil, fmt.Errorf("containers for %q cannot be made by this engine: %w", in.OS, errdefs.ErrNotImplemented)
	}
	s := &specs.Spec{Version: specs.Version}
	for _, r := range rules {
		if err := r(in, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Marshal makes the spec of a container as JSON. It is Build, but with the
// filter of system calls, most of the bytes, from a cache.
func Marshal(in *Input) ([]byte, error) {
	s, err := Build(in)
	if err != nil {
		return nil, err
	}
	if s.Linux == nil || s.Linux.Seccomp == nil {
		return json.Marshal(s)
	}
	filter, err := seccompJSON(s.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	s.Linux.Seccomp = placeholder
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	// A quote inside a JSON string is escaped, so no client's string can be
	// taken for the placeholder.
	return bytes.Replace(b, placeholderJSON, filter, 1), nil
}

func invalid(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
}
