//go:build linux

package initproc

import (
	"errors"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/caps"
	"github.com/caisson-engine/caisson/platform_linux/mount"
)

// runner carries a process from step 12 to step 15.
type runner struct {
	ctl  control
	p    *Process
	root root
	// exec says that the container existed before.
	exec bool
	// made by prepare, so that nothing is allocated once the filter is loaded
	path, argv, envp unsafe.Pointer
}

// Main is caisson-init's main. It must run on the process's first thread, and stay
// there, because capabilities,
// filters and namespaces are a thread's own until exec makes it the only one.
func Main() {
	// Nobody in the container may trace us or read our memory before exec.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	ctl := control(ControlFD)
	in, fds, err := ctl.receive()
	if err != nil {
		ctl.fail(FrameError, Failure{Text: "read the instructions: " + err.Error()})
		syscall.Exit(1)
	}
	r := runner{ctl: ctl, p: &in.Process, exec: in.Container == nil}
	if err := r.setUp(in, fds); err != nil {
		f := Failure{Text: err.Error()}
		for e := err; e != nil && f.Kind == KindOther; e = errors.Unwrap(e) {
			if s, ok := e.(*stepError); ok { //nolint:errorlint // each link of the chain is looked at
				f.Kind = s.kind
			}
		}
		ctl.fail(FrameError, f)
		syscall.Exit(1)
	}
	if failure := r.run(); failure != nil {
		ctl.fail(FrameExec, *failure)
	}
	// Also when nobody opened the gate.
	syscall.Exit(1)
}

// setUp runs everything before the gate whose failure is not the program's.
func (r *runner) setUp(in *Instructions, fds []int) error {
	if err := r.keyring(); err != nil {
		return err
	}
	// Modes in the spec and in docker are what they say.
	unix.Umask(0)
	if in.Container != nil {
		b := builder{ctl: r.ctl, k: in.Container, p: r.p, fds: fds, dev: -1, null: -1}
		if err := b.build(); err != nil {
			return err
		}
		r.root = b.root
	} else {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open", "/", err)
		}
		r.root = root(fd)
		if r.p.Terminal {
			if _, err := openConsole(r.ctl, r.root, r.p); err != nil {
				return err
			}
		}
	}
	for _, step := range []func() error{r.limits, r.apparmor, r.scheduling, r.user} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// keyring is step 2: without one of its own the process would see the keys of
// whoever started the engine. EDQUOT is not tolerated: the alternative is to
// share keys.
func (r *runner) keyring() error {
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return fail("join a session keyring", "", err)
}

// limits sets resource limits. Without CAP_SYS_RESOURCE a hard limit cannot be
// raised: then it stays what it is, with a warning.
func (r *runner) limits() error {
	nofile := false
	for _, l := range r.p.Rlimits {
		nofile = nofile || l.Type == unix.RLIMIT_NOFILE
		err := unix.Setrlimit(int(l.Type), &unix.Rlimit{Cur: l.Soft, Max: l.Hard})
		if errors.Is(err, syscall.EPERM) {
			var have unix.Rlimit
			if err := unix.Getrlimit(int(l.Type), &have); err != nil {
				return fail("read the resource limit", strconv.Itoa(int(l.Type)), err)
			}
			have.Cur = min(l.Soft, have.Max)
			err = unix.Setrlimit(int(l.Type), &have)
			r.ctl.warn("resource limit " + strconv.Itoa(int(l.Type)) + " stays at " + strconv.FormatUint(have.Max, 10) + ": raising it needs CAP_SYS_RESOURCE")
		}
		if err != nil {
			return fail("set the resource limit", strconv.Itoa(int(l.Type)), err)
		}
	}
	if nofile {
		return nil
	}
	// Go raised ours when we started. Programs get what systemd gives: those that
	// can handle more raise it themselves, those that use select must not have it.
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return fail("read the limit of descriptors", "", err)
	}
	have.Cur = min(softFiles, have.Max)
	return fail("set the limit of descriptors", "", unix.Setrlimit(unix.RLIMIT_NOFILE, &have))
}

// softFiles is the soft limit of open files where the spec gives none.
const softFiles = 1024

// apparmor sets the label for the next exec through a procfs of our own: a write
// to what the container has at /proc could be led elsewhere (CVE-2019-16884).
func (r *runner) apparmor() error {
	if r.p.AppArmor == "" {
		return nil
	}
	proc, err := mount.FS("proc", "proc", &mount.Options{})
	if err != nil {
		return err
	}
	defer unix.Close(proc)
	task := strconv.Itoa(unix.Getpid()) + "/task/" + strconv.Itoa(unix.Gettid()) + "/attr/"
	err = writeBeneath(proc, task+"apparmor/exec", "exec "+r.p.AppArmor)
	if errors.Is(err, syscall.ENOENT) {
		err = writeBeneath(proc, task+"exec", "exec "+r.p.AppArmor)
	}
	return fail("set the AppArmor profile", r.p.AppArmor, err)
}

