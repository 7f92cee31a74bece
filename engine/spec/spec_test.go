package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/volume"
)

// fakeDevices knows /dev/kvm, /dev/sda and a directory.
type fakeDevices struct{}

func (fakeDevices) Resolve(path, inside string) ([]Device, error) {
	switch path {
	case "/dev/kvm":
		return []Device{{Path: inside, Type: "c", Major: 10, Minor: 232, Mode: 0o660}}, nil
	case "/dev/sda":
		return []Device{{Path: inside, Type: "b", Major: 8, Minor: 0, Mode: 0o660}}, nil
	case "/dev/snd":
		return []Device{{Path: inside + "/a", Type: "c", Major: 116, Minor: 1}, {Path: inside + "/b", Type: "c", Major: 116, Minor: 2}}, nil
	}
	return nil, fmt.Errorf("no device %s: %w", path, errdefs.ErrNotFound)
}

func (d fakeDevices) All() ([]Device, error) { return d.Resolve("/dev/kvm", "/dev/kvm") }

// input is a container that asks for nothing special. Only Linux can make a
// filter of system calls.
func input(change ...func(*Input)) *Input {
	in := &Input{
		ID: "0123", OS: "linux", Config: &container.Config{Cmd: []string{"sh"}}, Host: &container.HostConfig{},
		Hostname: "box", Devices: fakeDevices{},
	}
	if runtime.GOOS != "linux" {
		in.SeccompProfile = Unconfined
	}
	PathDefaults(in.Host, nil)
	for _, f := range change {
		f(in)
	}
	return in
}

