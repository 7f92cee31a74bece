package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/engine/store"
)

const (
	// reviveWait is how long a verb waits for a backend that is being
	// launched again, before it fails.
	reviveWait = 10 * time.Second
	// firstRetry and lastRetry bound the pause between launches that fail,
	// lastRevival that before one that worked is launched again.
	firstRetry  = 5 * time.Millisecond
	lastRetry   = 5 * time.Second
	lastRevival = 200 * time.Millisecond
)

// isolator is one backend that was found, healthy or not.
type isolator struct {
	bin BackendBinary

	mu      sync.Mutex
	proc    BackendProcess // nil while it is down
	info    *backendpb.InfoReply
	problem string        // why it cannot be used, "" while it is up
	up      chan struct{} // closed while it is up
	seq     uint64        // of the last event handled
	tried   chan struct{} // closed after the first attempt to launch it
}

// cursor is how far a backend's events were handled, as stored.
type cursor struct {
	Seq uint64 `json:"seq"`
}

// launchAll finds the backends and begins to supervise them.
func (e *Engine) launchAll() error {
	found, err := e.cfg.Launcher.Discover()
	if err != nil {
		return err
	}
	e.backendMu.Lock()
	defer e.backendMu.Unlock()
	for _, bin := range found {
		b := &isolator{bin: bin, problem: "it is being launched", up: make(chan struct{}), tried: make(chan struct{})}
		b.seq = e.readCursor(bin.Name)
		e.backends = append(e.backends, b)
		e.spawn(func(ctx context.Context) { e.supervise(ctx, b) })
	}
	return nil
}

// supervise keeps a backend launched and follows its events.
func (e *Engine) supervise(ctx context.Context, b *isolator) {
	var tried sync.Once
	retry := firstRetry
	for ctx.Err() == nil {
		var up time.Time
		err := e.serve(ctx, b, func() {
			up = e.now()
			tried.Do(func() { close(b.tried) })
		})
		tried.Do(func() { close(b.tried) })
		if ctx.Err() != nil {
			return
		}
		b.down(reason(err))
		limit := lastRetry
		if !up.IsZero() {
			// It worked. Verbs wait for it, so it comes back soon, but one that
			// dies again and again must not take the processor.
			if limit = lastRevival; e.now().Sub(up) > steady {
				retry = firstRetry
			}
		}
		retry = min(retry, limit)
		e.log.Warn("backend is down, launching it again", "backend", b.bin.Name, "reason", err, "in", retry)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
		retry *= 2
	}
}

// serve is the life of one backend process, as the engine sees it.
func (e *Engine) serve(ctx context.Context, b *isolator, usable func()) error {
	proc, err := e.cfg.Launcher.Launch(ctx, b.bin)
	if err != nil {
		return err
	}
	defer func() { _ = proc.Disconnect() }() // there is nothing left to do with it
	// Calls must not outlive the process: a hung connection would hang a verb.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-proc.Done():
			cancel()
		case <-ctx.Done():
		}
	}()

	info, err := proc.Info(ctx)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if info.GetName() != b.bin.Name {
		return fmt.Errorf("%s says that its name is %q: %w", b.bin.Path, info.GetName(), errdefs.ErrFailedPrecondition)
	}
	if len(info.GetLevels()) == 0 {
		return fmt.Errorf("it offers no isolation level on this host: %s: %w", strings.Join(info.GetWarnings(), "; "), errdefs.ErrFailedPrecondition)
	}
	if err := e.reconcile(ctx, b, proc); err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	b.mu.Lock()
	b.proc, b.info, b.problem = proc, info, ""
	close(b.up)
	b.mu.Unlock()
	usable()
	err = e.follow(ctx, b, proc)
	select {
	case <-proc.Done():
		return fmt.Errorf("the process died: %w", errdefs.ErrUnavailable)
	default:
		return err
	}
}

// down makes verbs wait for the backend to come back.
func (b *isolator) down(why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.proc != nil {
		b.proc = nil
		b.up = make(chan struct{})
	}
	b.problem = why
}