// scheduling sets the scheduler and the I/O priority.
func (r *runner) scheduling() error {
	if s := r.p.Scheduler; s != nil {
		attr := unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: s.Policy, Flags: s.Flags, Nice: int32(s.Nice),
			Priority: s.Priority, Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
		}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			return fail("set the scheduler", "", err)
		}
	}
	if r.p.IOPriority != 0 {
		const whoProcess = 1
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(r.p.IOPriority)); errno != 0 {
			return fail("set the I/O priority", "", errno)
		}
	}
	return nil
}

// user is step 12: become the user, but keep the permitted capabilities until
// step 14. The bounding set goes first, for that needs an effective CAP_SETPCAP.
// The standard streams go to the user, so that /dev/stdout can be opened.
func (r *runner) user() error {
	id, err := r.p.lookupUser(r.root)
	if err != nil {
		return err
	}
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Uid == id.uid {
			continue
		}
		if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFIFO || kind == unix.S_IFCHR && st.Rdev != unix.Mkdev(1, 3) {
			// EPERM and EINVAL: a stream of another user namespace; it stays usable.
			_ = unix.Fchown(fd, int(id.uid), int(st.Gid))
		}
	}
	if err := caps.Bound(r.p.Caps.Bounding); err != nil {
		return fail("limit the capabilities", "", err)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fail("keep capabilities", "", err)
	}
	var groups unsafe.Pointer
	if len(id.groups) > 0 {
		groups = unsafe.Pointer(&id.groups[0])
	}
	// Raw calls: the wrappers change all threads, and only this one will live.
	_, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(id.groups)), uintptr(groups), 0)
	if errno != 0 && (errno != syscall.EPERM || len(id.groups) > 0) {
		return fail("set the supplementary groups", "", errno)
	}
	runtime.KeepAlive(id.groups)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, uintptr(id.gid), uintptr(id.gid), uintptr(id.gid)); errno != 0 {
		return fail("become the group", strconv.Itoa(int(id.gid)), errno)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(id.uid), uintptr(id.uid), uintptr(id.uid)); errno != 0 {
		return fail("become the user", strconv.Itoa(int(id.uid)), errno)
	}
	if !hasEnv(r.p.Env, "HOME") {
		r.p.Env = append(r.p.Env, "HOME="+id.home)
	}
	return nil
}

func hasEnv(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name) && len(e) > len(name) && e[len(name)] == '=' {
			return true
		}
	}
	return false
}

// run is steps 12 (its last part) to 15. It returns why the program could not
// be executed, or nil if the gate never opened.
func (r *runner) run() *Failure {
	failure := r.program()
	if err := r.ctl.send(FrameReady, nil); err != nil {
		return nil
	}
	if !r.ctl.waitGate() {
		return nil
	}
	if failure != nil {
		return failure
	}
	if err := r.privileges(); err != nil {
		return &Failure{Text: err.Error()}
	}
	return r.execute()
}

// program enters the working directory and finds the program, both with the
// user's ids. A working directory outside the root has no name inside it: some
// descriptor of the host's leaked (CVE-2024-21626).
func (r *runner) program() *Failure {
	// From here on the image's words are followed as paths, and /proc/self/fd is
	// a path: no descriptor may be left that leads anywhere.
	first := uint(SelfFD)
	if r.p.Reaper {
		first++
	}
	if err := unix.CloseRange(first, ^uint(0), 0); err != nil {
		return &Failure{Text: "close descriptors: " + err.Error()}
	}
	cwd := r.p.Cwd
	if cwd == "" {
		cwd = "/"
	}
	// The wish to search in a directory as the user would, but with the rights
	// that root in the container has, is runc's too.
	if err := r.raise(); err != nil {
		return &Failure{Text: "raise capabilities: " + err.Error()}
	}
	if err := unix.Chdir(cwd); err != nil {
		f := notExecuted(cwd, err, false)
		f.Text = "chdir to cwd (" + strconv.Quote(cwd) + ") failed: " + err.Error()
		return f
	}
	var buf [unix.PathMax]byte
	n, err := unix.Getcwd(buf[:])
	if err != nil || n == 0 || buf[0] != '/' {
		return &Failure{Text: "the working directory " + strconv.Quote(cwd) + " is not inside the container"}
	}
	if err := r.lower(); err != nil {
		return &Failure{Text: "lower capabilities: " + err.Error()}
	}
	if len(r.p.Args) == 0 || r.p.Args[0] == "" {
		return &Failure{Kind: KindNoCommand, Text: "no command specified"}
	}
	path, failure := lookPath(r.p.Args[0], r.p.Env)
	if failure != nil {
		return failure
	}
	args := r.p.Args
	if r.p.Reaper {
		args = append([]string{"caisson-init", path}, args...)
	}
	pathp, err1 := syscall.BytePtrFromString(path)
	argv, err2 := syscall.SlicePtrFromStrings(args)
	envp, err3 := syscall.SlicePtrFromStrings(r.p.Env)
	if err1 != nil || err2 != nil || err3 != nil {
		return &Failure{Text: "an argument or environment variable contains a zero byte"}
	}
	r.path, r.argv, r.envp = unsafe.Pointer(pathp), unsafe.Pointer(&argv[0]), unsafe.Pointer(&envp[0])
	if r.p.Umask >= 0 {
		unix.Umask(int(r.p.Umask))
	} else {
		unix.Umask(0o022)
	}
	return nil
}

