// Package fake is a backend in memory: it isolates nothing, runs a tiny command
// language instead of programs, needs no root and works on every OS. Everything
// else about it is as the contract says, and it can be told to fail in every
// way that a real backend can.
//
// # Programs
//
// process.args is one command, or sh -c with commands separated by ";":
//
//	echo WORDS [>&2]     writes a line          cat      copies stdin until it ends
//	exit [N], true, false                       hang     waits for ever
//	sleep SECONDS [& wait]                      tty      writes "rows cols"
//	kill -SIG $$         signals itself         oom      is killed by the OOM killer
//	trap 'exit N' SIG, trap '' SIG              flood N  writes N bytes
//	env NAME             writes its value
//
// Any other command is NO_COMMAND, and one called noexec NOT_EXECUTABLE. As on
// Linux a container's first process ignores signals that it does not trap,
// except SIGKILL; an exec dies of them.
//
// # Surviving SIGKILL
//
// With Options.StateFile set the containers outlive the process, as they do with
// a real backend: the next New finds them running, and each goes on with the
// command it was at. No log line is lost or doubled.
package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Options are the knobs. The zero value is a backend that works.
type Options struct {
	Name   string `json:"name,omitempty"`  // "" is fake
	Level  string `json:"level,omitempty"` // "" is process
	Faults Faults `json:"faults,omitempty"`
	// FaultsFile names a JSON file of Faults that is read again at each verb, so
	// that a test can make a running plugin fail. It need not exist.
	FaultsFile string   `json:"faults_file,omitempty"`
	StateFile  string   `json:"state_file,omitempty"` // see Surviving SIGKILL
	Without    []string `json:"without,omitempty"`    // capabilities not offered
	Warnings   []string `json:"warnings,omitempty"`   // for Info
	// Facts are added to those of Info.
	Facts map[string]string `json:"facts,omitempty"`
	Crash func()            `json:"-"` // what Fault.Crash calls; nil kills this process
}

// Faults maps a verb, by its name in the contract ("Create", "ReadArchive"), to
// how it fails.
type Faults map[string]Fault

// Fault is one way to fail. Parts that are set apply in this order.
type Fault struct {
	Skip  int           `json:"skip,omitempty"`  // calls that go well before
	Times int           `json:"times,omitempty"` // calls that fail then; 0 is all
	Delay time.Duration `json:"delay,omitempty"`
	Hang  bool          `json:"hang,omitempty"`  // until the caller gives up
	Crash string        `json:"crash,omitempty"` // "before" or "after" the verb did its work
	Kind  string        `json:"kind,omitempty"`  // a key of Kinds; the verb does nothing
}

// Kinds are the error kinds a Fault can name.
var Kinds = map[string]error{
	"not found":           errdefs.ErrNotFound,
	"already exists":      errdefs.ErrAlreadyExists,
	"invalid argument":    errdefs.ErrInvalidArgument,
	"failed precondition": errdefs.ErrFailedPrecondition,
	"unavailable":         errdefs.ErrUnavailable,
	"not implemented":     errdefs.ErrNotImplemented,
	"permission denied":   errdefs.ErrPermissionDenied,
	"resource exhausted":  errdefs.ErrResourceExhausted,
	"internal":            errdefs.ErrInternal,
	"unknown":             errdefs.ErrUnknown,
}

// Backend is a fake. It is all of the contract, less Options.Without.
type Backend struct {
	o Options

	faultsMu sync.Mutex
	calls    map[string]int

	mu         sync.Mutex
	changed    *sync.Cond // mu; events, output, input, pauses
	sandboxes  map[string]*backendpb.Sandbox
	containers map[string]*ctr
	events     journal
	closed     bool
}

// ctr is one container.
type ctr struct {
	Sandbox   string
	Log       *backendpb.Log
	Resources json.RawMessage
	Paused    bool
	Init      *proc
	Execs     map[string]*proc
	Files     tree
}

var (
	_ backend.Backend       = (*Backend)(nil)
	_ backend.Pauser        = (*Backend)(nil)
	_ backend.ProcessLister = (*Backend)(nil)
	_ backend.Files         = (*Backend)(nil)
)

