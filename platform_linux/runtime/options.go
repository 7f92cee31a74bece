//go:build linux

package runtime

import (
	"log/slog"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Config says where a Runtime lives.
type Config struct {
	// Dir is a private directory on a tmpfs, with a path short enough for a
	// unix socket in it (about 90 bytes). It holds the keeper's socket, lock and
	// journal, and the empty directory on which root filesystems are mounted.
	Dir string
	// InitPath and KeeperPath are the caisson-init and caisson-keeper binaries.
	InitPath, KeeperPath string
	// Log is told of keepers that come and go, and of limits that had to be
	// clamped. nil: nothing is logged.
	Log *slog.Logger
}

// Mount is one mount of a root filesystem. The fields mean what they mean in
// the OCI runtime spec; Target "" is the root, otherwise a path inside it.
type Mount struct {
	Type, Source, Target string
	Options              []string
}

// CreateOptions describe a container's first process.
type CreateOptions struct {
	// Key names the process for as long as it is held: "<container>" for a
	// container's first process, "<container>/<exec>" for others.
	Key string
	// Spec is the OCI runtime spec. If its process.user.username is not empty it
	// has the form of docker's --user (name or uid, optionally ":" and a group)
	// and is looked up in the container's own /etc/passwd and /etc/group; its
	// uid and gid are then ignored, its additionalGids are kept.
	Spec *specs.Spec
	// Rootfs is carried out in the new mount namespace, the first at the root.
	// Empty: spec.root.path is the root filesystem.
	Rootfs []Mount
	// Stdin, Stdout, Stderr become the process's descriptors 0 to 2; nil is
	// /dev/null. They stay the caller's to close. With a terminal they are
	// ignored.
	Stdin, Stdout, Stderr *os.File
	// CgroupV2 is the directory of the cgroup v2 group that the process is born
	// in, nil: the keeper's own. It stays the caller's to close.
	CgroupV2 *os.File
	// CgroupProcs are the cgroup.procs files of the v1 groups that the process
	// joins before it runs anything that the container controls.
	CgroupProcs []string
	// Netns, if not "", is the path of the network namespace to join and
	// overrides what the spec says of the network namespace.
	Netns string
	// Reaper keeps caisson-init as PID 1 above the program: it forwards signals
	// and reaps orphans (docker run --init).
	Reaper bool
}

// ExecOptions describe another process in a running container.
type ExecOptions struct {
	Key       string
	Container *Process // the container's first process
	Process   *specs.Process
	// Seccomp is the container's own linux.seccomp; nil: none.
	Seccomp *specs.LinuxSeccomp
	// Annotations are those of the container's spec, for AnnotationGroupAdd.
	Annotations map[string]string
	// The rest as in CreateOptions.
	Stdin, Stdout, Stderr *os.File
	CgroupV2              *os.File
	CgroupProcs           []string
}

// Held is what the keeper still had for one key after a restart of the backend.
type Held struct {
	Key string
	// Process is nil if only files are held under the key.
	Process *Process
	// Files are those that Hold gave, by name. They are the caller's to close.
	Files map[string]*os.File
}