func build(t *testing.T, change ...func(*Input)) *specs.Spec {
	t.Helper()
	s, err := Build(input(change...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func asked(f func(*container.HostConfig)) func(*Input) { return func(in *Input) { f(in.Host) } }

// The default container is what Docker's is.
func TestDefault(t *testing.T) {
	s := build(t)
	if want := []string{"sh"}; !slices.Equal(s.Process.Args, want) || s.Process.Cwd != "/" || s.Hostname != "box" {
		t.Error(s.Process)
	}
	if want := []string{"PATH=" + DefaultPath, "HOSTNAME=box"}; !slices.Equal(s.Process.Env, want) {
		t.Error(s.Process.Env)
	}
	caps := s.Process.Capabilities
	if len(caps.Bounding) != 14 || !slices.Equal(caps.Bounding, caps.Effective) || !slices.Equal(caps.Bounding, caps.Permitted) || caps.Inheritable != nil || caps.Ambient != nil {
		t.Error(caps)
	}
	var mounts []string
	for _, m := range s.Mounts {
		mounts = append(mounts, m.Destination+" "+m.Type+" "+strings.Join(m.Options, ","))
	}
	want := []string{
		"/proc proc nosuid,noexec,nodev",
		"/dev tmpfs nosuid,strictatime,mode=755,size=65536k",
		"/dev/pts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
		"/sys sysfs nosuid,noexec,nodev,ro",
		"/sys/fs/cgroup cgroup nosuid,noexec,nodev,ro",
		"/dev/mqueue mqueue nosuid,noexec,nodev",
		"/dev/shm tmpfs nosuid,noexec,nodev,mode=1777,size=67108864",
	}
	if !slices.Equal(mounts, want) {
		t.Errorf("mounts:\n%s", strings.Join(mounts, "\n"))
	}
	if !slices.Contains(s.Linux.MaskedPaths, "/proc/kcore") || !slices.Contains(s.Linux.ReadonlyPaths, "/proc/sys") {
		t.Error(s.Linux.MaskedPaths, s.Linux.ReadonlyPaths)
	}
	if got, want := kinds(s), "mount,network,uts,pid,ipc,cgroup,time"; got != want {
		t.Errorf("namespaces %s, want %s", got, want)
	}
	if d := s.Linux.Resources.Devices; d[0].Allow || d[0].Access != "rwm" || len(d) != 12 {
		t.Error(d)
	}
	if runtime.GOOS == "linux" && (s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActErrno) {
		t.Error("no filter of system calls")
	}
	if s.Process.NoNewPrivileges || s.Root.Readonly {
		t.Error(s.Process, s.Root)
	}
	if u, ok := s.Annotations[AnnotationUser]; !ok || u != "" {
		t.Error(s.Annotations)
	}
}

func kinds(s *specs.Spec) string {
	var out []string
	for _, n := range s.Linux.Namespaces {
		k := string(n.Type)
		if n.Path != "" {
			k += "=" + n.Path
		}
		out = append(out, k)
	}
	return strings.Join(out, ",")
}

func TestNamespaces(t *testing.T) {
	for want, f := range map[string]func(*Input){
		"mount,uts,pid,ipc,cgroup,time": asked(func(h *container.HostConfig) { h.NetworkMode = "host" }),
		"mount,network,ipc,time":        asked(func(h *container.HostConfig) { h.UTSMode, h.PidMode, h.CgroupnsMode = "host", "host", "host" }),
		"mount,network,uts,pid=/p,ipc=/i,cgroup,time": func(in *Input) {
			in.Host.PidMode, in.Host.IpcMode = "container:x", "container:x"
			in.Join = map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "/p", specs.IPCNamespace: "/i"}
			in.DonorShm = "/shm"
		},
		"mount,network,uts,pid,ipc,cgroup,time,user": func(in *Input) { in.UserNS = DefaultIDs },
	} {
		s := build(t, f)
		if got := kinds(s); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	s := build(t, func(in *Input) { in.UserNS = DefaultIDs })
	if m := s.Linux.UIDMappings; len(m) != 1 || m[0].HostID != 100000 || m[0].Size != 65536 {
		t.Error(m)
	}
	if s := build(t, asked(func(h *container.HostConfig) { h.UTSMode = "host" })); s.Hostname != "" {
		t.Error("the host's name would be changed")
	}
}

func TestIPC(t *testing.T) {
	shm := func(s *specs.Spec) string {
		for _, m := range s.Mounts {
			if m.Destination == "/dev/shm" {
				return m.Type + ":" + m.Source
			}
		}
		return ""
	}
	for mode, want := range map[container.IpcMode]string{"": "tmpfs:shm", "shareable": "tmpfs:shm", "host": "bind:/dev/shm", "none": "", "container:x": "bind:/donor"} {
		s := build(t, func(in *Input) { in.Host.IpcMode, in.DonorShm, in.Join = mode, "/donor", AnyNamespace })
		if got := shm(s); got != want {
			t.Errorf("ipc %q: %q, want %q", mode, got, want)
		}
	}
}

func TestUserNSConflicts(t *testing.T) {
	for _, h := range []container.HostConfig{{Privileged: true}, {PidMode: "host"}, {NetworkMode: "host"}, {IpcMode: "host"}, {NetworkMode: "container:x"}} {
		h.UsernsMode = "private"
		if _, err := UserNS(&h); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", h, err)
		}
	}
	if _, err := UserNS(&container.HostConfig{UsernsMode: "keep-id"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	s := build(t, func(in *Input) {
		in.Config.Tty = true
		in.Config.Env = []string{"A=1", "PATH=/mine", "A=2", "TERM", "EMPTY="}
	})
	if want := []string{"PATH=/mine", "HOSTNAME=box", "A=2", "EMPTY="}; !slices.Equal(s.Process.Env, want) {
		t.Error(s.Process.Env)
	}
}

func TestUserAndGroups(t *testing.T) {
	s := build(t, func(in *Input) { in.Config.User, in.Host.GroupAdd = "1000:bob", []string{"5", "audio"} })
	if u := s.Process.User; u.UID != 1000 || u.GID != 0 || u.Username != "1000:bob" {
		t.Error(u)
	}
	if s.Annotations[AnnotationUser] != "1000:bob" || s.Annotations[AnnotationGroupAdd] != "5,audio" {
		t.Error(s.Annotations)
	}
	s = build(t, func(in *Input) { in.Host.Annotations = map[string]string{AnnotationUser: "0", "mine": "x"} })
	if s.Annotations[AnnotationUser] != "" || s.Annotations["mine"] != "x" {
		t.Errorf("a client overruled the user: %v", s.Annotations)
	}
}

func TestCapabilities(t *testing.T) {
	for _, c := range []struct {
		add, drop []string
		n         int
		has, not  string
	}{
		{nil, nil, 14, "CAP_CHOWN", "CAP_SYS_ADMIN"},
		{[]string{"sys_admin"}, nil, 15, "CAP_SYS_ADMIN", ""},
		{nil, []string{"CAP_CHOWN"}, 13, "CAP_KILL", "CAP_CHOWN"},
		{nil, []string{"all"}, 0, "", "CAP_KILL"},
		{[]string{"NET_ADMIN"}, []string{"ALL"}, 1, "CAP_NET_ADMIN", "CAP_KILL"},
		{[]string{"ALL"}, nil, len(allCaps), "CAP_SYS_ADMIN", ""},
		{[]string{"ALL"}, []string{"SYS_ADMIN"}, len(allCaps) - 1, "CAP_BPF", "CAP_SYS_ADMIN"},
		{[]string{"CHOWN"}, []string{"CHOWN"}, 14, "CAP_CHOWN", ""},
		{[]string{"ALL"}, []string{"ALL"}, len(allCaps), "CAP_BPF", ""},
	} {
		got, err := Capabilities(c.add, c.drop, false)
		if err != nil || len(got) != c.n || c.has != "" && !slices.Contains(got, c.has) || slices.Contains(got, c.not) {
			t.Errorf("+%v -%v: %v %v", c.add, c.drop, got, err)
		}
	}
	if got, _ := Capabilities(nil, nil, false); len(got) != 14 {
		t.Error("the defaults were changed")
	}
	if _, err := Capabilities([]string{"FLY"}, nil, true); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if got, _ := Capabilities(nil, nil, true); len(got) != len(allCaps) {
		t.Error(got)
	}
}

func TestPrivileged(t *testing.T) {
	s := build(t, asked(func(h *container.HostConfig) { h.Privileged, h.MaskedPaths, h.ReadonlyPaths = true, nil, nil }))
	if s.Linux.Seccomp != nil || len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) > 0 || len(s.Process.Capabilities.Bounding) != len(allCaps) {
		t.Error("something is still confined")
	}
	for _, m := range s.Mounts {
		if slices.Contains(m.Options, "ro") {
			t.Errorf("%s is read-only", m.Destination)
		}
	}
	if len(s.Linux.Devices) != 1 || !s.Linux.Resources.Devices[0].Allow {
		t.Error(s.Linux.Devices)
	}
}

func TestMounts(t *testing.T) {
	s := build(t, func(in *Input) {
		in.Files = Files{Hosts: "/d/hosts", Resolv: "/d/resolv.conf"}
		in.Host.ReadonlyRootfs = true
		in.Mounts = []volume.Mount{
			{Type: "bind", Source: "/h", Destination: "/c", ReadOnly: true, Propagation: "rslave"},
			{Type: "volume", Source: "/v", Destination: "/data"},
			{Type: "volume", Source: "/v", Destination: "/nocopy", NoCopy: true},
			{Type: "tmpfs", Destination: "/run", Options: []string{"size=1m"}},
			{Type: "bind", Source: "/x", Destination: "/dev/shm"},
			{Type: "bind", Source: "/my/hosts", Destination: "/etc/hosts"},
		}
	})
	got := map[string]string{}
	for _, m := range s.Mounts {
		if _, twice := got[m.Destination]; twice {
			t.Errorf("%s twice", m.Destination)
		}
		got[m.Destination] = m.Type + " " + m.Source + " " + strings.Join(m.Options, ",")
	}
	for dest, want := range map[string]string{
		"/c": "bind /h rbind,rslave,ro,rro", "/data": "bind /v rbind,rprivate," + OptionCopyUp, "/nocopy": "bind /v rbind,rprivate",
		"/run": "tmpfs tmpfs size=1m", "/dev/shm": "bind /x rbind,rprivate", "/etc/hosts": "bind /my/hosts rbind,rprivate",
		"/etc/resolv.conf": "bind /d/resolv.conf rbind,rprivate,ro",
	} {
		if got[dest] != want {
			t.Errorf("%s: %q, want %q", dest, got[dest], want)
		}
	}
	if !s.Root.Readonly || s.Linux.RootfsPropagation != "rslave" {
		t.Error(s.Root, s.Linux.RootfsPropagation)
	}
}

func TestResources(t *testing.T) {
	limit, yes := int64(20), true
	s := build(t, asked(func(h *container.HostConfig) {
		h.Memory, h.MemoryReservation, h.NanoCPUs, h.CPUShares, h.CpusetCpus = 64<<20, 32<<20, 1_500_000_000, 512, "0-1,3"
		h.PidsLimit, h.OomKillDisable, h.BlkioWeight = &limit, &yes, 300
		h.BlkioDeviceReadBps = []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 1000}}
	}))
	r := s.Linux.Resources
	if *r.Memory.Limit != 64<<20 || *r.Memory.Swap != 128<<20 || *r.Memory.Reservation != 32<<20 || !*r.Memory.DisableOOMKiller {
		t.Error(r.Memory)
	}
	if *r.CPU.Period != 100000 || *r.CPU.Quota != 150000 || *r.CPU.Shares != 512 || r.CPU.Cpus != "0-1,3" {
		t.Error(r.CPU)
	}
	if *r.Pids.Limit != 20 || *r.BlockIO.Weight != 300 || r.BlockIO.ThrottleReadBpsDevice[0].Major != 8 {
		t.Error(r.Pids, r.BlockIO)
	}
	if r := build(t).Linux.Resources; r.Memory != nil || r.CPU != nil || r.Pids != nil || r.BlockIO != nil {
		t.Error("limits that nobody set")
	}
}

func TestDevices(t *testing.T) {
	s := build(t, asked(func(h *container.HostConfig) {
		h.Devices = []container.DeviceMapping{{PathOnHost: "/dev/kvm", CgroupPermissions: "rw"}, {PathOnHost: "/dev/snd", PathInContainer: "/dev/sound"}}
		h.DeviceCgroupRules = []string{"c 42:* rmw"}
	}))
	var nodes []string
	for _, d := range s.Linux.Devices {
		nodes = append(nodes, fmt.Sprintf("%s %d:%d", d.Path, d.Major, d.Minor))
	}
	if want := []string{"/dev/kvm 10:232", "/dev/sound/a 116:1", "/dev/sound/b 116:2"}; !slices.Equal(nodes, want) {
		t.Error(nodes)
	}
	rules := s.Linux.Resources.Devices[12:]
	if len(rules) != 4 || rules[0].Access != "rw" || *rules[3].Major != 42 || rules[3].Minor != nil {
		t.Error(rules)
	}
}

func TestSysctls(t *testing.T) {
	s := build(t, asked(func(h *container.HostConfig) {
		h.Sysctls = map[string]string{"kernel.shmmax": "1", "net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "5"}
	}))
	if want := map[string]string{"kernel.shmmax": "1", "fs.mqueue.msg_max": "5"}; !reflect.DeepEqual(s.Linux.Sysctl, want) {
		t.Error(s.Linux.Sysctl)
	}
	if n := NetSysctls(map[string]string{"kernel.shmmax": "1", "net.core.somaxconn": "5"}); len(n) != 1 {
		t.Error(n)
	}
}

func TestRefusals(t *testing.T) {
	swappiness := int64(101)
	for name, f := range map[string]func(*Input){
		"no command":        func(in *Input) { in.Config.Cmd = nil },
		"relative workdir":  func(in *Input) { in.Config.WorkingDir = "x" },
		"little memory":     asked(func(h *container.HostConfig) { h.Memory = 1 << 20 }),
		"swap below memory": asked(func(h *container.HostConfig) { h.Memory, h.MemorySwap = 64<<20, 32<<20 }),
		"swap alone":        asked(func(h *container.HostConfig) { h.MemorySwap = 32 << 20 }),
		"soft above hard":   asked(func(h *container.HostConfig) { h.Memory, h.MemoryReservation = 32<<20, 64<<20 }),
		"swappiness":        asked(func(h *container.HostConfig) { h.MemorySwappiness = &swappiness }),
		"cpus and quota":    asked(func(h *container.HostConfig) { h.NanoCPUs, h.CPUQuota = 1e9, 5000 }),
		"tiny cpus":         asked(func(h *container.HostConfig) { h.NanoCPUs = 1e6 }),
		"cpu period":        asked(func(h *container.HostConfig) { h.CPUPeriod = 10 }),
		"cpuset":            asked(func(h *container.HostConfig) { h.CpusetCpus = "3-1" }),
		"cpuset words":      asked(func(h *container.HostConfig) { h.CpusetMems = "a" }),
		"weight":            asked(func(h *container.HostConfig) { h.BlkioWeight = 5 }),
		"throttle of a tty": asked(func(h *container.HostConfig) { h.BlkioDeviceReadBps = []*blkiodev.ThrottleDevice{{Path: "/dev/kvm"}} }),
		"ulimit":            asked(func(h *container.HostConfig) { h.Ulimits = []*container.Ulimit{{Name: "moon"}} }),
		"ulimit order":      asked(func(h *container.HostConfig) { h.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: 5, Hard: 4}} }),
		"oom score":         asked(func(h *container.HostConfig) { h.OomScoreAdj = 1001 }),
		"device rule":       asked(func(h *container.HostConfig) { h.DeviceCgroupRules = []string{"c 1:3"} }),
		"device mode": asked(func(h *container.HostConfig) {
			h.Devices = []container.DeviceMapping{{PathOnHost: "/dev/kvm", CgroupPermissions: "x"}}
		}),
		"device place": asked(func(h *container.HostConfig) {
			h.Devices = []container.DeviceMapping{{PathOnHost: "/dev/kvm", PathInContainer: "rel"}}
		}),
		"host sysctl": asked(func(h *container.HostConfig) { h.Sysctls = map[string]string{"kernel.panic": "1"} }),
		"sysctl of the host": asked(func(h *container.HostConfig) {
			h.NetworkMode = "host"
			h.Sysctls = map[string]string{"net.core.somaxconn": "1"}
		}),
		"sysctl path":     asked(func(h *container.HostConfig) { h.Sysctls = map[string]string{"net.../../kernel/panic": "1"} }),
		"security option": asked(func(h *container.HostConfig) { h.SecurityOpt = []string{"moon=1"} }),
		"nnp":             asked(func(h *container.HostConfig) { h.SecurityOpt = []string{"no-new-privileges=maybe"} }),
		"seccomp":         asked(func(h *container.HostConfig) { h.SecurityOpt = []string{"seccomp={"} }),
		"masked path":     asked(func(h *container.HostConfig) { h.MaskedPaths = []string{"proc"} }),
		"group":           asked(func(h *container.HostConfig) { h.GroupAdd = []string{"a,b"} }),
	} {
		if _, err := Build(input(f)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, f := range map[string]func(*Input){
		"apparmor": asked(func(h *container.HostConfig) { h.SecurityOpt = []string{"apparmor=mine"} }),
		"selinux":  asked(func(h *container.HostConfig) { h.SecurityOpt = []string{"label=type:x"} }),
		"gpus":     asked(func(h *container.HostConfig) { h.DeviceRequests = []container.DeviceRequest{{Driver: "nvidia"}} }),
		"windows":  func(in *Input) { in.OS = "windows" },
	} {
		if _, err := Build(input(f)); !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecurityOptions(t *testing.T) {
	s := build(t, asked(func(h *container.HostConfig) {
		h.SecurityOpt = []string{"no-new-privileges", "seccomp=unconfined", "apparmor:unconfined", "label=disable", "writable-cgroups=true"}
	}))
	if !s.Process.NoNewPrivileges || s.Linux.Seccomp != nil {
		t.Error(s.Process.NoNewPrivileges, s.Linux.Seccomp)
	}
	for _, m := range s.Mounts {
		if ro := slices.Contains(m.Options, "ro"); m.Destination == "/sys/fs/cgroup" && ro || m.Destination == "/sys" && !ro {
			t.Errorf("%s: %v", m.Destination, m.Options)
		}
	}
}

func TestSeccomp(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs linux: filters can be made there only")
	}
	allows := func(f *specs.LinuxSeccomp, name string) bool {
		return slices.ContainsFunc(f.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && slices.Contains(s.Names, name) && len(s.Args) == 0
		})
	}
	plain := build(t).Linux.Seccomp
	admin := build(t, asked(func(h *container.HostConfig) { h.CapAdd = []string{"SYS_ADMIN"} })).Linux.Seccomp
	for name, want := range map[string][2]bool{"read": {true, true}, "mount": {false, true}, "kexec_load": {false, false}, "io_uring_setup": {false, false}} {
		if got := [2]bool{allows(plain, name), allows(admin, name)}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if again := build(t).Linux.Seccomp; again != plain {
		t.Error("the filter was made twice")
	}
	custom := build(t, asked(func(h *container.HostConfig) {
		h.SecurityOpt = []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"chmod","action":"SCMP_ACT_ERRNO"}]}`}
	})).Linux.Seccomp
	if custom.DefaultAction != specs.ActAllow || len(custom.Syscalls) != 1 {
		t.Error(custom)
	}
}

// Marshal writes what Build makes, whatever clients write.
func TestMarshal(t *testing.T) {
	for name, f := range map[string]func(*Input){
		"plain":  func(*Input) {},
		"custom": asked(func(h *container.HostConfig) { h.SecurityOpt = []string{"seccomp=unconfined"} }),
		"hostile": func(in *Input) {
			in.Config.Env = []string{"X=" + string(placeholderJSON), `Y="linux":{"seccomp":{"defaultAction":"@filter@"}}`}
			in.Config.Cmd = []string{string(placeholderJSON)}
		},
	} {
		want := build(t, f)
		b, err := Marshal(input(f))
		if err != nil {
			t.Fatal(err)
		}
		wb, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != string(wb) {
			t.Errorf("%s: differs", name)
		}
	}
}

func TestExec(t *testing.T) {
	in := input(func(in *Input) {
		in.Config.User, in.Config.WorkingDir, in.Config.Env = "bob", "/w", []string{"A=1"}
		in.Host.SecurityOpt, in.Host.CapDrop = []string{"no-new-privileges", "seccomp=unconfined"}, []string{"ALL"}
	})
	p, err := Exec(in, &container.ExecCreateRequest{Cmd: []string{"ls"}, Env: []string{"A=2"}, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.User.Username != "bob" || p.Cwd != "/w" || !slices.Contains(p.Env, "A=2") || !slices.Contains(p.Env, "TERM=xterm") || !p.NoNewPrivileges || len(p.Capabilities.Bounding) != 0 {
		t.Errorf("%+v", p)
	}
	p, err = Exec(in, &container.ExecCreateRequest{Cmd: []string{"ls"}, User: "0", Privileged: true, WorkingDir: "/x"})
	if err != nil || p.User.Username != "0" || p.Cwd != "/x" || len(p.Capabilities.Bounding) != len(allCaps) {
		t.Errorf("%+v %v", p, err)
	}
	if _, err := Exec(in, &container.ExecCreateRequest{Cmd: []string{"ls"}, WorkingDir: "x"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func BenchmarkMarshal(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Marshal(input()); err != nil {
			b.Fatal(err)
		}
	}
}
