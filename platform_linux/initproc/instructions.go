//go:build linux

package initproc

import (
	"github.com/caisson-engine/caisson/platform_linux/mount"
	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// Version of Instructions; both sides come from one build, so it only catches
// an installation that mixes two.
const Version = 1

// MaxInstructions bounds the size of encoded instructions in bytes.
const MaxInstructions = 16 << 20

// Instructions are all that caisson-init is told.
type Instructions struct {
	Version uint64
	// Container is nil for an exec: the container exists.
	Container *Container
	Process   Process
}

// Container describes what is made once, around a container's first process.
type Container struct {
	// RootPath is the directory that is the root filesystem, or on which the
	// first of Rootfs is mounted to become it.
	RootPath string
	Rootfs   []Mount
	Mounts   []Mount
	// RootPropagation is the mount(2) flags for the root, 0 for rslave.
	RootPropagation uint64
	ReadonlyRoot    bool
	Devices         []Device
	MaskedPaths     []string
	ReadonlyPaths   []string
	Sysctls         []KeyValue
	Hostname        string
	Domainname      string
	// NewCgroupNS and NewTimeNS ask for namespaces that can only be made once
	// the process is in its cgroups and before it has offsets.
	NewCgroupNS bool
	NewTimeNS   bool
	TimeOffsets string // the text for timens_offsets
	// UserNS says that the process is in a user namespace of its own, where
	// nodes cannot be made and host paths may be out of reach.
	UserNS bool
	// Cgroups are the host's v1 hierarchies, for mounts of type cgroup; empty on
	// a host with cgroup v2 only.
	Cgroups []Cgroup
}

// Mount is one mount of the OCI spec, its options parsed.
type Mount struct {
	Type, Source, Target string
	Options              mount.Options
	// FD is 1 + the index of the received descriptor that already is this
	// mount, detached; 0 if it is to be made here.
	FD uint64
}

// Device is one node in /dev. Mode includes the type (S_IFCHR, …).
type Device struct {
	Path         string
	Mode         uint32
	Major, Minor uint32
	UID, GID     uint32
}

// KeyValue is one sysctl, by its path below /proc/sys.
type KeyValue struct{ Key, Value string }

// Cgroup is one v1 hierarchy: the directory below /sys/fs/cgroup and the mount
// options that select it. Path is the container's own directory in it, seen from
// the hierarchy's mount point on the host, for hosts without cgroup namespaces.
type Cgroup struct {
	Dir     string
	Options []string
	V2      bool
	Links   []string // other names that the host has for Dir
}

// Process describes the program and with what rights it runs.
type Process struct {
	Args, Env []string
	Cwd       string
	// User in docker's form ("name:group") is looked up inside; if it is empty
	// UID, GID hold.
	User     string
	UID, GID uint32
	Groups   []uint32
	// GroupAdd are further groups, names or numbers, looked up inside.
	GroupAdd []string
	Umask    int64 // -1: 0022
	Caps     Caps
	Rlimits  []Rlimit
	// NoNewPrivs, and the seccomp filter: an array of struct sock_filter, empty
	// for none, and the flags to load it with.
	NoNewPrivs   bool
	Seccomp      []byte
	SeccompFlags uint64
	AppArmor     string
	Terminal     bool
	Rows, Cols   uint32
	// Reaper keeps caisson-init above the program.
	Reaper bool
	// IOPriority is the value for ioprio_set, 0 to leave it.
	IOPriority uint64
	Scheduler  *Scheduler
}

// Caps are capability sets as bit masks.
type Caps struct {
	Bounding, Permitted, Effective, Inheritable, Ambient uint64
}

// Rlimit is one resource limit, by the kernel's number.
type Rlimit struct{ Type, Soft, Hard uint64 }

// Scheduler is struct sched_attr's content.
type Scheduler struct {
	Policy                    uint32
	Flags                     uint64
	Nice                      int64
	Priority                  uint32
	Runtime, Deadline, Period uint64
}

// Visit encodes or decodes in.
func (in *Instructions) Visit(c *pack.Coder) {
	c.Uint64(&in.Version)
	pack.Optional(c, &in.Container, func(k *Container) { k.visit(c) })
	in.Process.visit(c)
}

func (k *Container) visit(c *pack.Coder) {
	c.String(&k.RootPath)
	pack.List(c, &k.Rootfs, func(m *Mount) { m.visit(c) })
	pack.List(c, &k.Mounts, func(m *Mount) { m.visit(c) })
	c.Uint64(&k.RootPropagation)
	c.Bool(&k.ReadonlyRoot)
	pack.List(c, &k.Devices, func(d *Device) {
		c.String(&d.Path)
		c.Uint32(&d.Mode)
		c.Uint32(&d.Major)
		c.Uint32(&d.Minor)
		c.Uint32(&d.UID)
		c.Uint32(&d.GID)
	})
	c.Strings(&k.MaskedPaths)
	c.Strings(&k.ReadonlyPaths)
	pack.List(c, &k.Sysctls, func(kv *KeyValue) {
		c.String(&kv.Key)
		c.String(&kv.Value)
	})
	c.String(&k.Hostname)
	c.String(&k.Domainname)
	c.Bool(&k.NewCgroupNS)
	c.Bool(&k.NewTimeNS)
	c.String(&k.TimeOffsets)
	c.Bool(&k.UserNS)
	pack.List(c, &k.Cgroups, func(g *Cgroup) {
		c.String(&g.Dir)
		c.Strings(&g.Options)
		c.Bool(&g.V2)
		c.Strings(&g.Links)
	})
}

func (m *Mount) visit(c *pack.Coder) {
	c.String(&m.Type)
	c.String(&m.Source)
	c.String(&m.Target)
	m.Options.Visit(c)
	c.Uint64(&m.FD)
}

func (p *Process) visit(c *pack.Coder) {
	c.Strings(&p.Args)
	c.Strings(&p.Env)
	c.String(&p.Cwd)
	c.String(&p.User)
	c.Uint32(&p.UID)
	c.Uint32(&p.GID)
	pack.List(c, &p.Groups, c.Uint32)
	c.Strings(&p.GroupAdd)
	c.Int64(&p.Umask)
	c.Uint64(&p.Caps.Bounding)
	c.Uint64(&p.Caps.Permitted)
	c.Uint64(&p.Caps.Effective)
	c.Uint64(&p.Caps.Inheritable)
	c.Uint64(&p.Caps.Ambient)
	pack.List(c, &p.Rlimits, func(r *Rlimit) {
		c.Uint64(&r.Type)
		c.Uint64(&r.Soft)
		c.Uint64(&r.Hard)
	})
	c.Bool(&p.NoNewPrivs)
	c.Bytes(&p.Seccomp)
	c.Uint64(&p.SeccompFlags)
	c.String(&p.AppArmor)
	c.Bool(&p.Terminal)
	c.Uint32(&p.Rows)
	c.Uint32(&p.Cols)
	c.Bool(&p.Reaper)
	c.Uint64(&p.IOPriority)
	pack.Optional(c, &p.Scheduler, func(s *Scheduler) {
		c.Uint32(&s.Policy)
		c.Uint64(&s.Flags)
		c.Int64(&s.Nice)
		c.Uint32(&s.Priority)
		c.Uint64(&s.Runtime)
		c.Uint64(&s.Deadline)
		c.Uint64(&s.Period)
	})
}
