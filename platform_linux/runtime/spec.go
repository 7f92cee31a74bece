//go:build linux

package runtime

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/platform_linux/caps"
	"github.com/caisson-engine/caisson/platform_linux/initproc"
	"github.com/caisson-engine/caisson/platform_linux/mount"
)

// AnnotationGroupAdd lists supplementary groups, names or numbers separated by
// commas, that are looked up in the container's own /etc/group. The OCI spec has
// only numbers.
const AnnotationGroupAdd = "caisson.group-add"

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrNotImplemented)...)
}

// namespaceFlags are the OCI namespace types.
var namespaceFlags = map[specs.LinuxNamespaceType]uint64{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
}

// compile turns the OCI spec into a request to the keeper and instructions for
// caisson-init. What it cannot honour it refuses by name.
func (r *Runtime) compile(l *launch, o *CreateOptions) error {
	s := o.Spec
	if s == nil || s.Process == nil || s.Linux == nil {
		return invalid("an OCI spec needs process and linux")
	}
	if err := refuse(s); err != nil {
		return err
	}
	c := &initproc.Container{
		Hostname: s.Hostname, Domainname: s.Domainname,
		MaskedPaths: s.Linux.MaskedPaths, ReadonlyPaths: s.Linux.ReadonlyPaths,
	}
	l.in = &initproc.Instructions{Version: initproc.Version, Container: c}
	if err := r.compileProcess(l, s.Process, s.Linux.Seccomp); err != nil {
		return err
	}
	l.in.Process.Reaper = o.Reaper
	l.in.Process.GroupAdd = groupAdd(s.Annotations)
	if err := compileNamespaces(l, c, s, o.Netns); err != nil {
		return err
	}
	if err := r.compileRoot(c, s, o.Rootfs); err != nil {
		return err
	}
	for i := range s.Mounts {
		m, err := compileMount(&s.Mounts[i])
		if err != nil {
			return err
		}
		if m.Type == "cgroup" {
			c.Cgroups = r.host
		}
		c.Mounts = append(c.Mounts, m)
	}
	if err := compileDevices(c, s.Linux.Devices); err != nil {
		return err
	}
	for key, value := range s.Linux.Sysctl {
		// As sysctl(8) has it; a slash in the key stands for a dot in a name.
		name := strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
		c.Sysctls = append(c.Sysctls, initproc.KeyValue{Key: name, Value: value})
	}
	slices.SortFunc(c.Sysctls, func(a, b initproc.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	return nil
}

// refuse names what of a spec is not supported; running without it would be
// weaker, or other, than what was asked for.
func refuse(s *specs.Spec) error {
	h := s.Hooks
	for _, no := range []struct {
		asked bool
		what  string
	}{
		//nolint:staticcheck // Prestart is deprecated, and still refused
		{h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) > 0, "hooks"},
		{s.Process.SelinuxLabel != "" || s.Linux.MountLabel != "", "SELinux labels"},
		{s.Linux.IntelRdt != nil, "intelRdt"},
		{s.Linux.MemoryPolicy != nil, "memoryPolicy"},
		{s.Linux.Personality != nil, "personality"},
		{len(s.Linux.NetDevices) > 0, "netDevices"},
		{s.Process.ExecCPUAffinity != nil, "execCPUAffinity"},
		{s.VM != nil, "vm"},
	} {
		if no.asked {
			return unsupported("%s in the OCI spec are not supported by this runtime", no.what)
		}
	}
	return nil
}

func groupAdd(annotations map[string]string) []string {
	if list := annotations[AnnotationGroupAdd]; list != "" {
		return strings.Split(list, ",")
	}
	return nil
}

func compileNamespaces(l *launch, c *initproc.Container, s *specs.Spec, netns string) error {
	join := map[uint64]string{}
	for _, n := range s.Linux.Namespaces {
		flag, ok := namespaceFlags[n.Type]
		if !ok {
			return invalid("unknown namespace type %q", n.Type)
		}
		if _, twice := join[flag]; twice || l.request.Flags&flag != 0 {
			return invalid("namespace %q is in the spec twice", n.Type)
		}
		if n.Path == "" {
			l.request.Flags |= flag
		} else {
			join[flag] = n.Path
		}
	}
	if netns != "" {
		l.request.Flags &^= unix.CLONE_NEWNET
		join[unix.CLONE_NEWNET] = netns
	}
	if l.request.Flags&unix.CLONE_NEWNS == 0 {
		return unsupported("a container without a mount namespace of its own")
	}
	if join[unix.CLONE_NEWUSER] != "" || join[unix.CLONE_NEWTIME] != "" {
		return unsupported("joining a user or time namespace by path")
	}
	if (s.Hostname != "" || s.Domainname != "") && l.request.Flags&unix.CLONE_NEWUTS == 0 && join[unix.CLONE_NEWUTS] == "" {
		return invalid("a hostname needs a UTS namespace")
	}
	if join[unix.CLONE_NEWUTS] != "" {
		c.Hostname, c.Domainname = "", "" // it has them
	}
	// Its root is where its maker is, so caisson-init makes it, in its cgroups.
	c.NewCgroupNS = l.request.Flags&unix.CLONE_NEWCGROUP != 0
	l.request.Flags &^= unix.CLONE_NEWCGROUP
	if l.request.Flags&unix.CLONE_NEWTIME != 0 && len(s.Linux.TimeOffsets) > 0 {
		// Offsets are set before the first process is inside, which it then comes
		// only by its execve.
		if !kernelAtLeast(6, 3) {
			return unsupported("offsets of clocks before Linux 6.3")
		}
		l.request.Flags &^= unix.CLONE_NEWTIME
		c.NewTimeNS = true
		for clock, off := range s.Linux.TimeOffsets {
			c.TimeOffsets += fmt.Sprintf("%s %d %d\n", clock, off.Secs, off.Nanosecs)
		}
	}
	for _, flag := range []uint64{unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWNET, unix.CLONE_NEWCGROUP, unix.CLONE_NEWPID} {
		if join[flag] == "" {
			continue
		}
		f, err := os.Open(join[flag])
		if err != nil {
			return invalid("open the namespace %s: %w", join[flag], err)
		}
		l.request.Joins = append(l.request.Joins, flag)
		l.joins = append(l.joins, f)
	}
	if l.request.Flags&unix.CLONE_NEWUSER == 0 {
		return nil
	}
	c.UserNS = true
	var err error
	if l.request.UIDMap, err = idMap("uid", s.Linux.UIDMappings); err != nil {
		return err
	}
	l.request.GIDMap, err = idMap("gid", s.Linux.GIDMappings)
	return err
}

// maxMaps is how many lines the kernel takes in an id map.
const maxMaps = 340

func idMap(kind string, maps []specs.LinuxIDMapping) (string, error) {
	if len(maps) == 0 || len(maps) > maxMaps {
		return "", invalid("a user namespace needs 1 to %d %s mappings, the spec has %d", maxMaps, kind, len(maps))
	}
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String(), nil
}

func (r *Runtime) compileRoot(c *initproc.Container, s *specs.Spec, rootfs []Mount) error {
	if s.Root != nil {
		c.RootPath, c.ReadonlyRoot = s.Root.Path, s.Root.Readonly
	}
	for i, m := range rootfs {
		cm, err := compileMount(&specs.Mount{Type: m.Type, Source: m.Source, Destination: "/" + m.Target, Options: m.Options})
		if err != nil {
			return err
		}
		if i == 0 && m.Target != "" && m.Target != "/" {
			return invalid("the first mount of the root filesystem is at %q, not at the root", m.Target)
		}
		if cm.Options.Set&unix.MOUNT_ATTR_RDONLY != 0 && i == 0 {
			// Mount points are made in it first.
			cm.Options.Set &^= unix.MOUNT_ATTR_RDONLY
			c.ReadonlyRoot = true
		}
		c.Rootfs = append(c.Rootfs, cm)
	}
	if len(rootfs) > 0 {
		c.RootPath = r.root
	} else if !path.IsAbs(c.RootPath) {
		return invalid("root.path %q of the OCI spec is not absolute", c.RootPath)
	}
	if p := s.Linux.RootfsPropagation; p != "" {
		o := mount.Parse([]string{p})
		if o.Propagation == 0 {
			return invalid("rootfsPropagation %q", p)
		}
		c.RootPropagation = o.Propagation
	}
	return nil
}

func compileMount(m *specs.Mount) (initproc.Mount, error) {
	if !path.IsAbs(m.Destination) {
		return initproc.Mount{}, invalid("mount destination %q is not absolute", m.Destination)
	}
	c := initproc.Mount{Type: m.Type, Source: m.Source, Target: path.Clean(m.Destination), Options: mount.Parse(m.Options)}
	switch m.Type {
	case "bind":
		c.Options.Bind = true
	case "rbind":
		c.Options.Bind, c.Options.Recursive = true, true
	case "cgroup2":
		c.Type = "cgroup"
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return c, unsupported("the mount at %s with a mapping of its own; without one, the option idmap uses the container's", m.Destination)
	}
	if !c.Options.Bind {
		if c.Type == "" {
			return c, invalid("the mount at %s has no type", m.Destination)
		}
		return c, nil
	}
	if !path.IsAbs(m.Source) {
		return c, invalid("the source %q of the bind mount at %s is not absolute", m.Source, m.Destination)
	}
	// A bind has no filesystem to give options to; mount(8) passes them over too.
	c.Options.Data = nil
	return c, nil
}

// defaultDevices are what every container has (OCI runtime spec, linux).
var defaultDevices = []initproc.Device{
	{Path: "/dev/null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3},
	{Path: "/dev/zero", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 5},
	{Path: "/dev/full", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 7},
	{Path: "/dev/random", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 8},
	{Path: "/dev/urandom", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 9},
	{Path: "/dev/tty", Mode: unix.S_IFCHR | 0o666, Major: 5, Minor: 0},
}

var deviceTypes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

// madeElsewhere are devices that a client may name and that are made anyway.
var madeElsewhere = []string{"/dev/console", "/dev/ptmx", "/dev/pts/ptmx"}

func compileDevices(c *initproc.Container, list []specs.LinuxDevice) error {
	for _, d := range list {
		kind, ok := deviceTypes[d.Type]
		if !ok || !path.IsAbs(d.Path) || d.Path == "/" {
			return invalid("device %q of type %q", d.Path, d.Type)
		}
		if slices.Contains(madeElsewhere, path.Clean(d.Path)) {
			continue
		}
		mode := uint32(0o666)
		if d.FileMode != nil {
			mode = uint32(d.FileMode.Perm())
		}
		n := initproc.Device{Path: path.Clean(d.Path), Mode: kind | mode, Major: uint32(d.Major), Minor: uint32(d.Minor)}
		if d.UID != nil {
			n.UID = *d.UID
		}
		if d.GID != nil {
			n.GID = *d.GID
		}
		c.Devices = append(c.Devices, n)
	}
	for _, d := range defaultDevices {
		if !slices.ContainsFunc(c.Devices, func(have initproc.Device) bool { return have.Path == d.Path }) {
			c.Devices = append(c.Devices, d)
		}
	}
	return nil
}

// rlimits are the OCI names.
var rlimits = map[string]uint64{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3,
	"RLIMIT_CORE": 4, "RLIMIT_RSS": 5, "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10, "RLIMIT_SIGPENDING": 11,
	"RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

var ioClasses = map[specs.IOPriorityClass]uint64{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

func (r *Runtime) compileProcess(l *launch, p *specs.Process, seccomp *specs.LinuxSeccomp) error {
	t := &l.in.Process
	*t = initproc.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		User: p.User.Username, UID: p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids, Umask: -1,
		NoNewPrivs: p.NoNewPrivileges, AppArmor: p.ApparmorProfile, Terminal: p.Terminal,
	}
	if p.SelinuxLabel != "" {
		return unsupported("SELinux labels")
	}
	if p.Cwd != "" && !path.IsAbs(p.Cwd) {
		return invalid("the working directory %q is not absolute", p.Cwd)
	}
	for _, e := range p.Env {
		if strings.IndexByte(e, 0) >= 0 || !strings.Contains(e, "=") {
			return invalid("environment variable %q", e)
		}
	}
	if p.User.Umask != nil {
		t.Umask = int64(*p.User.Umask & 0o777)
	}
	if p.ConsoleSize != nil {
		t.Rows, t.Cols = uint32(p.ConsoleSize.Height), uint32(p.ConsoleSize.Width)
	}
	if c := p.Capabilities; c != nil {
		for _, set := range []struct {
			to   *uint64
			from []string
		}{
			{&t.Caps.Bounding, c.Bounding}, {&t.Caps.Permitted, c.Permitted}, {&t.Caps.Effective, c.Effective},
			{&t.Caps.Inheritable, c.Inheritable}, {&t.Caps.Ambient, c.Ambient},
		} {
			var unknown []string
			*set.to, unknown = caps.Mask(set.from)
			if len(unknown) > 0 {
				r.log.Warn("unknown capabilities are not given", "process", l.request.Key, "capabilities", unknown)
			}
			// What we do not have ourselves nobody can get from us.
			*set.to &= ownCaps()
		}
	}
	for _, limit := range p.Rlimits {
		n, ok := rlimits[limit.Type]
		if !ok {
			return invalid("resource limit %q", limit.Type)
		}
		if limit.Soft > limit.Hard {
			return invalid("resource limit %s: soft %d is above hard %d", limit.Type, limit.Soft, limit.Hard)
		}
		t.Rlimits = append(t.Rlimits, initproc.Rlimit{Type: n, Soft: limit.Soft, Hard: limit.Hard})
	}
	if p.OOMScoreAdj != nil {
		l.request.OOMScore = strconv.Itoa(*p.OOMScoreAdj)
	}
	if io := p.IOPriority; io != nil {
		class, ok := ioClasses[io.Class]
		if !ok || io.Priority < 0 || io.Priority > 7 {
			return invalid("ioPriority %q %d", io.Class, io.Priority)
		}
		t.IOPriority = class<<13 | uint64(io.Priority)
	}
	if p.Scheduler != nil {
		var err error
		if t.Scheduler, err = compileScheduler(p.Scheduler); err != nil {
			return err
		}
	}
	var err error
	t.Seccomp, t.SeccompFlags, err = r.filters.compile(seccomp)
	return err
}

var (
	schedulerPolicies = map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
	}
	schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
		specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04,
		specs.SchedFlagKeepPolicy: 0x08, specs.SchedFlagKeepParams: 0x10,
		specs.SchedFlagUtilClampMin: 0x20, specs.SchedFlagUtilClampMax: 0x40,
	}
)

func compileScheduler(s *specs.Scheduler) (*initproc.Scheduler, error) {
	policy, ok := schedulerPolicies[s.Policy]
	if !ok || s.Priority < 0 {
		return nil, invalid("scheduler policy %q, priority %d", s.Policy, s.Priority)
	}
	t := &initproc.Scheduler{
		Policy: policy, Nice: int64(s.Nice), Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, f := range s.Flags {
		bit, ok := schedulerFlags[f]
		if !ok {
			return nil, invalid("scheduler flag %q", f)
		}
		t.Flags |= bit
	}
	return t, nil
}
