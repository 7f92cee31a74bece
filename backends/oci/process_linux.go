package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
)

// phase of a process. It only grows, but for a start that was refused.
type phase int

const (
	created  phase = iota // before its program
	starting              // somebody called Start
	failed                // its program could not be executed; counts as created
	running               // STARTED was told
	exited                // EXITED was told, or is about to be
)

// process is a container's first process or an exec. An exec has no process
// before Start: runtimes cannot prepare one.
type process struct {
	c    *container
	exec string // "" for the first process
	dir  string
	io   *backendpb.IO

	out   *kit.Output
	stdin *kit.Stdin // nil if it has none, or a terminal
	// refused says at Start that the program cannot be executed: the runtime
	// found out when it made the container.
	refused *backend.ExecError

	// over is closed when EXITED was told and nothing of it goes on here.
	over chan struct{}
	// known is closed when console is known, or that there will be none.
	known     chan struct{}
	knownOnce sync.Once

	mu      sync.Mutex
	phase   phase
	pid     int
	pidfd   *os.File // nil: there is none, or it has ended long ago
	console *os.File
	started int64 // Unix nanoseconds
	exit    *backendpb.Exit
	rows    uint32
	cols    uint32
}

func newProcess(c *container, exec string, io *backendpb.IO) *process {
	if io == nil {
		io = &backendpb.IO{}
	}
	p := &process{
		c: c, exec: exec, dir: c.dir, io: io, rows: io.GetRows(), cols: io.GetCols(),
		over: make(chan struct{}), known: make(chan struct{}),
	}
	if exec != "" {
		p.dir = filepath.Join(c.dir, "execs", exec)
	}
	return p
}

func (p *process) ref() *backendpb.ProcessRef {
	return &backendpb.ProcessRef{Container: p.c.id, Exec: p.exec}
}

// key is the process's name at the monitor.
func (p *process) key() string {
	if p.exec == "" {
		return p.c.id
	}
	return p.c.id + "/" + p.exec
}

func (p *process) String() string {
	if p.exec == "" {
		return "container " + p.c.id
	}
	return "exec " + p.exec + " of container " + p.c.id
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase == running
}

// shown is a process's number for the engine: 0 where it would not be what it
// seems.
func (b *Backend) shown(p *process) int64 {
	if b.dialect.ownKernel {
		return 0
	}
	return int64(p.pid)
}

// hasRun tells whether its end was told or will be: over is closed then.
func (p *process) hasRun() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase == running || p.phase == exited
}

// pipeEnds are the container's ends of a process's streams.
type pipeEnds struct{ stdin, stdout, stderr *os.File }

