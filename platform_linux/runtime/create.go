//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/platform_linux/initproc"
	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
	"github.com/caisson-engine/caisson/platform_linux/userns"
)

// launch is a process about to be made.
type launch struct {
	request wire.Spawn
	in      *initproc.Instructions
	stdio   [3]*os.File
	cgroup  *os.File
	joins   []*os.File // namespaces, ours to close
	enter   int        // pidfd of the container to enter, -1 for none
	// container is the pid of the first process of the container to enter.
	container int
	mounts    []int // detached mounts for caisson-init, ours to close
}

func (l *launch) close() {
	for _, f := range l.joins {
		f.Close()
	}
	for _, fd := range l.mounts {
		unix.Close(fd)
	}
}

// prepareForUserNS makes those mounts that only the host's root can: a container's
// own root may not even be able to reach their sources. It does so when the
// namespace, and so its maker process, is there, which waits for instructions.
func (l *launch) prepareForUserNS(pid int) error {
	for _, fd := range l.mounts { // of an attempt before
		unix.Close(fd)
	}
	l.mounts = nil
	if l.container > 0 {
		pid = l.container // the new process itself may still be on its way into it
	}
	uid, gid, err := userns.Root(pid)
	if err == nil {
		err = userns.Own(l.stdio[:], uid, gid)
	}
	if err != nil {
		return fmt.Errorf("give the streams to the user namespace: %w", err)
	}
	c := l.in.Container
	if c == nil {
		return nil
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
	if err != nil {
		return fmt.Errorf("open the user namespace: %w", err)
	}
	defer ns.Close()
	// The runtime's own directory is not its to enter.
	if len(c.Rootfs) > 0 {
		c.RootPath = "/"
	}
	for _, list := range [][]initproc.Mount{c.Rootfs, c.Mounts} {
		for i := range list {
			m := &list[i]
			var fd int
			switch {
			case m.Options.Bind:
				fd, err = userns.Tree(m.Source, &m.Options, rawFD(ns))
			case m.Type == "overlay":
				fd, err = userns.Overlay(&m.Options, rawFD(ns), uid, gid)
			default:
				continue
			}
			if err != nil {
				return err
			}
			l.mounts = append(l.mounts, fd)
			m.FD = uint64(len(l.mounts))
		}
	}
	if len(l.mounts) > initproc.MaxRights {
		return invalid("%d mounts in a user namespace, at most %d can be made", len(l.mounts), initproc.MaxRights)
	}
	return nil
}

// Create sets up a container's first process, blocked right before exec.
// Errors: AlreadyExists (key), InvalidArgument (the spec asks for what cannot
// be), NotImplemented (the spec asks for what is not supported).
func (r *Runtime) Create(ctx context.Context, o CreateOptions) (*Process, error) {
	l := &launch{stdio: [3]*os.File{o.Stdin, o.Stdout, o.Stderr}, cgroup: o.CgroupV2, enter: -1}
	defer l.close()
	l.request = wire.Spawn{Key: o.Key, Tasks: tasksFiles(o.CgroupProcs)}
	if err := r.compile(l, &o); err != nil {
		return nil, err
	}
	return r.launch(ctx, l)
}

// Exec sets up another process in a running container, blocked right before
// exec. Errors: as Create; FailedPrecondition if the container does not run.
func (r *Runtime) Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	l := &launch{stdio: [3]*os.File{o.Stdin, o.Stdout, o.Stderr}, cgroup: o.CgroupV2, enter: -1}
	defer l.close()
	l.request = wire.Spawn{Key: o.Key, Tasks: tasksFiles(o.CgroupProcs)}
	l.in = &initproc.Instructions{Version: initproc.Version}
	if o.Process == nil || o.Container == nil {
		return nil, fmt.Errorf("exec without a process or container: %w", errdefs.ErrInvalidArgument)
	}
	if err := r.compileProcess(l, o.Process, o.Seccomp); err != nil {
		return nil, err
	}
	l.in.Process.GroupAdd = groupAdd(o.Annotations)
	l.request.Enter = enterFlags(o.Container.pid)
	fd, err := o.Container.dupPidfd()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	l.enter, l.container = fd, o.Container.pid
	return r.launch(ctx, l)
}

