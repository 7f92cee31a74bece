// Package backend is the contract between the engine and whatever isolates
// containers: one interface, spoken over gRPC by a plugin process. The payloads
// are the messages of backendpb/backend.proto, so there is one definition of
// each and nothing to copy field by field.
//
// # Words
//
// A sandbox is what a backend isolates as one unit: one container, or a
// Kubernetes pod. A process is a container's first process (ProcessRef.exec is
// "") or one that Exec added. A level is how strong the isolation is.
//
// # The life of a container
//
//	Open(sandbox) → Create(container) → [Attach] → Start → … → EXITED → Delete → Close(sandbox)
//	                     └ Exec(process) → [Attach] → Start → EXITED → Delete(exec)
//
// Open makes the unit of isolation: nothing at the Linux process level, a VM at
// the vm level, a utility VM for hyperv on Windows, the pod's VM or namespaces
// under Kubernetes. Create makes everything of the container that can be made
// before its program runs: cgroup, namespaces, root filesystem, pipes. A
// created container costs no CPU. Attach before Start misses no byte. Start
// runs the program. Between Start and EXITED the container is running. Delete
// gives back everything that Create took, killing what still runs; Close does
// the same for the sandbox and deletes what is left in it.
//
// Create, Exec and Open refuse an id that exists (AlreadyExists). Start refuses
// a process that was started before (FailedPrecondition). Verbs on an unknown
// id answer NotFound, but Delete and Close are idempotent: unknown is success,
// so that a caller that crashed between the act and its own record can repeat
// them. A verb that fails leaves nothing behind that Delete would not remove;
// Create and Open that fail leave nothing at all.
//
// # Events
//
// Events are numbered from 1 without gaps, survive a restart of the backend,
// and can be replayed until the process they speak of is deleted. STARTED
// always precedes EXITED; EXITED comes exactly once for each started process,
// after the last byte of its output was given to the log and to attachers, and
// after every EXITED of an exec in the same container when the container's
// first process ends. When a backend cannot replay from the asked number it
// sends RESET first, and the engine calls List.
//
// # Who owns what
//
// The engine owns records, names, images, networks and the directories it
// names in requests. The backend owns processes, cgroups, mounts, pipes and the
// container's log file while the container exists: it writes the log itself, so
// that no line is lost while the engine is down. A backend keeps what it needs
// to find its containers again in its own state directory (environment variable
// EnvStateDir), and must survive its own SIGKILL: on the next start it carries
// on with whatever still runs. Everything a container or guest says is hostile.
//
// # How the later levels map
//
//   - vm on Linux: Open restores a VM from a template and joins Sandbox.netns to
//     put its tap there; Create sends the OCI bytes to the guest agent, which
//     runs the same Linux runtime inside; Rootfs mounts are turned into a block
//     device; Status.pid is 0; the *Files verbs go through the agent, never
//     through a mount of guest-written data on the host.
//   - Windows process and hyperv: Open makes the HCN namespace's compute system
//     holder (hyperv: the utility VM), Create the compute system from
//     windows-layer mounts, Start and Exec are HCS CreateProcess, Signal maps
//     SIGTERM to CTRL_SHUTDOWN and SIGKILL to terminate, Resize is ConPTY.
//   - Kubernetes pod: RunPodSandbox is Open with the CNI namespace's path,
//     CreateContainer is Create with that sandbox, StopPodSandbox is Close.
//
// # Errors
//
// Every error has a kind of github.com/containerd/errdefs, from where it is
// born; the plugin glue carries it over gRPC unchanged. A verb outside the
// backend's capabilities answers NotImplemented, and the capability is absent
// from Info.
package backend

