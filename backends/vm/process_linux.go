package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/vmshim/host"
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

	out *kit.Output

	// over is closed when EXITED was told and nothing of it goes on here.
	over chan struct{}

	mu      sync.Mutex
	phase   phase
	inside  bool  // the guest has it
	started int64 // Unix nanoseconds
	exit    *backendpb.Exit
	size    *backendpb.ResizeRequest // asked for before the guest had it
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

func (p *process) set(to phase) {
	p.mu.Lock()
	p.phase = to
	p.mu.Unlock()
}

// openOutput makes a process's FIFOs, or opens those that an earlier backend made.
func (p *process) openOutput(b *Backend, log *logs.Config, again bool) error {
	m := p.c.machine
	names := []string{"stdout", "stderr"}
	if p.io.GetTerminal() {
		names = names[:1]
	}
	var files [2]*os.File
	defer func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
	}()
	for i, stream := range names {
		path := p.fifo(stream)
		if !again {
			if err := makeFIFO(path, m.uid); err != nil {
				return err
			}
		}
		// Both ends, so that it is there as long as we are.
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		files[i] = f
	}
	var err error
	p.out, err = b.pumps.Open(kit.OutputConfig{
		Dir: p.dir, Terminal: p.io.GetTerminal(), Log: log, Recover: again, Stdout: files[0], Stderr: files[1],
	})
	return err
}

// fifo is where a stream's is.
func (p *process) fifo(stream string) string {
	return filepath.Join(p.c.vmDir, outputDir, host.FIFO(p.c.id, p.exec, stream))
}

// openSpool opens what was moved already, of a process whose machine is gone.
func (p *process) openSpool(b *Backend, log *logs.Config) (err error) {
	p.out, err = b.pumps.Open(kit.OutputConfig{Dir: p.dir, Terminal: p.io.GetTerminal(), Log: log, Recover: true})
	return err
}

func makeFIFO(path string, uid int) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return &fs.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return os.Chown(path, uid, uid)
}

// terminal makes the spec agree with what the engine asked for.
func (p *process) terminal(spec *specs.Process) {
	spec.Terminal = p.io.GetTerminal()
	spec.ConsoleSize = nil
}