// dupPidfd returns a pidfd of a live process that is the caller's to close.
func (p *Process) dupPidfd() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd >= 0 && !p.over && p.ctl == nil {
		if fd, err := unix.FcntlInt(uintptr(p.pidfd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			return fd, nil
		}
	}
	return -1, fmt.Errorf("container %q is not running: %w", p.key, errdefs.ErrFailedPrecondition)
}

// enterFlags are the namespaces of pid that an exec enters: all, but a user or
// time namespace only if it is another than ours, since the kernel refuses to
// enter one's own user namespace.
func enterFlags(pid int) uint64 {
	flags := uint64(unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP)
	for _, ns := range []struct {
		name string
		flag uint64
	}{{"user", unix.CLONE_NEWUSER}, {"time", unix.CLONE_NEWTIME}} {
		theirs, err1 := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + ns.name)
		ours, err2 := os.Readlink("/proc/self/ns/" + ns.name)
		if err1 == nil && err2 == nil && theirs != ours {
			flags |= ns.flag
		}
	}
	return flags
}

// tasksFiles turns v1 cgroup.procs files into the tasks files beside them: one
// thread, which is all that the joining process has, joins by them without the
// lock that cgroup.procs takes against every fork and exit of the system.
func tasksFiles(procs []string) []string {
	tasks := make([]string, len(procs))
	for i, p := range procs {
		tasks[i] = filepath.Join(filepath.Dir(p), "tasks")
	}
	return tasks
}

// launch has the process made, sends its instructions, and waits until it is
// ready. If the keeper dies meanwhile it begins anew with the next one; the
// process that the dead one may have made ends when the socket is closed.
func (r *Runtime) launch(ctx context.Context, l *launch) (*Process, error) {
	if !wire.ValidKey(l.request.Key) {
		return nil, fmt.Errorf("key %q: only printable ASCII, at most %d bytes: %w", l.request.Key, wire.MaxKey, errdefs.ErrInvalidArgument)
	}
	for attempt := 0; ; attempt++ {
		p, err := r.launchOnce(ctx, l)
		if !errors.Is(err, errKeeperGone) || attempt == 2 {
			return p, err
		}
		if err := r.Drop(l.request.Key); err != nil {
			return nil, err
		}
	}
}