func (e pipeEnds) close() {
	for _, f := range []*os.File{e.stdin, e.stdout, e.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// stdio is what the runtime is started with: a terminal it makes itself.
func (e pipeEnds) stdio(terminal bool) [3]*os.File {
	if terminal {
		return [3]*os.File{}
	}
	return [3]*os.File{e.stdin, e.stdout, e.stderr}
}

// openStreams makes the pipes of a process that is about to be created.
func (p *process) openStreams(b *Backend, log *logs.Config) (ends pipeEnds, err error) {
	if p.out, err = b.pumps.Open(kit.OutputConfig{Dir: p.dir, Terminal: p.io.GetTerminal(), Log: log}); err != nil {
		return ends, err
	}
	if ends.stdout, ends.stderr, err = p.out.Pipes(); err != nil {
		return ends, err
	}
	if p.io.GetStdin() && !p.io.GetTerminal() {
		p.stdin, ends.stdin, err = kit.NewStdin(p.io.GetStdinOnce())
	}
	return ends, err
}

// terminal makes the spec agree with what the engine asked for.
func (p *process) terminal(spec *specs.Process) {
	spec.Terminal = p.io.GetTerminal()
	spec.ConsoleSize = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.io.GetTerminal() && (p.rows != 0 || p.cols != 0) {
		spec.ConsoleSize = &specs.Box{Height: uint(p.rows), Width: uint(p.cols)}
	}
}

// Names of files at the monitor. The far end of a stdin is held until it was
// given to a process.
const (
	stdoutFile = "stdout"
	stderrFile = "stderr"
	farFile    = "stdin-far"
)

// hold has the monitor hold pipes that must outlive us: their content would be
// lost if nobody had them open, and an end of file would be seen.
func (p *process) hold(b *Backend, ends pipeEnds) error {
	files := map[string]*os.File{stdoutFile: ends.stdout, stderrFile: ends.stderr}
	if p.stdin != nil {
		files[kit.StdinName] = p.stdin.File()
		if p.exec != "" {
			files[farFile] = ends.stdin
		}
	}
	for name, f := range files {
		if f != nil {
			if err := b.monitor.Hold(p.key(), name, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect lets a process's output flow.
func (p *process) connect() error {
	p.mu.Lock()
	console, rows, cols := p.console, p.rows, p.cols
	p.mu.Unlock()
	p.knownOnce.Do(func() { close(p.known) })
	if p.io.GetTerminal() {
		if console == nil {
			return fmt.Errorf("%v has no terminal: %w", p, errdefs.ErrInternal)
		}
		if rows != p.io.GetRows() || cols != p.io.GetCols() {
			if err := kit.SetSize(console, rows, cols); err != nil {
				return err
			}
		}
		if err := p.out.SetConsole(console); err != nil {
			return err
		}
	}
	p.out.Run()
	return nil
}

// Start is backend.Backend.
func (b *Backend) Start(ctx context.Context, ref *backendpb.ProcessRef) (*backendpb.Status, error) {
	ctx = context.WithoutCancel(ctx)
	c, p, err := b.process(ref)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.phase != created {
		p.mu.Unlock()
		return nil, fmt.Errorf("%v was started before: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.phase = starting
	p.mu.Unlock()
	if p.exec != "" && !c.init.running() {
		p.set(created)
		return nil, fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	err = b.startRefused(p)
	if err == nil {
		if p.exec == "" {
			err = b.callStart(ctx, p)
		} else {
			err = b.callExec(p)
		}
	}
	if err != nil {
		p.set(failed)
		p.knownOnce.Do(func() { close(p.known) })
		p.closeStreams() // attached clients wait for no output
		if _, ok := errors.AsType[*backend.ExecError](err); ok {
			return nil, err
		}
		return nil, fmt.Errorf("start %v: %w", p, err)
	}
	if err := p.tellStarted(b); err != nil {
		// Nobody would ever know of it.
		p.set(failed)
		p.kill()
		return nil, fmt.Errorf("start %v: %w", p, err)
	}
	go p.watch(b)
	return &backendpb.Status{Pid: b.shown(p)}, nil
}

func (b *Backend) startRefused(p *process) error {
	if p.refused != nil {
		return p.refused
	}
	return nil
}

// callStart has the runtime run a created container's program. The mark says
// that it may have, should we be killed.
func (b *Backend) callStart(ctx context.Context, p *process) error {
	if err := os.WriteFile(filepath.Join(p.dir, startedFile), nil, 0o600); err != nil {
		return err
	}
	_, err := b.command(ctx, p.c.log(), "start", b.name(p.c))
	return executed(err, p.c.program)
}

// executed turns a runtime's failure into the contract's.
func executed(err error, program string) error {
	f, ok := errors.AsType[*failure](err)
	if !ok {
		return err
	}
	if not := f.notExecuted(program); not != nil {
		return not
	}
	return f
}

func (p *process) set(to phase) {
	p.mu.Lock()
	p.phase = to
	p.mu.Unlock()
}

func (p *process) tellStarted(b *Backend) error {
	e := &backendpb.Event{Type: backendpb.Event_STARTED, Process: p.ref(), Pid: b.shown(p), At: time.Now().UnixNano()}
	p.mu.Lock()
	p.phase, p.started = running, e.At
	p.mu.Unlock()
	return b.journal.Add(e)
}

// watch waits for the process's end and tells it.
func (p *process) watch(b *Backend) {
	exit := &backendpb.Exit{Code: 255, Unknown: true, At: time.Now().UnixNano(), Reason: "its parent process died"}
	x, err := b.monitor.Exit(p.key())
	switch {
	case errdefs.IsUnavailable(err):
		return // we end; the next backend tells
	case err == nil:
		exit = &backendpb.Exit{Code: x.Code(), Unknown: x.Unknown, At: x.At}
	}
	p.end(b, exit)
}

// end tells the end of a process: execs before the first process, and all of
// them after their output.
func (p *process) end(b *Backend, exit *backendpb.Exit) {
	defer close(p.over)
	if p.exec == "" {
		p.endOthers(b)
	} else if b.died(p, exit) {
		exit.Code = 128 + int32(unix.SIGKILL)
	}
	if err := p.out.Drain(); err != nil {
		b.log.Warn("output may be incomplete", "process", p, "err", err)
	}
	if n := p.c.group.OOMKills(); n > 0 && p.exec == "" {
		exit.OomKilled = true
		p.tell(b, &backendpb.Event{Type: backendpb.Event_OOM, Process: p.ref()})
	}
	p.mu.Lock()
	p.phase, p.exit = exited, exit
	p.mu.Unlock()
	p.tell(b, &backendpb.Event{Type: backendpb.Event_EXITED, Process: p.ref(), Exit: exit})
	if p.exec == "" || !p.c.init.running() {
		// Else a process that an exec left behind may still have the exec's
		// pipes; if nobody emptied them it would stop for ever.
		p.closeStreams()
	}
}

// runtimeFailed is how runsc's exec ends when it lost its sandbox.
const runtimeFailed = 128

// died tells whether an exec ended because the container did. Under a kernel of
// its own the process that we see is not the exec but who waits for it, and that
// one loses its sandbox without being told how the exec ended: like everything
// else there it was killed.
func (b *Backend) died(p *process, exit *backendpb.Exit) bool {
	if !b.dialect.ownKernel || exit.Code != runtimeFailed {
		return false
	}
	init := p.c.init
	if !init.running() {
		return true
	}
	// Alive, the sandbox answers. Dead, it may not have been collected yet.
	if _, err := b.command(context.Background(), filepath.Join(p.dir, logFile), "ps", b.name(p.c)); err == nil {
		return false
	}
	_, err := b.monitor.Exit(init.key())
	return err == nil
}

func (p *process) closeStreams() {
	if p.out != nil {
		_ = p.out.Close()
	}
	if p.stdin != nil {
		p.stdin.Close()
	}
}

func (p *process) tell(b *Backend, e *backendpb.Event) {
	if err := b.journal.Add(e); err != nil {
		b.log.Error("an event was lost", "event", e, "err", err)
	}
}

// endOthers waits for the execs of a container whose first process has ended.
func (p *process) endOthers(b *Backend) {
	p.c.mu.Lock()
	p.c.ended = true
	p.c.mu.Unlock()
	if p.c.sharesPIDs || b.dialect.ownKernel {
		// Nothing that the runtime left has anything to do any more.
		if err := p.c.group.Kill(context.Background()); err != nil {
			b.log.Error("processes may be left", "container", p.c.id, "err", err)
		}
	}
	for _, q := range p.c.all()[1:] {
		if q.hasRun() {
			<-q.over
		}
	}
}

// kill sends SIGKILL to what the runtime named: the first process, or what
// stands for all of it.
func (p *process) kill() {
	_ = p.signal(unix.SIGKILL)
}

func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return fmt.Errorf("%v is not running: %w", p, errdefs.ErrFailedPrecondition)
	}
	c, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := c.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); cerr != nil {
		return cerr
	}
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%v is not running: %w", p, errdefs.ErrFailedPrecondition)
	}
	return err
}

// destroy kills the process, waits until its end was told, and lets go of it.
func (p *process) destroy(ctx context.Context, b *Backend) error {
	if p.running() {
		if err := b.killProcess(ctx, p); err != nil && !errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("kill %v: %w", p, err)
		}
		<-p.over
	} else {
		p.kill()
	}
	if err := b.monitor.Drop(p.key()); err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	p.closeStreams()
	p.knownOnce.Do(func() { close(p.known) })
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range []*os.File{p.pidfd, p.console} {
		if f != nil {
			_ = f.Close()
		}
	}
	p.pidfd, p.console = nil, nil
	return nil
}

// killProcess kills one process and, of the first, all others with it.
func (b *Backend) killProcess(ctx context.Context, p *process) error {
	if p.exec != "" && b.dialect.ownKernel {
		return b.signalInside(ctx, p, unix.SIGKILL)
	}
	return p.signal(unix.SIGKILL)
}

// Signal is backend.Backend.
func (b *Backend) Signal(ctx context.Context, r *backendpb.SignalRequest) error {
	sig, err := kit.ParseSignal(r.GetSignal())
	if err != nil {
		return err
	}
	c, p, err := b.process(r.GetProcess())
	if err != nil {
		return err
	}
	if !p.running() {
		return fmt.Errorf("%v is not running: %w", p, errdefs.ErrFailedPrecondition)
	}
	switch {
	case sig == unix.SIGKILL && r.GetAll():
		return c.group.Kill(ctx)
	case sig == unix.SIGKILL:
		return b.killProcess(ctx, p)
	case r.GetAll() && b.dialect.ownKernel:
		return b.callKill(ctx, p, "--all", b.name(c), strconv.Itoa(int(sig)))
	case r.GetAll():
		return c.signalAll(sig)
	case p.exec != "" && b.dialect.ownKernel:
		return b.signalInside(ctx, p, sig)
	case p.exec == "" && (b.dialect.ownKernel || b.dialect.kind == other.kind):
		return b.callKill(ctx, p, b.name(c), strconv.Itoa(int(sig)))
	}
	return p.signal(sig)
}

// callKill has the runtime send a signal.
func (b *Backend) callKill(ctx context.Context, p *process, args ...string) error {
	_, err := b.command(ctx, filepath.Join(p.dir, logFile), "kill", args...)
	if f, ok := errors.AsType[*failure](err); ok {
		if !p.alive() {
			return fmt.Errorf("%v is not running: %w", p, errdefs.ErrFailedPrecondition)
		}
		return f
	}
	return err
}

// alive tells whether the process that the runtime named is there.
func (p *process) alive() bool { return p.running() && p.signal(0) == nil }

// signalInside signals an exec by its number inside the sandbox.
func (b *Backend) signalInside(ctx context.Context, p *process, sig syscall.Signal) error {
	pid, err := os.ReadFile(filepath.Join(p.dir, insideFile))
	if err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	return b.callKill(ctx, p, "--pid", strings.TrimSpace(string(pid)), b.name(p.c), strconv.Itoa(int(sig)))
}

// Resize is backend.Backend.
func (b *Backend) Resize(_ context.Context, r *backendpb.ResizeRequest) error {
	_, p, err := b.process(r.GetProcess())
	if err != nil {
		return err
	}
	if !p.io.GetTerminal() {
		return fmt.Errorf("%v has no terminal: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == exited || p.phase == failed {
		return fmt.Errorf("%v is not running: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.rows, p.cols = r.GetRows(), r.GetCols()
	if p.console == nil {
		return nil // an exec is known before it is made; clients resize it at once
	}
	return kit.SetSize(p.console, p.rows, p.cols)
}