// New opens a fake, with the containers that Options.StateFile tells of.
func New(o Options) (*Backend, error) {
	if o.Name == "" {
		o.Name = "fake"
	}
	if o.Level == "" {
		o.Level = "process"
	}
	if o.Crash == nil {
		o.Crash = crash
	}
	b := &Backend{
		o:          o,
		calls:      map[string]int{},
		sandboxes:  map[string]*backendpb.Sandbox{},
		containers: map[string]*ctr{},
	}
	b.changed = sync.NewCond(&b.mu)
	if err := b.load(); err != nil {
		return nil, err
	}
	return b, nil
}

// crash kills this process the way nothing can catch.
func crash() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill()
	}
	select {}
}

// errClosed is what a caller sees of a process that has ended.
var errClosed = fmt.Errorf("the backend has ended: %w", errdefs.ErrUnavailable)

// Shutdown stops all goroutines, as the end of the process would; no verb does
// anything from then on.
func (b *Backend) Shutdown() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.changed.Broadcast()
	return nil
}

// begin applies the faults of a verb, and returns what to call at its end.
func (b *Backend) begin(ctx context.Context, verb string) (end func(), err error) {
	end = func() {}
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return end, errClosed
	}
	f, ok := b.fault(verb)
	if !ok {
		return end, nil
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-ctx.Done():
			return end, ctx.Err()
		}
	}
	if f.Hang {
		<-ctx.Done()
		return end, ctx.Err()
	}
	switch f.Crash {
	case "before":
		b.o.Crash()
	case "after":
		end = b.o.Crash
	}
	if f.Kind != "" {
		kind, ok := Kinds[f.Kind]
		if !ok {
			kind = errdefs.ErrInvalidArgument
		}
		return end, fmt.Errorf("fault injected into %s: %w", verb, kind)
	}
	return end, nil
}

func (b *Backend) fault(verb string) (Fault, bool) {
	faults := b.o.Faults
	if b.o.FaultsFile != "" {
		if data, err := os.ReadFile(b.o.FaultsFile); err == nil {
			var fromFile Faults
			if json.Unmarshal(data, &fromFile) == nil {
				faults = fromFile
			}
		}
	}
	b.faultsMu.Lock()
	defer b.faultsMu.Unlock()
	b.calls[verb]++
	f, ok := faults[verb]
	n := b.calls[verb] - f.Skip
	return f, ok && n > 0 && (f.Times == 0 || n <= f.Times)
}

// Calls tells how often a verb was called.
func (b *Backend) Calls(verb string) int {
	b.faultsMu.Lock()
	defer b.faultsMu.Unlock()
	return b.calls[verb]
}

func notFound(what, id string) error {
	return fmt.Errorf("no such %s: %s: %w", what, id, errdefs.ErrNotFound)
}

func refused(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrFailedPrecondition)...)
}

// container finds a container. Call with mu held.
func (b *Backend) container(id string) (*ctr, error) {
	c, ok := b.containers[id]
	if !ok {
		return nil, notFound("container", id)
	}
	return c, nil
}

// process finds a process. Call with mu held.
func (b *Backend) process(ref *backendpb.ProcessRef) (*ctr, *proc, error) {
	c, err := b.container(ref.GetContainer())
	if err != nil {
		return nil, nil, err
	}
	if ref.GetExec() == "" {
		return c, c.Init, nil
	}
	p, ok := c.Execs[ref.GetExec()]
	if !ok {
		return nil, nil, notFound("exec", ref.GetExec())
	}
	return c, p, nil
}

func (b *Backend) without(capability string) error {
	if slices.Contains(b.o.Without, capability) {
		return fmt.Errorf("this backend has no capability %q: %w", capability, errdefs.ErrNotImplemented)
	}
	return nil
}

// Info says that it is a fake.
func (b *Backend) Info(ctx context.Context) (*backendpb.InfoReply, error) {
	end, err := b.begin(ctx, "Info")
	defer end()
	if err != nil {
		return nil, err
	}
	strengths := map[string]int32{"process": backend.StrengthProcess, "vm": backend.StrengthVM}
	caps := []string{backend.CapPause, backend.CapProcesses, backend.CapFiles}
	facts := []*backendpb.Fact{{Key: "isolation", Value: "none"}}
	for _, k := range slices.Sorted(maps.Keys(b.o.Facts)) {
		facts = append(facts, &backendpb.Fact{Key: k, Value: b.o.Facts[k]})
	}
	return &backendpb.InfoReply{
		Name: b.o.Name, Version: "fake", Os: runtime.GOOS, Arch: runtime.GOARCH,
		Levels:       []*backendpb.Level{{Name: b.o.Level, Strength: strengths[b.o.Level]}},
		DefaultLevel: b.o.Level,
		Capabilities: slices.DeleteFunc(caps, func(c string) bool { return b.without(c) != nil }),
		Facts:        facts,
		Warnings:     append([]string{"This backend isolates nothing: it is for tests."}, b.o.Warnings...),
	}, nil
}

