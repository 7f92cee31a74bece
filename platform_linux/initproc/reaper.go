//go:build linux

package initproc

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReapMain is caisson-init's main when it stays as PID 1 above the program
// (docker run --init): args are the program's path and its arguments. It has
// the program's rights, filter and environment, for it was executed like it, with
// all signals blocked. It hands every signal on to the program, reaps whatever is
// left to it, and ends as the program ended.
//
// It must run on the process's first, locked thread.
func ReapMain(args, env []string) {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if name, err := syscall.BytePtrFromString("caisson-init"); err == nil {
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0) // else it is a number
	}
	unix.CloseOnExec(ControlFD)
	ctl := control(ControlFD)
	receiveSignals()
	pid, errno := forkProgram(args[0], args[1:], env)
	if errno != 0 {
		ctl.fail(FrameExec, *notExecuted(args[1], errno, false))
		syscall.Exit(1)
	}
	_ = unix.Close(ControlFD)
	_ = unix.Close(0)
	go reap(pid)
	forward(pid)
}

// signalEnable and signalRecv are what package os/signal is made of, without it
// and what it brings along. The runtime keeps SIGTERM and its like open in every
// thread, so that blocking them and waiting for them is no way to take them.
//
//go:linkname signalEnable os/signal.signal_enable
func signalEnable(sig uint32)

//go:linkname signalRecv os/signal.signal_recv
func signalRecv() uint32

// notForwarded are the signals that are not the program's: SIGCHLD is reap's, the
// others are the Go runtime's own.
var notForwarded = [...]syscall.Signal{syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF}

// receiveSignals has every signal that can be caught queued for signalRecv, from
// before there is a program that anybody could mean.
func receiveSignals() {
	signalEnable(0) // as os/signal does it first of all
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if sig != notForwarded[0] && sig != notForwarded[1] && sig != notForwarded[2] {
			signalEnable(uint32(sig))
		}
	}
}

// forward hands on signals as long as it lives.
func forward(pid int) {
	for {
		_ = syscall.Kill(pid, syscall.Signal(signalRecv())) // fails only once it is dead
	}
}

// reap waits for every child until the program itself ends.
func reap(program int) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, unix.WALL, nil)
		if err == syscall.EINTR || pid != program && err == nil {
			continue
		}
		if err == nil && status.Exited() {
			syscall.Exit(status.ExitStatus())
		}
		if err == nil && status.Signaled() {
			// A PID 1 cannot kill itself by a signal, so the code has to tell.
			syscall.Exit(128 + int(status.Signal()))
		}
		syscall.Exit(1)
	}
}

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// forkProgram starts the program in a process group of its own, in the
// foreground if there is a terminal, and with no signal blocked. It returns once
// the program was executed. Package syscall's fork would hand our own signal mask
// on; opening that in the parent first would let a waiting signal kill us.
func forkProgram(path string, args, env []string) (int, syscall.Errno) {
	pathp, err1 := syscall.BytePtrFromString(path)
	argv, err2 := syscall.SlicePtrFromStrings(args)
	envp, err3 := syscall.SlicePtrFromStrings(env)
	if err1 != nil || err2 != nil || err3 != nil {
		return 0, syscall.EINVAL
	}
	var told [2]int
	if err := unix.Pipe2(told[:], unix.O_CLOEXEC); err != nil {
		return 0, syscall.EMFILE // nothing else can make it fail
	}
	pid, errno := forkExec(pathp, &argv[0], &envp[0], told[1])
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envp)
	unix.Close(told[1])
	if errno == 0 {
		var b [8]byte
		n, _ := unix.Read(told[0], b[:])
		if n > 0 {
			errno = syscall.Errno(uint16(b[0]) | uint16(b[1])<<8)
		}
	}
	unix.Close(told[0])
	return pid, errno
}

// forkExec is the part of forkProgram in which, after the fork, only raw system
// calls may be made.
//
//go:noinline
//go:norace
func forkExec(path *byte, argv, envp **byte, told int) (pid int, errno syscall.Errno) {
	var (
		r1   uintptr
		err  syscall.Errno
		none uint64
		self int32
		msg  [2]byte
	)
	runtimeBeforeFork()
	r1, _, err = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if err != 0 || r1 != 0 {
		runtimeAfterFork()
		return int(r1), err
	}
	runtimeAfterForkInChild()
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETPGID, 0, 0, 0)
	r1, _, _ = syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
	self = int32(r1)
	// Fails where there is no terminal. SIGTTOU, which it makes, is still blocked.
	_, _, _ = syscall.RawSyscall(syscall.SYS_IOCTL, 0, unix.TIOCSPGRP, uintptr(unsafe.Pointer(&self)))
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
	_, _, err = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(envp)))
	msg = [2]byte{byte(err), byte(err >> 8)}
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(told), uintptr(unsafe.Pointer(&msg)), 2)
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