// raise makes all permitted capabilities effective; lower leaves those that the
// program will have, or that the rest of the way needs.
func (r *runner) raise() error {
	s, err := caps.Get()
	if err != nil {
		return err
	}
	s.Effective = s.Permitted
	return caps.Set(s)
}

func (r *runner) lower() error {
	s, err := caps.Get()
	if err != nil {
		return err
	}
	s.Effective = r.p.Caps.Effective & s.Permitted
	return caps.Set(s)
}

// privileges is step 14. A filter without no_new_privs needs CAP_SYS_ADMIN, so
// it goes in just before the capabilities that carry it; otherwise last of all.
// From here on only calls that every usable filter allows are made: capset,
// close_range, execve, and on failure write and exit_group.
func (r *runner) privileges() error {
	resetSignals()
	p := r.p
	s, err := caps.Get()
	if err != nil {
		return fail("read the capabilities", "", err)
	}
	s.Effective = s.Permitted
	s.Inheritable = p.Caps.Inheritable
	if err := caps.Set(s); err != nil {
		return fail("set the inheritable capabilities", "", err)
	}
	if err := caps.Ambient(p.Caps.Ambient & p.Caps.Permitted & p.Caps.Inheritable); err != nil {
		return fail("set the ambient capabilities", "", err)
	}
	if err := unix.CloseRange(ControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fail("close descriptors", "", err)
	}
	final := caps.Sets{Effective: p.Caps.Effective, Permitted: p.Caps.Permitted, Inheritable: p.Caps.Inheritable}
	if !p.NoNewPrivs {
		if err := r.seccomp(); err != nil {
			return err
		}
		return fail("set the capabilities", "", caps.Set(final))
	}
	if err := caps.Set(final); err != nil {
		return fail("set the capabilities", "", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fail("set no_new_privs", "", err)
	}
	return r.seccomp()
}

func (r *runner) seccomp() error {
	code := r.p.Seccomp
	if len(code) == 0 {
		return nil
	}
	const instruction = 8 // sizeof(struct sock_filter)
	prog := unix.SockFprog{Len: uint16(len(code) / instruction), Filter: (*unix.SockFilter)(unsafe.Pointer(&code[0]))}
	_, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(r.p.SeccompFlags), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return fail("load the seccomp filter", "", errno)
	}
	return nil
}

// resetSignals undoes what the Go runtime does not undo at exec: signals that
// were ignored when we started stay ignored, and nobody asked for that.
func resetSignals() {
	type sigaction struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	var sa sigaction // SIG_DFL
	for sig := uintptr(1); sig <= 64; sig++ {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&sa)), 0, 8, 0, 0)
	}
}

//go:linkname runtimeBeforeExec syscall.runtime_BeforeExec
func runtimeBeforeExec()

// execute is step 15. It returns only if it failed.
func (r *runner) execute() *Failure {
	var errno syscall.Errno
	if r.p.Reaper {
		// The reaper needs the socket to tell of a failed exec.
		_, _, errno = syscall.RawSyscall(syscall.SYS_FCNTL, ControlFD, syscall.F_SETFD, 0)
		if errno == 0 {
			// Signals that come while it starts must wait for it.
			all, empty := ^uint64(0), [1]byte{}
			_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
			runtimeBeforeExec()
			_, _, errno = syscall.RawSyscall6(unix.SYS_EXECVEAT, SelfFD, uintptr(unsafe.Pointer(&empty)), uintptr(r.argv), uintptr(r.envp), unix.AT_EMPTY_PATH, 0)
		}
	} else {
		runtimeBeforeExec()
		_, _, errno = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(r.path), uintptr(r.argv), uintptr(r.envp))
	}
	return notExecuted(r.p.Args[0], errno, false)
}