// follow handles the backend's events until the stream breaks.
func (e *Engine) follow(ctx context.Context, b *isolator, proc BackendProcess) error {
	b.mu.Lock()
	after := b.seq
	b.mu.Unlock()
	stream, err := proc.Events(ctx, after)
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	for {
		ev, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		if ev.GetType() == backendpb.Event_RESET {
			b.setSeq(ev.GetSeq())
			if err := e.reconcile(ctx, b, proc); err != nil {
				return fmt.Errorf("list containers: %w", err)
			}
			continue
		}
		e.handle(b, ev)
	}
}

func (b *isolator) setSeq(seq uint64) {
	b.mu.Lock()
	b.seq = seq
	b.mu.Unlock()
}

// handle applies one event. It does not block on the host: what takes time is
// spawned.
func (e *Engine) handle(b *isolator, ev *backendpb.Event) {
	b.setSeq(ev.GetSeq())
	ref := ev.GetProcess()
	c, ok := e.ctrs.Get(ref.GetContainer())
	if !ok {
		return // its record is gone; reconcile closes what is left of it
	}
	op, err := put(keyBackend+b.bin.Name, cursor{Seq: ev.GetSeq()})
	if err != nil {
		return
	}
	switch ev.GetType() {
	case backendpb.Event_EXITED:
		if ref.GetExec() != "" {
			e.execExited(ref.GetExec(), ev.GetExit(), op)
			return
		}
		e.exited(c, ev.GetExit(), op)
	case backendpb.Event_OOM:
		e.oom(c)
	}
}

func (e *Engine) readCursor(name string) uint64 {
	var cur cursor
	if b, err := e.journal.Get(keyBackend + name); err == nil {
		_ = unmarshal(b, &cur) // damaged: replay from the start, which is idempotent
	}
	return cur.Seq
}

// isolator finds a backend by name.
func (e *Engine) isolator(name string) (*isolator, error) {
	e.backendMu.Lock()
	defer e.backendMu.Unlock()
	for _, b := range e.backends {
		if b.bin.Name == name {
			return b, nil
		}
	}
	return nil, fmt.Errorf("backend %s is not installed: put caisson-backend-%s into a backend directory and restart the engine: %w", name, name, errdefs.ErrUnavailable)
}

// client is the connection to a container's backend. It waits a while for one
// that is being launched again.
func (e *Engine) client(ctx context.Context, name string) (BackendProcess, error) {
	b, err := e.isolator(name)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	proc, up := b.proc, b.up
	b.mu.Unlock()
	if proc != nil {
		return proc, nil
	}
	t := time.NewTimer(reviveWait)
	defer t.Stop()
	select {
	case <-up:
		return e.client(ctx, name)
	case <-e.ctx.Done():
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.C:
		b.mu.Lock()
		defer b.mu.Unlock()
		return nil, fmt.Errorf("backend %s is not available: %s: %w", name, b.problem, errdefs.ErrUnavailable)
	}
}

// call does f, which must be safe to repeat, with a backend, again if the
// backend dies under it.
func (e *Engine) call(ctx context.Context, name string, f func(BackendProcess) error) error {
	for try := 0; ; try++ {
		proc, err := e.client(ctx, name)
		if err != nil {
			return err
		}
		err = f(proc)
		if !errdefs.IsUnavailable(err) || try == 3 || answers(ctx, proc) {
			return err
		}
		if err := e.gone(ctx, name, proc); err != nil {
			return err
		}
	}
}

// answers tells whether a backend is well. What it calls unavailable is then
// something else, a guest say, and a repetition would only wait for that again.
func answers(ctx context.Context, proc BackendProcess) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := proc.Info(ctx)
	return err == nil
}

// gone waits until a connection that failed is known to be down, so that the
// next use gets a new one.
func (e *Engine) gone(ctx context.Context, name string, proc BackendProcess) error {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-proc.Done():
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	b, err := e.isolator(name)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.proc == proc {
		select {
		case <-proc.Done():
			b.proc, b.up, b.problem = nil, make(chan struct{}), "the process died"
		default:
		}
	}
	return nil
}

// capable is the backend as the optional interface T, if it says that it has
// the capability.
func capable[T any](e *Engine, ctx context.Context, name, capability string) (T, error) {
	var none T
	proc, err := e.client(ctx, name)
	if err != nil {
		return none, err
	}
	return offers[T](e, proc, name, capability)
}

