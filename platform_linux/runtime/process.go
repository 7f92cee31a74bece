//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/platform_linux/initproc"
	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
)

// Exit is how a process ended.
type Exit struct {
	// Code is 0 to 255; 128+n after signal n.
	Code int
	// Signal killed the process, 0 if it exited by itself.
	Signal syscall.Signal
	// Unknown says that the code was lost; Code is then 255.
	Unknown bool
	At      time.Time
}

// FailureKind sorts the reasons why a program could not be executed.
type FailureKind int

const (
	FailureOther         FailureKind = iota
	FailureNoCommand                 // not found: a user sees exit code 127
	FailureNotExecutable             // found, but cannot be executed: 126
)

// ExecFailure says that a process was set up but its program could not be
// executed. The process counts as never started.
type ExecFailure struct {
	Kind    FailureKind
	Message string
}

func (e *ExecFailure) Error() string { return e.Message }

// Process is one process that the keeper holds. Its methods are safe for
// concurrent use.
type Process struct {
	r     *Runtime
	key   string
	pid   int
	start uint64

	mu      sync.Mutex
	pidfd   int      // -1 once closed or never known
	ctl     *os.File // socket to caisson-init; nil once started
	console *os.File
	exit    Exit
	status  uint32 // the wait status behind exit
	over    bool
	done    chan struct{}
	// mounts is the container's mount namespace, -1 if not held. Its last holder
	// waits until the kernel has taken all mounts down, some tenths of a
	// millisecond: if that were the dying process, its end would be told later.
	mounts  int
	cleared chan struct{} // closed when mounts was closed after the end
}

// newProcess makes a Process that owns pidfd, which is -1 if the process is
// known to have ended. The pidfd stays a plain number: as a file it would be in
// the poller, for nothing.
func newProcess(r *Runtime, key string, pid int, start uint64, pidfd int) *Process {
	return &Process{r: r, key: key, pid: pid, start: start, pidfd: pidfd, mounts: -1, done: make(chan struct{})}
}

// Key is what the process was created under.
func (p *Process) Key() string { return p.key }

// PID is the process's number in the pid namespace of the backend.
func (p *Process) PID() int { return p.pid }

// StartTime is when it was born, in clock ticks since boot, as in
// /proc/<pid>/stat: together with PID it names a process for ever.
func (p *Process) StartTime() uint64 { return p.start }

// Console is the master side of the process's terminal, nil if it has none. It
// belongs to the Process; Close closes it.
func (p *Process) Console() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.console
}

// Started says whether Start has executed the program, or tried to.
func (p *Process) Started() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ctl == nil
}

// Start lets the program run and returns once it was executed. Errors:
// *ExecFailure; FailedPrecondition if it was started before or has ended.
func (p *Process) Start(ctx context.Context) error {
	p.mu.Lock()
	ctl := p.ctl
	p.ctl = nil
	p.mu.Unlock()
	if ctl == nil {
		return fmt.Errorf("process %q was started before: %w", p.key, errdefs.ErrFailedPrecondition)
	}
	defer ctl.Close()
	if _, err := ctl.Write([]byte{initproc.Gate}); err != nil {
		return fmt.Errorf("process %q ended before it was started: %w", p.key, errdefs.ErrFailedPrecondition)
	}
	stop := context.AfterFunc(ctx, func() { _ = ctl.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	f, err := readFrame(ctl)
	_ = p.r.Drop(p.key, ctlName)
	switch {
	case errors.Is(err, io.EOF):
		// The exec closed the socket, or the death of the process did before it
		// could say anything; then it exits like a program that was killed at once.
		return nil
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("start process %q: %w", p.key, err)
	case f.kind == initproc.FrameExec:
		return execFailure(f.failure)
	}
	return fmt.Errorf("start process %q: unexpected frame %q: %w", p.key, f.kind, errdefs.ErrInternal)
}

// Signal sends a signal to the process, and to no other that may have got its
// number since. Errors: FailedPrecondition if it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := error(syscall.ESRCH)
	if p.pidfd >= 0 {
		err = unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
	}
	switch {
	case errors.Is(err, syscall.ESRCH):
		return fmt.Errorf("process %q has ended: %w", p.key, errdefs.ErrFailedPrecondition)
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("signal %d: %w", sig, errdefs.ErrInvalidArgument)
	case err != nil:
		return fmt.Errorf("signal process %q: %w", p.key, err)
	}
	return nil
}

// Done is closed when the process has ended and Exit can tell how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit tells how the process ended; the zero Exit before Done is closed.
func (p *Process) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Close gives back what this Process holds here; the keeper goes on holding it.
// If the process has ended, its mounts are gone when Close returns.
func (p *Process) Close() error {
	p.mu.Lock()
	p.letMountsGo()
	cleared := p.cleared
	p.mu.Unlock()
	if cleared != nil {
		<-cleared
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
	for _, f := range []**os.File{&p.ctl, &p.console} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
	return nil
}

// Release kills the process if it lives, makes the keeper forget it and all
// files held under its key, and closes it. Idempotent.
func (p *Process) Release() error {
	p.mu.Lock()
	if p.pidfd >= 0 && !p.over {
		_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0) // fails if it ended just now
	}
	p.mu.Unlock()
	err := p.r.forget(p)
	return errors.Join(err, p.Close())
}

// finish records the process's end, once.
func (p *Process) finish(m *wire.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	p.status = m.Status
	p.exit = exitOf(m)
	close(p.done)
	p.letMountsGo()
}

// holdMounts keeps the mount namespace until the process has ended.
func (p *Process) holdMounts() {
	fd, err := unix.Open("/proc/"+strconv.Itoa(p.pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // only slower
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mounts = fd
	if p.over {
		p.letMountsGo()
	}
}

// letMountsGo closes the mount namespace in the background. p.mu is held.
func (p *Process) letMountsGo() {
	if p.mounts < 0 {
		return
	}
	fd, cleared := p.mounts, make(chan struct{})
	p.mounts, p.cleared = -1, cleared
	go func() {
		unix.Close(fd)
		close(cleared)
	}()
}

func exitOf(m *wire.Process) Exit {
	ws := syscall.WaitStatus(m.Status)
	e := Exit{At: time.Unix(0, m.At)}
	switch {
	case m.Unknown:
		e.Unknown, e.Code = true, 255
	case ws.Signaled():
		e.Signal = ws.Signal()
		e.Code = 128 + int(e.Signal)
	default:
		e.Code = ws.ExitStatus()
	}
	return e
}