// Open only remembers the sandbox.
func (b *Backend) Open(ctx context.Context, s *backendpb.Sandbox) error {
	end, err := b.begin(ctx, "Open")
	defer end()
	if err != nil {
		return err
	}
	if s.GetId() == "" {
		return fmt.Errorf("a sandbox needs an id: %w", errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.sandboxes[s.GetId()]; ok {
		return fmt.Errorf("sandbox %s: %w", s.GetId(), errdefs.ErrAlreadyExists)
	}
	b.sandboxes[s.GetId()] = s
	return b.save()
}

// Close deletes the containers first.
func (b *Backend) Close(ctx context.Context, id string) error {
	end, err := b.begin(ctx, "Close")
	defer end()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for cid, c := range b.containers {
		if c.Sandbox == id {
			b.delete(cid, c)
		}
	}
	delete(b.sandboxes, id)
	return b.save()
}

// Create reads the command from the spec.
func (b *Backend) Create(ctx context.Context, q *backendpb.Container) (*backendpb.Status, error) {
	end, err := b.begin(ctx, "Create")
	defer end()
	if err != nil {
		return nil, err
	}
	var spec struct {
		Process *command
		Linux   struct{ Resources json.RawMessage }
	}
	if err := json.Unmarshal(q.GetSpec(), &spec); err != nil {
		return nil, fmt.Errorf("spec of container %s: %w: %w", q.GetId(), err, errdefs.ErrInvalidArgument)
	}
	if q.GetId() == "" || spec.Process == nil || len(spec.Process.Args) == 0 {
		return nil, fmt.Errorf("container %q needs an id and a command: %w", q.GetId(), errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.sandboxes[q.GetSandbox()]; !ok {
		return nil, notFound("sandbox", q.GetSandbox())
	}
	if _, ok := b.containers[q.GetId()]; ok {
		return nil, fmt.Errorf("container %s: %w", q.GetId(), errdefs.ErrAlreadyExists)
	}
	p := newProc(&backendpb.ProcessRef{Container: q.GetId()}, *spec.Process, q.GetIo())
	p.Reaped = q.GetInit()
	b.containers[q.GetId()] = &ctr{
		Sandbox: q.GetSandbox(), Log: q.GetLog(), Resources: spec.Linux.Resources,
		Init: p, Execs: map[string]*proc{}, Files: tree{},
	}
	return &backendpb.Status{}, b.save()
}

// Start runs the command.
func (b *Backend) Start(ctx context.Context, ref *backendpb.ProcessRef) (*backendpb.Status, error) {
	end, err := b.begin(ctx, "Start")
	defer end()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, p, err := b.process(ref)
	if err != nil {
		return nil, err
	}
	if p.Phase != backendpb.ProcessState_CREATED || p.Failed {
		return nil, refused("process of container %s was started before", ref.GetContainer())
	}
	if p != c.Init && (c.Init.Phase != backendpb.ProcessState_RUNNING || c.Paused) {
		return nil, refused("container %s is not running", ref.GetContainer())
	}
	if failure := p.check(); failure != nil {
		p.Failed = true
		return nil, errors.Join(b.save(), failure)
	}
	now := time.Now()
	p.Phase, p.StartedAt, p.StepAt = backendpb.ProcessState_RUNNING, now, now
	b.emit(&backendpb.Event{Type: backendpb.Event_STARTED, Process: p.Ref})
	if err := b.save(); err != nil {
		return nil, err
	}
	go b.run(c, p)
	return &backendpb.Status{}, nil
}

// Exec adds a process.
func (b *Backend) Exec(ctx context.Context, e *backendpb.ExecSpec) error {
	end, err := b.begin(ctx, "Exec")
	defer end()
	if err != nil {
		return err
	}
	var cmd command
	if err := json.Unmarshal(e.GetProcess(), &cmd); err != nil || len(cmd.Args) == 0 || e.GetExec() == "" {
		return fmt.Errorf("process of exec %q in container %s: %w", e.GetExec(), e.GetContainer(), errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, err := b.container(e.GetContainer())
	if err != nil {
		return err
	}
	if _, ok := c.Execs[e.GetExec()]; ok {
		return fmt.Errorf("exec %s: %w", e.GetExec(), errdefs.ErrAlreadyExists)
	}
	if c.Init.Phase != backendpb.ProcessState_RUNNING {
		return refused("container %s is not running", e.GetContainer())
	}
	if c.Paused {
		return refused("container %s is paused, unpause it first", e.GetContainer())
	}
	c.Execs[e.GetExec()] = newProc(&backendpb.ProcessRef{Container: e.GetContainer(), Exec: e.GetExec()}, cmd, e.GetIo())
	return b.save()
}

// Resize sets what tty writes.
func (b *Backend) Resize(ctx context.Context, r *backendpb.ResizeRequest) error {
	end, err := b.begin(ctx, "Resize")
	defer end()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, p, err := b.process(r.GetProcess())
	if err != nil {
		return err
	}
	if !p.IO.GetTerminal() {
		return refused("process has no terminal")
	}
	if p.Phase == backendpb.ProcessState_EXITED {
		return refused("process has exited")
	}
	p.IO.Rows, p.IO.Cols = r.GetRows(), r.GetCols()
	return b.save()
}

// Signal queues a signal for the command, or ends it.
func (b *Backend) Signal(ctx context.Context, s *backendpb.SignalRequest) error {
	end, err := b.begin(ctx, "Signal")
	defer end()
	if err != nil {
		return err
	}
	if signalNumber(s.GetSignal()) == 0 {
		return fmt.Errorf("no signal %q: %w", s.GetSignal(), errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, p, err := b.process(s.GetProcess())
	if err != nil {
		return err
	}
	if p.Phase != backendpb.ProcessState_RUNNING {
		return refused("container %s is not running", s.GetProcess().GetContainer())
	}
	targets := []*proc{p}
	if s.GetAll() {
		targets = c.procs()
	}
	for _, t := range targets {
		t.signals = append(t.signals, s.GetSignal())
	}
	b.changed.Broadcast()
	return nil
}

// State tells of one container.
func (b *Backend) State(ctx context.Context, id string) (*backendpb.ContainerState, error) {
	end, err := b.begin(ctx, "State")
	defer end()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, err := b.container(id)
	if err != nil {
		return nil, err
	}
	return c.state(), nil
}

// List tells of all.
func (b *Backend) List(ctx context.Context) (*backendpb.ListReply, error) {
	end, err := b.begin(ctx, "List")
	defer end()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	reply := &backendpb.ListReply{}
	for id := range b.sandboxes {
		reply.Sandboxes = append(reply.Sandboxes, id)
	}
	for _, c := range b.containers {
		reply.Containers = append(reply.Containers, c.state())
	}
	slices.Sort(reply.Sandboxes)
	slices.SortFunc(reply.Containers, func(x, y *backendpb.ContainerState) int {
		return strings.Compare(x.Init.Process.Container, y.Init.Process.Container)
	})
	return reply, nil
}

// Stats makes numbers up, except limits and how long it runs.
func (b *Backend) Stats(ctx context.Context, id string) (*backendpb.StatsReply, error) {
	end, err := b.begin(ctx, "Stats")
	defer end()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, err := b.container(id)
	if err != nil {
		return nil, err
	}
	if c.Init.Phase != backendpb.ProcessState_RUNNING {
		return nil, refused("container %s is not running", id)
	}
	var limits struct {
		Memory struct{ Limit int64 }
		Pids   struct{ Limit int64 }
	}
	if len(c.Resources) > 0 {
		if err := json.Unmarshal(c.Resources, &limits); err != nil {
			return nil, fmt.Errorf("resources of container %s: %w: %w", id, err, errdefs.ErrInternal)
		}
	}
	now := time.Now()
	return &backendpb.StatsReply{
		At:     now.UnixNano(),
		Cpu:    &backendpb.CPUStats{Total: uint64(now.Sub(c.Init.StartedAt))},
		Memory: &backendpb.MemoryStats{Usage: 1 << 20, MaxUsage: 1 << 20, Limit: uint64(max(0, limits.Memory.Limit))},
		Pids:   uint64(len(c.procs())), PidsLimit: uint64(max(0, limits.Pids.Limit)),
	}, nil
}

// Update replaces the resources it is given.
func (b *Backend) Update(ctx context.Context, u *backendpb.UpdateRequest) error {
	end, err := b.begin(ctx, "Update")
	defer end()
	if err != nil {
		return err
	}
	var change map[string]json.RawMessage
	if err := json.Unmarshal(u.GetResources(), &change); err != nil {
		return fmt.Errorf("resources: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, err := b.container(u.GetContainer())
	if err != nil {
		return err
	}
	have := map[string]json.RawMessage{}
	if len(c.Resources) > 0 {
		if err := json.Unmarshal(c.Resources, &have); err != nil {
			return fmt.Errorf("resources of container %s: %w: %w", u.GetContainer(), err, errdefs.ErrInternal)
		}
	}
	for k, v := range change {
		have[k] = v
	}
	if c.Resources, err = json.Marshal(have); err != nil {
		return err
	}
	return b.save()
}

// Delete kills first.
func (b *Backend) Delete(ctx context.Context, ref *backendpb.ProcessRef) error {
	end, err := b.begin(ctx, "Delete")
	defer end()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, p, err := b.process(ref)
	if err != nil {
		return nil
	}
	if p == c.Init {
		b.delete(ref.GetContainer(), c)
		return b.save()
	}
	b.end(c, p, &backendpb.Exit{Code: 128 + 9})
	b.events.forget(p.Ref)
	delete(c.Execs, ref.GetExec())
	return b.save()
}

// delete removes a container. Call with mu held.
func (b *Backend) delete(id string, c *ctr) {
	b.end(c, c.Init, &backendpb.Exit{Code: 128 + 9})
	for _, p := range c.Execs {
		b.end(c, p, &backendpb.Exit{Code: 128 + 9}) // created ones: ends their attachments
		b.events.forget(p.Ref)
	}
	b.events.forget(c.Init.Ref)
	delete(b.containers, id)
}

// Pause stops the commands between steps.
func (b *Backend) Pause(ctx context.Context, id string) error {
	return b.setPaused(ctx, "Pause", id, true)
}

// Resume lets them go on.
func (b *Backend) Resume(ctx context.Context, id string) error {
	return b.setPaused(ctx, "Resume", id, false)
}

func (b *Backend) setPaused(ctx context.Context, verb, id string, paused bool) error {
	end, err := b.begin(ctx, verb)
	defer end()
	if err := errors.Join(err, b.without(backend.CapPause)); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, err := b.container(id)
	if err != nil {
		return err
	}
	if c.Init.Phase != backendpb.ProcessState_RUNNING {
		return refused("container %s is not running", id)
	}
	if c.Paused == paused {
		return refused("container %s: paused is %v already", id, paused)
	}
	c.Paused = paused
	kind := backendpb.Event_RESUMED
	if paused {
		kind = backendpb.Event_PAUSED
	}
	b.emit(&backendpb.Event{Type: kind, Process: c.Init.Ref})
	return b.save()
}

// Processes numbers what runs from 1.
func (b *Backend) Processes(ctx context.Context, id string) (*backendpb.ProcessesReply, error) {
	end, err := b.begin(ctx, "Processes")
	defer end()
	if err := errors.Join(err, b.without(backend.CapProcesses)); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, err := b.container(id)
	if err != nil {
		return nil, err
	}
	reply := &backendpb.ProcessesReply{}
	for i := range c.procs() {
		reply.Processes = append(reply.Processes, &backendpb.ProcessInfo{Pid: int64(i + 1)})
	}
	return reply, nil
}

// procs are those that run, the first process first. Call with mu held.
func (c *ctr) procs() []*proc {
	var running []*proc
	if c.Init.Phase == backendpb.ProcessState_RUNNING {
		running = append(running, c.Init)
	}
	for _, p := range c.Execs {
		if p.Phase == backendpb.ProcessState_RUNNING {
			running = append(running, p)
		}
	}
	return running
}

// state is the wire form. Call with mu held.
func (c *ctr) state() *backendpb.ContainerState {
	s := &backendpb.ContainerState{Init: c.Init.state(), Paused: c.Paused, Sandbox: c.Sandbox}
	for _, p := range c.Execs {
		s.Execs = append(s.Execs, p.state())
	}
	return s
}
