package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func say(key string, value any) { fmt.Printf("%s %v\n", strings.ReplaceAll(key, " ", "_"), value) }

func main() {
	if os.Getenv("CAISSON_PROBE") == "" {
		fmt.Fprintln(os.Stderr, "probe: run this in a container: where nothing stops it, it mounts and renames things")
		os.Exit(2)
	}
	status()
	limits()
	namespaces()
	files()
	mounts()
	devices()
	syscalls()
}

// verdict is ok or the name of an error.
func verdict(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func status() {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		say("status", verdict(err))
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), ":")
		switch key {
		case "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Umask":
			say("status/"+key, strings.Join(strings.Fields(value), ","))
		}
	}
}

func limits() {
	for name, which := range map[string]int{
		"core": unix.RLIMIT_CORE, "nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "memlock": unix.RLIMIT_MEMLOCK, "stack": unix.RLIMIT_STACK,
	} {
		var l unix.Rlimit
		if err := unix.Getrlimit(which, &l); err != nil {
			say("rlimit/"+name, verdict(err))
			continue
		}
		say("rlimit/"+name, fmt.Sprintf("%d/%d", l.Cur, l.Max))
	}
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	say("oom_score_adj", strings.TrimSpace(string(data))+verdict(err))
}

// namespaces prints the inode of each; the test compares with the host's.
func namespaces() {
	links, _ := filepath.Glob("/proc/self/ns/*")
	for _, l := range links {
		if strings.HasSuffix(l, "_for_children") {
			continue
		}
		to, err := os.Readlink(l)
		if err != nil {
			to = verdict(err)
		}
		say("ns/"+filepath.Base(l), to)
	}
}

// readable paths are those that tell about, and writable ones those that change,
// the host.
var readable = []string{
	"/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
	"/proc/acpi", "/proc/asound", "/proc/scsi", "/proc/interrupts", "/proc/kmsg", "/proc/vmallocinfo", "/proc/kallsyms", "/proc/iomem",
	"/sys/firmware", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/fs/bpf", "/sys/kernel/security",
	"/sys/devices/virtual/powercap", "/sys/devices/system/cpu/cpu0/thermal_throttle",
	"/proc/1/root", "/proc/1/environ", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/net/tun", "/dev/kvm",
}

var writable = []string{
	"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/shmmax", "/proc/sys/kernel/randomize_va_space",
	"/proc/sys/vm/overcommit_memory", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/mqueue/msg_max",
	"/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/bus", "/proc/fs", "/proc/mtrr",
	"/proc/self/oom_score_adj", "/proc/self/attr/current",
	"/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.procs",
	"/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/rdma/release_agent",
	"/sys/kernel/uevent_helper", "/sys/module", "/sys/class/net/lo/mtu",
	"/", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev", "/dev/shm", "/dev/null", "/tmp",
}

func files() {
	for _, p := range readable {
		say("read "+p, read(p))
	}
	for _, p := range writable {
		say("write "+p, write(p))
	}
}

// read tells whether there is anything to be read.
func read(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return verdict(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return verdict(err)
	}
	if fi.IsDir() {
		names, err := f.Readdirnames(1)
		if len(names) == 0 {
			return "empty directory"
		}
		return "directory " + verdict(err)
	}
	n, err := f.Read(make([]byte, 16))
	if n == 0 {
		return "nothing"
	}
	return "data " + verdict(err)
}

// write opens for writing but writes nothing.
func write(path string) string {
	fi, err := os.Stat(path)
	if err != nil {
		return verdict(err)
	}
	if fi.IsDir() {
		return verdict(unix.Access(path, unix.W_OK))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		f.Close()
	}
	return verdict(err)
}