func offers[T any](e *Engine, proc BackendProcess, name, capability string) (T, error) {
	var none T
	b, err := e.isolator(name)
	if err != nil {
		return none, err
	}
	b.mu.Lock()
	has := b.info != nil && slices.Contains(b.info.GetCapabilities(), capability)
	b.mu.Unlock()
	if t, ok := proc.(T); ok && has {
		return t, nil
	}
	return none, fmt.Errorf("backend %s cannot do this (it lacks capability %q): %w", name, capability, errdefs.ErrNotImplemented)
}

// ownStack says whether a container's network is another kernel's.
func (e *Engine) ownStack(rec *container.Record) bool {
	b, err := e.isolator(rec.Decision.Backend)
	if err != nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.info != nil && slices.Contains(b.info.GetCapabilities(), backend.CapOwnStack)
}

// freezing is Pause or Resume, again if the backend dies under it. What it says
// the second time, that it is done already, is no error then.
func (e *Engine) freezing(ctx context.Context, name, id string, act func(backend.Pauser, context.Context, string) error) error {
	tries := 0
	return e.call(ctx, name, func(proc BackendProcess) error {
		p, err := offers[backend.Pauser](e, proc, name, backend.CapPause)
		if err != nil {
			return err
		}
		tries++
		if err = act(p, ctx, id); errdefs.IsFailedPrecondition(err) && tries > 1 {
			return nil
		}
		return err
	})
}

// A backend says in this fact of its Info what stands behind its wall: tcg is
// software that emulates a machine.
const (
	factAccelerator = "accelerator"
	acceleratorTCG  = "tcg"
)

// choices are the backends as the policy sees them.
func (e *Engine) choices() []policy.Backend {
	e.backendMu.Lock()
	defer e.backendMu.Unlock()
	out := make([]policy.Backend, 0, len(e.backends))
	for _, b := range e.backends {
		b.mu.Lock()
		pb := policy.Backend{Name: b.bin.Name, Problem: b.problem}
		if b.info != nil {
			pb.OS, pb.Default = b.info.GetOs(), b.info.GetDefaultLevel()
			pb.Emulated = slices.ContainsFunc(b.info.GetFacts(), func(f *backendpb.Fact) bool {
				return f.GetKey() == factAccelerator && f.GetValue() == acceleratorTCG
			})
			for _, l := range b.info.GetLevels() {
				pb.Levels = append(pb.Levels, policy.Level{Name: l.GetName(), Strength: int(l.GetStrength())})
			}
			if b.proc == nil && b.problem != "" {
				pb.Problem = "" // known good and on its way back: verbs wait for it
			}
		}
		b.mu.Unlock()
		out = append(out, pb)
	}
	return out
}

// Backends lists the discovered backends, also those that fail their probe.
func (e *Engine) Backends(context.Context) ([]BackendStatus, error) {
	e.backendMu.Lock()
	defer e.backendMu.Unlock()
	out := make([]BackendStatus, 0, len(e.backends))
	for _, b := range e.backends {
		out = append(out, b.status())
	}
	slices.SortFunc(out, func(a, b BackendStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (b *isolator) status() BackendStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BackendStatus{Name: b.bin.Name, Path: b.bin.Path, Problem: b.problem}
	if b.proc != nil {
		s.PID = b.proc.PID()
	}
	if i := b.info; i != nil {
		s.Version, s.OS, s.Arch, s.DefaultLevel = i.GetVersion(), i.GetOs(), i.GetArch(), i.GetDefaultLevel()
		s.Capabilities, s.Warnings = i.GetCapabilities(), i.GetWarnings()
		for _, l := range i.GetLevels() {
			s.Levels = append(s.Levels, Level{Name: l.GetName(), Strength: int(l.GetStrength())})
		}
		s.Facts = map[string]string{}
		for _, f := range i.GetFacts() {
			s.Facts[f.GetKey()] = f.GetValue()
		}
	}
	return s
}

// resetCursors forgets how far events were handled: after a reboot backends
// count anew.
func (e *Engine) resetCursors() error {
	var ops []store.Op
	for _, k := range e.journal.Keys(keyBackend) {
		ops = append(ops, store.Op{Key: k})
	}
	return e.journal.Apply(false, ops...)
}