// Start is backend.Backend.
func (b *Backend) Start(ctx context.Context, ref *backendpb.ProcessRef) (*backendpb.Status, error) {
	c, p, err := b.process(ref)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.phase != created || !p.inside {
		p.mu.Unlock()
		return nil, fmt.Errorf("%v was started before: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.phase = starting
	p.mu.Unlock()
	began := time.Now()
	defer func() { b.log.Debug("started", "process", p, "after", time.Since(began)) }()
	if p.exec != "" && !c.init.running() {
		p.set(created)
		return nil, fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if _, err := c.machine.remote.Start(context.WithoutCancel(ctx), ref); err != nil {
		p.set(failed)
		if failure, ok := errors.AsType[*backend.ExecError](err); ok {
			return nil, failure
		}
		return nil, fmt.Errorf("start %v: %w", p, err)
	}
	return &backendpb.Status{}, p.tellStarted(b)
}

// tellStarted tells once; the shim's event may come before the answer.
func (p *process) tellStarted(b *Backend) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == running || p.phase == exited {
		return nil
	}
	e := &backendpb.Event{Type: backendpb.Event_STARTED, Process: p.ref(), At: time.Now().UnixNano()}
	p.phase, p.started = running, e.At
	return b.journal.Add(e)
}

// watch follows what a machine's shim tells, until shim and machine are gone.
func (b *Backend) watch(s *sandbox, m *machine) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-m.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	events, err := m.remote.Events(ctx, 0)
	for err == nil {
		var e *backendpb.Event
		if e, err = events.Recv(); err == nil {
			b.heard(s, e)
		}
	}
	// Without its shim a machine is of no use, and ends with it.
	m.kill()
	b.lost(s)
}

// heard is one event of a shim.
func (b *Backend) heard(s *sandbox, e *backendpb.Event) {
	b.mu.Lock()
	c := b.containers[e.GetProcess().GetContainer()]
	b.mu.Unlock()
	if c == nil || c.sandbox != s {
		return
	}
	p, err := c.process(e.GetProcess().GetExec())
	if err != nil {
		return
	}
	switch e.GetType() {
	case backendpb.Event_STARTED:
		if err := p.tellStarted(b); err != nil {
			b.log.Error("an event was lost", "event", e, "err", err)
		}
	case backendpb.Event_OOM:
		p.tell(b, &backendpb.Event{Type: backendpb.Event_OOM, Process: p.ref()})
	case backendpb.Event_EXITED:
		p.end(b, proto.CloneOf(e.GetExit()))
	}
}

// end tells the end of a process, once, after its output.
func (p *process) end(b *Backend, exit *backendpb.Exit) {
	p.mu.Lock()
	if p.phase != running {
		p.mu.Unlock()
		return
	}
	p.phase, p.exit = exited, exit
	p.mu.Unlock()
	defer close(p.over)
	if p.exec == "" {
		p.c.mu.Lock()
		p.c.ended = true
		p.c.mu.Unlock()
	}
	if p.out != nil {
		if err := p.out.Drain(); err != nil {
			b.log.Warn("output may be incomplete", "process", p, "err", err)
		}
	}
	p.tell(b, &backendpb.Event{Type: backendpb.Event_EXITED, Process: p.ref(), Exit: exit})
	b.log.Debug("exited", "process", p, "code", exit.GetCode())
	p.closeOutput()
}

func (p *process) closeOutput() {
	if p.out != nil {
		_ = p.out.Close()
	}
}

func (p *process) tell(b *Backend, e *backendpb.Event) {
	if err := b.journal.Add(e); err != nil {
		b.log.Error("an event was lost", "event", e, "err", err)
	}
}

// lost tells the end of all that ran in a machine whose shim is gone.
func (b *Backend) lost(s *sandbox) {
	b.mu.Lock()
	var inside []*container
	for _, c := range b.containers {
		if c.sandbox == s {
			inside = append(inside, c)
		}
	}
	b.mu.Unlock()
	for _, c := range inside {
		list := c.all()
		for _, p := range append(list[1:], list[0]) {
			p.end(b, &backendpb.Exit{
				Code: 137, At: time.Now().UnixNano(), Reason: "its virtual machine ended: the process that guards it was killed",
			})
		}
	}
}

// destroy forgets a process that its machine no longer has.
func (p *process) destroy() {
	if p.running() {
		<-p.over // its end is on its way
	}
	p.closeOutput()
}

// Signal is backend.Backend.
func (b *Backend) Signal(ctx context.Context, r *backendpb.SignalRequest) error {
	c, p, err := b.process(r.GetProcess())
	if err != nil {
		return err
	}
	if !p.running() {
		return fmt.Errorf("%v is not running: %w", p, errdefs.ErrFailedPrecondition)
	}
	return c.machine.remote.Signal(ctx, r)
}

// Resize is backend.Backend.
func (b *Backend) Resize(ctx context.Context, r *backendpb.ResizeRequest) error {
	c, p, err := b.process(r.GetProcess())
	if err != nil {
		return err
	}
	if !p.io.GetTerminal() {
		return fmt.Errorf("%v has no terminal: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.mu.Lock()
	if p.phase == exited || p.phase == failed {
		p.mu.Unlock()
		return fmt.Errorf("%v is not running: %w", p, errdefs.ErrFailedPrecondition)
	}
	if !p.inside {
		// An exec is known before it is made; clients resize it at once.
		p.size = r
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	return c.machine.remote.Resize(ctx, r)
}

// native gives an error of a plain gRPC call its kind.
func native(err error) error { return errgrpc.ToNative(err) }