// mounts prints type and the protective options of each mount point that both
// engines have.
func mounts() {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		say("mountinfo", verdict(err))
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		before, after, _ := strings.Cut(sc.Text(), " - ")
		fields, fs := strings.Fields(before), strings.Fields(after)
		var protective []string
		for o := range strings.SplitSeq(fields[5], ",") {
			if slices.Contains([]string{"ro", "nosuid", "nodev", "noexec"}, o) {
				protective = append(protective, o)
			}
		}
		slices.Sort(protective)
		say("mount "+fields[4], fs[0]+" "+strings.Join(protective, ","))
		for _, optional := range fields[6:] {
			if optional != "-" {
				say("propagation "+fields[4], strings.SplitN(optional, ":", 2)[0])
			}
		}
	}
}

func devices() {
	entries, err := os.ReadDir("/dev")
	if err != nil {
		say("dev", verdict(err))
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	say("dev", strings.Join(names, ","))
	// Making a node is one thing, opening it another.
	for name, dev := range map[string]uint64{"null": unix.Mkdev(1, 3), "mem": unix.Mkdev(1, 1), "sda": unix.Mkdev(8, 0), "vda": unix.Mkdev(254, 0), "fuse": unix.Mkdev(10, 229), "tun": unix.Mkdev(10, 200)} {
		mode := uint32(unix.S_IFCHR)
		if strings.HasSuffix(name, "da") {
			mode = unix.S_IFBLK
		}
		path := "/tmp/probe-" + name
		err := unix.Mknod(path, mode|0o600, int(dev))
		say("mknod "+name, verdict(err))
		if err == nil {
			say("open made "+name, write(path))
			os.Remove(path)
		}
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	var open []string
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || strings.HasSuffix(to, "/fd") || strings.Contains(to, "eventpoll") || strings.Contains(to, "eventfd") {
			continue
		}
		open = append(open, fd.Name())
	}
	say("fds", strings.Join(open, ","))
}

// calls are system calls that a container's program has no business with, with
// arguments that cannot succeed or do nothing.
var calls = []struct {
	name string
	call func() error
}{
	{"mount", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
	{"umount2", func() error { return unix.Unmount("/nowhere", 0) }},
	{"pivot_root", func() error { return unix.PivotRoot("/nowhere", "/nowhere") }},
	{"unshare_user", func() error { return child(unix.CLONE_NEWUSER) }},
	{"unshare_mnt", func() error { return child(unix.CLONE_NEWNS) }},
	{"setns", func() error { return unix.Setns(-1, 0) }},
	{"bpf", func() error { return raw(unix.SYS_BPF, ^uintptr(0), 0) }},
	{"perf_event_open", func() error { return raw(unix.SYS_PERF_EVENT_OPEN, 0, 0) }},
	{"keyctl", func() error { return raw(unix.SYS_KEYCTL, 0, ^uintptr(2)) }},
	{"add_key", func() error { return raw(unix.SYS_ADD_KEY, 0, 0) }},
	{"request_key", func() error { return raw(unix.SYS_REQUEST_KEY, 0, 0) }},
	{"ptrace", func() error { return raw(unix.SYS_PTRACE, 99999, 1) }},
	{"process_vm_readv", func() error { return raw(unix.SYS_PROCESS_VM_READV, 1<<30, 0) }},
	{"kexec_load", func() error { return raw(unix.SYS_KEXEC_LOAD, 0, 99) }},
	{"init_module", func() error { return raw(unix.SYS_INIT_MODULE, 0, 0) }},
	{"finit_module", func() error { return raw(unix.SYS_FINIT_MODULE, ^uintptr(0), 0) }},
	{"delete_module", func() error { return raw(unix.SYS_DELETE_MODULE, 0, 0) }},
	{"open_by_handle_at", func() error { return raw(unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(0), 0) }},
	{"name_to_handle_at", func() error { return raw(unix.SYS_NAME_TO_HANDLE_AT, ^uintptr(0), 0) }},
	{"swapon", func() error { return raw(unix.SYS_SWAPON, 0, 0) }},
	{"acct", func() error { return unix.Acct("/nowhere") }},
	{"settimeofday", func() error { return raw(unix.SYS_SETTIMEOFDAY, 1, 1) }},
	{"clock_settime", func() error { return raw(unix.SYS_CLOCK_SETTIME, 0, 1) }},
	{"adjtimex", func() error { var t unix.Timex; _, err := unix.Adjtimex(&t); return err }},
	{"syslog", func() error { return raw(unix.SYS_SYSLOG, 10, 0) }},
	{"quotactl", func() error { return raw(unix.SYS_QUOTACTL, 0, 0) }},
	{"userfaultfd", func() error { return closing(unix.SYS_USERFAULTFD, 0) }},
	{"io_uring_setup", func() error { return raw(unix.SYS_IO_URING_SETUP, 1, 0) }},
	{"personality_odd", func() error { return raw(unix.SYS_PERSONALITY, 0x0200000, 0) }},
	{"fanotify_init", func() error { return closing(unix.SYS_FANOTIFY_INIT, 0) }},
	{"fsopen", func() error { return raw(unix.SYS_FSOPEN, 0, 0) }},
	{"open_tree", func() error { return raw(unix.SYS_OPEN_TREE, ^uintptr(0), 0) }},
	{"move_mount", func() error { return raw(unix.SYS_MOVE_MOUNT, ^uintptr(0), 0) }},
	{"mount_setattr", func() error { return raw(unix.SYS_MOUNT_SETATTR, ^uintptr(0), 0) }},
	{"pidfd_open", func() error { return closing(unix.SYS_PIDFD_OPEN, uintptr(os.Getpid())) }},
	{"pidfd_getfd", func() error { return raw(unix.SYS_PIDFD_GETFD, ^uintptr(0), 0) }},
	{"lookup_dcookie", func() error { return raw(unix.SYS_LOOKUP_DCOOKIE, 0, 0) }},
	{"get_mempolicy", func() error { return raw(unix.SYS_GET_MEMPOLICY, 0, 0) }},
	{"mbind", func() error { return raw(unix.SYS_MBIND, 1, 0) }},
	{"move_pages", func() error { return raw(unix.SYS_MOVE_PAGES, 1, 0) }},
	{"vhangup", func() error { return raw(unix.SYS_VHANGUP, 0, 0) }},
	{"chroot", func() error { return unix.Chroot("/nowhere") }},
	{"sethostname", func() error { return unix.Sethostname([]byte("probe")) }},
	{"setpriority_up", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -5) }},
	{"socket_raw", func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
	{"socket_packet", func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
	{"socket_vsock", func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
	{"socket_netlink_audit", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT) }},
	{"chown", func() error { return try(func(p string) error { return os.Chown(p, 12345, 12345) }) }},
	{"setuid_bit", func() error { return try(func(p string) error { return unix.Chmod(p, 0o4755) }) }},
	{"trusted_xattr", func() error {
		return try(func(p string) error { return unix.Setxattr(p, "trusted.probe", []byte("x"), 0) })
	}},
	{"bind_low_port", func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Bind(fd, &unix.SockaddrInet4{Port: 81})
	}},
}

func syscalls() {
	for _, c := range calls {
		say("call "+c.name, verdict(c.call()))
	}
}

func raw(nr, a, b uintptr) error {
	_, _, errno := unix.Syscall6(nr, a, b, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func closing(nr, a uintptr) error {
	fd, _, errno := unix.Syscall(nr, a, 0, 0)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

// child tries to make a namespace by a clone that fails late, if it may at all:
// CLONE_THREAD and a new user namespace exclude each other, so for that the
// kernel's own answer EINVAL means that nothing stood in the way.
func child(flag uintptr) error {
	if flag == unix.CLONE_NEWUSER {
		return raw(unix.SYS_UNSHARE, flag|unix.CLONE_FS|unix.CLONE_THREAD, 0)
	}
	return raw(unix.SYS_UNSHARE, flag, 0)
}

func socket(domain, typ, proto int) error {
	fd, err := unix.Socket(domain, typ, proto)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func try(f func(path string) error) error {
	t, err := os.CreateTemp("", "probe")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	defer t.Close()
	return f(t.Name())
}
