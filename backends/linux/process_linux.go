package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/platform_linux/runtime"
)

// phase of a process. It only grows.
type phase int

const (
	created  phase = iota // blocked before its program
	starting              // somebody called Start
	failed                // its program could not be executed; counts as created
	running               // STARTED was told
	exited                // EXITED was told, or is about to be
)

// process is a container's first process or an exec.
type process struct {
	c    *container
	exec string // "" for the first process
	dir  string
	io   *backendpb.IO

	proc  *runtime.Process
	out   *kit.Output
	stdin *kit.Stdin // nil if it has none, or a terminal

	// over is closed when EXITED was told and nothing of it goes on here.
	over chan struct{}

	mu      sync.Mutex
	phase   phase
	started int64 // Unix nanoseconds
	exit    *backendpb.Exit
	size    *backendpb.ResizeRequest // asked for while proc was being made
}

func newProcess(c *container, exec string, io *backendpb.IO) *process {
	if io == nil {
		io = &backendpb.IO{}
	}
	p := &process{c: c, exec: exec, dir: c.dir, io: io, over: make(chan struct{})}
	if exec != "" {
		p.dir = filepath.Join(c.dir, "execs", exec)
	}
	return p
}

func (p *process) ref() *backendpb.ProcessRef {
	return &backendpb.ProcessRef{Container: p.c.id, Exec: p.exec}
}

// key is the process's name at the keeper.
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
	if p.io.GetTerminal() && (p.io.GetRows() != 0 || p.io.GetCols() != 0) {
		spec.ConsoleSize = &specs.Box{Height: uint(p.io.GetRows()), Width: uint(p.io.GetCols())}
	}
}

// Names of files at the keeper.
const (
	stdoutFile = "stdout"
	stderrFile = "stderr"
)

// hold has the keeper hold pipes that must outlive us: their content would be
// lost if nobody had them open, and an end of file would be seen.
func (p *process) hold(b *Backend, ends pipeEnds) error {
	files := map[string]*os.File{stdoutFile: ends.stdout, stderrFile: ends.stderr}
	if p.stdin != nil {
		files[kit.StdinName] = p.stdin.File()
	}
	for name, f := range files {
		if f != nil {
			if err := b.runtime.Hold(p.key(), name, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect lets a created process's output flow.
func (p *process) connect() error {
	if p.io.GetTerminal() {
		if err := p.out.SetConsole(p.proc.Console()); err != nil {
			return err
		}
	}
	p.out.Run()
	return nil
}

// Start is backend.Backend.
func (b *Backend) Start(ctx context.Context, ref *backendpb.ProcessRef) (*backendpb.Status, error) {
	c, p, err := b.process(ref)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.phase != created || p.proc == nil {
		p.mu.Unlock()
		return nil, fmt.Errorf("%v was started before: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.phase = starting
	p.mu.Unlock()
	if p.exec != "" && !c.init.running() {
		p.set(created)
		return nil, fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	err = p.proc.Start(context.WithoutCancel(ctx))
	if failure, ok := errors.AsType[*runtime.ExecFailure](err); ok {
		p.set(failed)
		return nil, &backend.ExecError{Kind: failureKinds[failure.Kind], Message: failure.Message}
	}
	if err != nil {
		p.set(failed)
		return nil, fmt.Errorf("start %v: %w", p, err)
	}
	return &backendpb.Status{Pid: int64(p.proc.PID())}, p.nowRuns(b)
}

var failureKinds = map[runtime.FailureKind]backendpb.ExecFailure_Kind{
	runtime.FailureOther:         backendpb.ExecFailure_OTHER,
	runtime.FailureNoCommand:     backendpb.ExecFailure_NO_COMMAND,
	runtime.FailureNotExecutable: backendpb.ExecFailure_NOT_EXECUTABLE,
}

func (p *process) set(to phase) {
	p.mu.Lock()
	p.phase = to
	p.mu.Unlock()
}

// nowRuns tells of a process that was started, and waits for its end. If the
// journal cannot be written the process is killed: nobody would know of it.
func (p *process) nowRuns(b *Backend) error {
	if err := p.tellStarted(b); err != nil {
		p.set(failed)
		return errors.Join(fmt.Errorf("start %v: %w", p, err), p.proc.Release())
	}
	go p.watch(b)
	return nil
}

func (p *process) tellStarted(b *Backend) error {
	e := &backendpb.Event{Type: backendpb.Event_STARTED, Process: p.ref(), Pid: int64(p.proc.PID()), At: time.Now().UnixNano()}
	p.mu.Lock()
	p.phase, p.started = running, e.At
	p.mu.Unlock()
	return b.journal.Add(e)
}

// watch waits for the process's end and tells it.
func (p *process) watch(b *Backend) {
	<-p.proc.Done()
	p.finish(b)
}

// finish tells the end of a process: execs before the first process, and all of
// them after their output.
func (p *process) finish(b *Backend) {
	x := p.proc.Exit()
	exit := &backendpb.Exit{Code: int32(x.Code), Unknown: x.Unknown, At: x.At.UnixNano()}
	if x.At.IsZero() {
		exit.At = time.Now().UnixNano()
	}
	p.end(b, exit)
}

func (p *process) end(b *Backend, exit *backendpb.Exit) {
	defer close(p.over)
	if p.exec == "" {
		p.endOthers(b)
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
	if p.exec == "" || !p.othersMayWrite() {
		p.closeStreams()
	}
}

// othersMayWrite: a process that an exec left behind may still have the exec's
// pipes; if nobody emptied them it would stop for ever.
func (p *process) othersMayWrite() bool { return p.c.init.running() }

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
	if p.c.sharesPIDs {
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

// destroy kills the process, waits until its end was told, and removes it.
func (p *process) destroy(b *Backend) error {
	if p.proc != nil {
		if p.running() {
			if err := p.proc.Signal(sigkill); err != nil && !errdefs.IsFailedPrecondition(err) {
				return fmt.Errorf("kill %v: %w", p, err)
			}
			<-p.over
		}
		if err := p.proc.Release(); err != nil {
			return fmt.Errorf("%v: %w", p, err)
		}
	} else if err := b.runtime.Drop(p.key()); err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	p.closeStreams()
	return nil
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
	if r.GetAll() {
		return c.signalAll(ctx, sig)
	}
	return p.proc.Signal(sig)
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
	if p.proc == nil {
		// An exec is known before it is made; clients resize it at once.
		p.size = r
		return nil
	}
	return kit.SetSize(p.proc.Console(), r.GetRows(), r.GetCols())
}

// made takes the process that was made for p.
func (p *process) made(proc *runtime.Process) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proc = proc
	if p.size == nil {
		return nil
	}
	return kit.SetSize(proc.Console(), p.size.GetRows(), p.size.GetCols())
}