import (
	"context"
	"io"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Environment variables that the engine sets for a backend it launches.
const (
	// EnvStateDir names a directory, private to this backend and engine, that
	// survives a restart of both but not a reboot of the host.
	EnvStateDir = "CAISSON_BACKEND_STATE_DIR"
	// EnvDataDir names a directory for what a backend wants to find again after a
	// reboot and could make anew; it need not exist.
	EnvDataDir = "CAISSON_BACKEND_DATA_DIR"
	// EnvHostID names a short string, unique per engine on the host, from which
	// names of cgroups and the like must be derived.
	EnvHostID = "CAISSON_HOST_ID"
	// EnvCgroupParent names the cgroup under which containers without a
	// cgroup_parent of their own live.
	EnvCgroupParent = "CAISSON_CGROUP_PARENT"
)

// Capabilities name the optional interfaces below, and are what Info lists.
const (
	CapPause     = "pause"     // Pauser
	CapProcesses = "processes" // ProcessLister
	CapFiles     = "files"     // Files
	CapUsage     = "usage"     // Measurer
	CapUserNS    = "userns"    // a user namespace in the OCI spec is honoured
	// CapOwnStack says that containers have a network stack of their own, which
	// has the addresses of the sandbox's namespace as they are when it is opened:
	// what listens in the namespace is not there for them.
	CapOwnStack = "own-network-stack"
)

// Strength of the levels this project defines; see backendpb.Level.
const (
	StrengthProcess = 100
	StrengthVM      = 300
)

// Backend isolates containers in one way. All methods are safe for concurrent
// use, also on one container. A cancelled context abandons the call, not the
// work: the caller repeats or deletes.
type Backend interface {
	// Info tells what this backend offers on this host. It never fails on a
	// healthy backend: what is missing on the host is a warning in the reply.
	Info(ctx context.Context) (*backendpb.InfoReply, error)

	// Open makes a sandbox. Errors: AlreadyExists, InvalidArgument, Unavailable.
	Open(ctx context.Context, s *backendpb.Sandbox) error
	// Close deletes the sandbox and every container in it. Idempotent.
	Close(ctx context.Context, id string) error

	// Create makes a container ready to start. Errors: NotFound (sandbox),
	// AlreadyExists, InvalidArgument (the spec asks for what cannot be).
	Create(ctx context.Context, c *backendpb.Container) (*backendpb.Status, error)
	// Start runs a created container or exec, and returns once its program was
	// executed. Errors: NotFound; FailedPrecondition (started before);
	// *ExecError when the program cannot be executed: the process then counts
	// as never started (no STARTED, no EXITED) and only Delete remains.
	Start(ctx context.Context, p *backendpb.ProcessRef) (*backendpb.Status, error)
	// Exec prepares another process in a running container. Errors: NotFound,
	// AlreadyExists, FailedPrecondition (container not running or paused).
	Exec(ctx context.Context, e *backendpb.ExecSpec) error

	// Attach connects to a process's streams from now on. Many may attach; each
	// gets all output. Errors: NotFound, FailedPrecondition (already exited).
	Attach(ctx context.Context, a *backendpb.AttachOpen) (Streams, error)
	// Resize sets the size of a process's terminal. Errors: NotFound,
	// FailedPrecondition (no terminal, or not running).
	Resize(ctx context.Context, r *backendpb.ResizeRequest) error
	// Signal delivers a signal. Errors: NotFound, FailedPrecondition (not
	// running), InvalidArgument (no such signal here).
	Signal(ctx context.Context, s *backendpb.SignalRequest) error

	// State tells what is known of a container and its execs.
	State(ctx context.Context, id string) (*backendpb.ContainerState, error)
	// List tells the same of every container, and every sandbox's id.
	List(ctx context.Context) (*backendpb.ListReply, error)
	// Events streams events with a number above after until ctx ends.
	Events(ctx context.Context, after uint64) (EventStream, error)

	// Stats reads the counters of a running container once.
	Stats(ctx context.Context, id string) (*backendpb.StatsReply, error)
	// Update changes resource limits, of a running container at once.
	Update(ctx context.Context, u *backendpb.UpdateRequest) error

	// Delete removes a container, with its execs, or one exec. It kills first
	// what still runs. Idempotent.
	Delete(ctx context.Context, p *backendpb.ProcessRef) error
}

// Pauser is capability CapPause.
type Pauser interface {
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
}

// ProcessLister is capability CapProcesses.
type ProcessLister interface {
	Processes(ctx context.Context, id string) (*backendpb.ProcessesReply, error)
}

// Measurer is capability CapUsage, of a backend that keeps what its containers
// write elsewhere than in the directories of their root filesystem, where the
// engine can count it.
type Measurer interface {
	// Usage is what a container, alive or not, has written. Nothing is 0.
	Usage(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.UsageReply, error)
}

// Files is capability CapFiles: access to a container's filesystem, alive or
// not. No path that the container controls is followed outside its root.
type Files interface {
	// StatPath does not follow a final symlink; it tells its target.
	StatPath(ctx context.Context, r *backendpb.PathRequest) (*backendpb.PathStat, error)
	// ReadArchive returns an uncompressed tar of the path, whose entries start
	// with the path's base name ("." for the root). The caller closes it.
	ReadArchive(ctx context.Context, r *backendpb.PathRequest) (io.ReadCloser, error)
	// WriteArchive unpacks an uncompressed tar into an existing directory.
	WriteArchive(ctx context.Context, t *backendpb.WriteTarget, tar io.Reader) error
	// Changes lists what differs from the image, sorted by path.
	Changes(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.ChangesReply, error)
	// ReadDiff returns what differs as an OCI layer (uncompressed tar with
	// whiteouts). The caller closes it.
	ReadDiff(ctx context.Context, t *backendpb.FilesTarget) (io.ReadCloser, error)
}

// Streams is one attachment to a process. Recv and Send may be used by one
// goroutine each at the same time.
type Streams interface {
	// Recv returns the next piece of output, or io.EOF once the process has
	// exited and all of it was delivered, or once Close was called.
	Recv() (*backendpb.AttachOutput, error)
	// Send writes to the process's stdin, waiting while it is full.
	Send(data []byte) error
	// CloseStdin ends the process's stdin, for all attachers.
	CloseStdin() error
	// Close detaches. The process goes on.
	Close() error
}

// EventStream is one subscription. Recv blocks; it ends with the context's
// error or the backend's.
type EventStream interface {
	Recv() (*backendpb.Event, error)
}