func (r *Runtime) launchOnce(ctx context.Context, l *launch) (_ *Process, err error) {
	link, err := r.connected(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if errors.Is(err, errKeeperGone) {
			_ = link.conn.Close() // if only a send failed so far
			<-link.down
		}
	}()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := pair[1]
	defer func() { unix.Close(theirs) }()
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ctl := os.NewFile(uintptr(pair[0]), ctlName)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		ctl.Close()
		return nil, fmt.Errorf("open the null device: %w", err)
	}
	defer null.Close()
	// Of a user namespace some mounts are made when it is there. Otherwise what
	// the process is to do waits for it; what the socket cannot hold is sent when
	// it reads.
	mapped := l.request.Flags&unix.CLONE_NEWUSER != 0 || l.request.Enter&unix.CLONE_NEWUSER != 0
	sent := make(chan error, 1)
	if !mapped {
		text := initproc.AppendInstructions(nil, l.in, 0)
		if len(text) > initproc.MaxInstructions {
			ctl.Close()
			return nil, invalid("instructions of %d bytes", len(text))
		}
		if len(text) <= 64<<10 {
			_, err := ctl.Write(text)
			sent <- err
		} else {
			go func() { sent <- sendInstructions(ctl, text, nil) }()
		}
	}
	fds := make([]int, 0, 8)
	for _, f := range l.stdio {
		if f == nil || l.in.Process.Terminal {
			f = null
		}
		fds = append(fds, rawFD(f))
	}
	fds = append(fds, theirs)
	if l.cgroup != nil {
		l.request.Cgroup = true
		fds = append(fds, rawFD(l.cgroup))
	}
	for _, f := range l.joins {
		fds = append(fds, rawFD(f))
	}
	if l.enter >= 0 {
		fds = append(fds, l.enter)
	}
	p, err := link.spawn(ctx, l.request, fds)
	if err != nil {
		ctl.Close()
		return nil, err
	}
	// Only the child has it now, so that its end shows as the end of the stream.
	unix.Close(theirs)
	theirs = -1
	if mapped {
		if err := l.prepareForUserNS(p.pid); err != nil {
			_ = p.Release()
			ctl.Close()
			return nil, err
		}
		go func() { sent <- sendInstructions(ctl, initproc.AppendInstructions(nil, l.in, len(l.mounts)), l.mounts) }()
	}
	if err := r.untilReady(ctx, p, ctl, sent); err != nil {
		_ = p.Release()
		ctl.Close()
		return nil, err
	}
	if l.in.Container != nil {
		p.holdMounts()
	}
	p.mu.Lock()
	p.ctl = ctl
	p.mu.Unlock()
	if err := r.Hold(p.key, ctlName, ctl); err != nil {
		_ = p.Release()
		return nil, err
	}
	return p, nil
}

// rawFD is f's descriptor, left as blocking or non-blocking as it is. f must
// stay open for as long as the number is used, which the callers' ownership of
// all files in a launch provides.
func rawFD(f *os.File) int {
	fd := -1
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

func sendInstructions(ctl *os.File, text []byte, mounts []int) error {
	raw, err := ctl.SyscallConn()
	if err != nil {
		return err
	}
	// The descriptors travel with the header.
	head := text[:initproc.FrameHeader]
	var oob []byte
	if len(mounts) > 0 {
		oob = unix.UnixRights(mounts...)
	}
	var serr error
	err = raw.Write(func(fd uintptr) bool {
		serr = unix.Sendmsg(int(fd), head, oob, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(serr, syscall.EAGAIN)
	})
	if err = errors.Join(err, serr); err != nil {
		return err
	}
	_, err = ctl.Write(text[initproc.FrameHeader:])
	return err
}

// untilReady reads what caisson-init says until it is blocked at the gate.
func (r *Runtime) untilReady(ctx context.Context, p *Process, ctl *os.File, sent <-chan error) error {
	stop := context.AfterFunc(ctx, func() { ctl.Close() })
	defer stop()
	for {
		f, err := readFrame(ctl)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("process %q ended while it was set up: %w", p.key, errdefs.ErrInternal)
			}
			return err
		}
		switch f.kind {
		case initproc.FrameReady:
			return <-sent
		case initproc.FrameConsole:
			if f.console < 0 {
				return fmt.Errorf("process %q has no terminal: %w", p.key, errdefs.ErrInternal)
			}
			if err := unix.SetNonblock(f.console, true); err != nil {
				unix.Close(f.console)
				return fmt.Errorf("terminal of %q: %w", p.key, err)
			}
			console := os.NewFile(uintptr(f.console), consoleName)
			p.mu.Lock()
			p.console = console
			p.mu.Unlock()
			if err := r.Hold(p.key, consoleName, console); err != nil {
				return err
			}
		case initproc.FrameWarning:
			r.log.Warn(f.text, "process", p.key)
		case initproc.FrameError, initproc.FrameChild:
			kind := error(errdefs.ErrInternal)
			if f.failure.Kind == initproc.KindInvalid {
				kind = errdefs.ErrInvalidArgument
			}
			return fmt.Errorf("set up %q: %s: %w", p.key, strings.TrimSpace(f.failure.Text), kind)
		}
	}
}
