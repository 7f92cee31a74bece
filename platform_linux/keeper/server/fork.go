//go:build linux

package server

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/initproc"
)

// cloneArgs is struct clone_args.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal     uint64
	stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// Bounds of one plan; Docker uses up to 12 v1 hierarchies.
const maxTasks = 24

// plan is everything that the forked child does, laid out so that it needs
// neither memory nor the Go runtime. Descriptors but the first three are higher
// than those that the child makes, see reserve.
type plan struct {
	args   cloneArgs
	share  bool // see fork
	stdio  [3]int
	ctl    int
	self   int // the sealed caisson-init
	gate   int // read one byte from here first, -1 to go on at once
	tasks  [maxTasks]int
	ntasks int
	enter  int // pidfd of the process whose namespaces to enter, -1 for none
	flags  uint64
	become bool // become root of the user namespace
	argv   *[2]*byte
	envp   *[4]*byte
	oom    *byte // "" for none
	oomLen int
	pidfd  int32 // out
}

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

var (
	oomPath = [...]byte{'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 'o', 'o', 'm', '_', 's', 'c', 'o', 'r', 'e', '_', 'a', 'd', 'j', 0}
	zero    = [...]byte{'0', 0}
	noName  = [...]byte{0}
)

//go:noescape
func vfork(args *cloneArgs, size uintptr) (r1 uintptr, errno syscall.Errno)

// fork makes the child. With p.share it runs in our memory while we wait for its
// exec, which spares the kernel to copy ours, a quarter of a container's start.
// But a process that enters a user or time namespace must have its own memory,
// and one that waits for us must not keep us waiting.
//
// Between BeforeFork and the exec only raw system calls may be made: no
// allocation, no function with a stack check.
//
//go:noinline
//go:norace
func fork(p *plan) (pid int, errno syscall.Errno) {
	var (
		r1   uintptr
		err  syscall.Errno
		step byte // an index of initproc.ChildSteps
		i    int
		one  [1]byte
		msg  [13]byte
	)
	p.args.pidfd = uint64(uintptr(unsafe.Pointer(&p.pidfd)))
	runtimeBeforeFork()
	if p.share {
		p.args.flags |= unix.CLONE_VM | unix.CLONE_VFORK
		r1, err = vfork(&p.args, unsafe.Sizeof(p.args))
	} else {
		r1, _, err = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&p.args)), unsafe.Sizeof(p.args), 0)
	}
	if err != 0 || r1 != 0 {
		runtimeAfterFork()
		return int(r1), err
	}

	// The child.
	runtimeAfterForkInChild()
	if p.gate >= 0 {
		r1, _, err = syscall.RawSyscall(syscall.SYS_READ, uintptr(p.gate), uintptr(unsafe.Pointer(&one)), 1)
		if err != 0 || r1 != 1 {
			goto fail
		}
	}
	step = 1
	for i = 0; i < p.ntasks; i++ {
		// "0" is the writer, and writing it to tasks and not to cgroup.procs spares
		// the kernel a lock on every fork and exit in the system.
		_, _, err = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(p.tasks[i]), uintptr(unsafe.Pointer(&zero)), 1)
		if err != 0 {
			goto fail
		}
	}
	if p.oomLen > 0 {
		// Through the host's own /proc. Lowering it needs CAP_SYS_RESOURCE, and a
		// container that is killed too late is better than none.
		r1, _, err = syscall.RawSyscall6(syscall.SYS_OPENAT, uintptr(0xffffffffffffff9c), uintptr(unsafe.Pointer(&oomPath)), syscall.O_WRONLY|syscall.O_CLOEXEC, 0, 0, 0)
		if err == 0 {
			_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, r1, uintptr(unsafe.Pointer(p.oom)), uintptr(p.oomLen))
		}
	}
	step = 2
	if p.enter >= 0 {
		_, _, err = syscall.RawSyscall(unix.SYS_SETNS, uintptr(p.enter), uintptr(p.flags), 0)
		if err != 0 {
			goto fail
		}
	}
	step = 3
	if p.become {
		_, _, err = syscall.RawSyscall(syscall.SYS_SETRESGID, 0, 0, 0)
		if err == 0 {
			_, _, err = syscall.RawSyscall(syscall.SYS_SETRESUID, 0, 0, 0)
		}
		if err != 0 {
			goto fail
		}
	}
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	step = 4
	for i = 0; i < 3; i++ {
		_, _, err = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(p.stdio[i]), uintptr(i), 0)
		if err != 0 {
			goto fail
		}
	}
	_, _, err = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(p.self), initproc.SelfFD, 0)
	if err != 0 {
		goto fail
	}
	_, _, err = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(p.ctl), initproc.ControlFD, 0)
	if err != 0 {
		goto fail
	}
	step = 5
	_, _, err = syscall.RawSyscall6(unix.SYS_EXECVEAT, initproc.SelfFD, uintptr(unsafe.Pointer(&noName)),
		uintptr(unsafe.Pointer(p.argv)), uintptr(unsafe.Pointer(p.envp)), unix.AT_EMPTY_PATH, 0)
fail:
	msg = [13]byte{initproc.FrameChild, 8, 0, 0, 0, step, 0, 0, 0, byte(err), byte(err >> 8), 0, 0}
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(p.ctl), uintptr(unsafe.Pointer(&msg)), uintptr(len(msg)))
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
