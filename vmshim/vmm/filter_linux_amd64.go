package vmm

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are system calls that the monitor never needs, and why somebody who took
// it over would want them. The monitor's own -sandbox comes on top of this one: it
// takes exec, fork and set*id away once it has started.
var denied = []struct {
	why   string
	errno unix.Errno
	calls []uint32
}{
	{"another process's memory, descriptors or secrets", unix.EPERM, []uint32{
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_OPEN,
		unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_KCMP, unix.SYS_PROCESS_MADVISE,
	}},
	{"new namespaces: a user namespace has all capabilities inside", unix.EPERM, []uint32{
		unix.SYS_UNSHARE, unix.SYS_SETNS,
	}},
	{"flags in memory, where a filter can not see them; libc falls back to clone", unix.ENOSYS, []uint32{
		unix.SYS_CLONE3,
	}},
	{"another view of the file system", unix.EPERM, []uint32{
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
		unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
		unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_QUOTACTL, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
	}},
	{"new connections: all of ours were inherited", unix.EPERM, []uint32{
		unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
	}},
	{"large kernel interfaces with a history of holes", unix.EPERM, []uint32{
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
		unix.SYS_FANOTIFY_INIT, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_MODIFY_LDT, unix.SYS_VMSPLICE, unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES,
		unix.SYS_MSGGET, unix.SYS_SEMGET, unix.SYS_SHMGET, unix.SYS_MQ_OPEN,
	}},
	{"a second way into the kernel that no filter sees", unix.ENOSYS, []uint32{
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	}},
	{"the host itself", unix.EPERM, []uint32{
		unix.SYS_REBOOT, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_ACCT, unix.SYS_SYSLOG,
		unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP, unix.SYS_PERSONALITY,
	}},
	{"another program", unix.EPERM, []uint32{unix.SYS_EXECVEAT, unix.SYS_USELIB}},
}

const (
	auditArch  = 0xc000003e // x86-64
	x32Bit     = 0x40000000
	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
)

// filter is denied as a program for the kernel's little machine. Each test is
// followed by its answer, so that no jump is longer than one.
func filter(allowed, more []uint32) []unix.SockFilter {
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	// A jump over the next instruction unless the comparison holds.
	unless := func(compare uint16, k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | compare | unix.BPF_K, K: k, Jt: 0, Jf: 1}
	}
	answer := func(e unix.Errno) unix.SockFilter {
		return stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(e))
	}
	load := func(offset uint32) unix.SockFilter {
		return stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset)
	}
	const nr, arch, arg0 = 0, 4, 16
	program := []unix.SockFilter{
		load(arch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch, Jt: 1, Jf: 0},
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_KILL_PROCESS),
		load(nr),
		unless(unix.BPF_JGE, x32Bit), answer(unix.ENOSYS),
	}
	for _, group := range denied {
		for _, call := range group.calls {
			if slices.Contains(allowed, call) {
				continue
			}
			program = append(program, unless(unix.BPF_JEQ, call), answer(group.errno))
		}
	}
	for _, call := range more {
		program = append(program, unless(unix.BPF_JEQ, call), answer(unix.EPERM))
	}
	// Threads yes, namespaces no.
	return append(program,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jt: 0, Jf: 3},
		load(arg0),
		unless(unix.BPF_JSET, namespaces), answer(unix.EPERM),
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW))
}

func installFilter(*instructions) error { return setFilter(filter(nil, nil), 0) }

// Guard takes from this process, all its threads, what a monitor may not do either,
// but for accepting connections and ending its monitor, and running programs as
// well. It is for the process that reads what a guest says.
func Guard() error {
	allowed := []uint32{unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL}
	return setFilter(filter(allowed, []uint32{unix.SYS_EXECVE, unix.SYS_FORK, unix.SYS_VFORK}), unix.SECCOMP_FILTER_FLAG_TSYNC)
}

func setFilter(program []unix.SockFilter, flags uintptr) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}
