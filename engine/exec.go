package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/engine/spec"
	"github.com/caisson-engine/caisson/engine/store"
)

// execKeep is how long the result of an exec that ended can be asked for.
const execKeep = 5 * time.Minute

// execution is one exec. Engine.execMu guards what changes.
type execution struct {
	id  string
	ctr *ctr
	execRecord
	size   *[2]uint      // asked for before the backend had the process
	served chan struct{} // closed when the client has all output; nil without a client
	ended  chan struct{} // closed when its end is recorded
	lost   bool          // its end was not seen
}

// end records how an exec ended, which happens once. The caller holds execMu.
func (x *execution) end(code int, at time.Time) {
	x.Phase, x.ExitCode, x.Pid, x.Ended = execEnded, code, 0, at
	close(x.ended)
}

// awaitEnd waits until the end of an exec whose output is at its end is
// recorded: a client that has seen the last byte asks for the exit code next.
func (x *execution) awaitEnd(ctx context.Context) {
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-x.ended:
	case <-t.C:
	case <-ctx.Done():
	}
}

// execRecord is its durable form.
type execRecord struct {
	Container string                         `json:"container"`
	Request   apicontainer.ExecCreateRequest `json:"request"`
	Phase     execPhase                      `json:"phase"`
	Probe     bool                           `json:"probe,omitempty"` // a health check: the engine's own
	Pid       int64                          `json:"pid,omitempty"`
	ExitCode  int                            `json:"exit,omitempty"`
	Ended     time.Time                      `json:"ended,omitzero"`
}

// execPhase is where an exec is in its life; it only moves on.
type execPhase int

const (
	execCreated execPhase = iota
	execRunning
	execEnded
)

// ExecCreate prepares another process for a running container.
func (e *Engine) ExecCreate(ctx context.Context, ref string, r apicontainer.ExecCreateRequest) (string, error) {
	if err := e.await(ctx); err != nil {
		return "", err
	}
	c, err := e.enter(ctx, ref)
	if err != nil {
		return "", err
	}
	if r.Privileged && !identity.From(ctx).Admin {
		rec, _ := c.view()
		if err := e.violation(rec, policy.Ask{Option: "privileged"}); err != nil {
			return "", err
		}
	}
	if len(r.Cmd) == 0 {
		return "", invalid("no exec command specified")
	}
	if _, err := parseDetachKeys(r.DetachKeys); err != nil {
		return "", err
	}
	c.awaitStart()
	rec, st := c.view()
	if err := canExec(c, st.State); err != nil {
		return "", err
	}
	x := &execution{id: newID(), ctr: c, execRecord: execRecord{Container: c.id, Request: r}, ended: make(chan struct{})}
	op, err := put(keyExec+x.id, x.execRecord)
	if err != nil {
		return "", err
	}
	e.execMu.Lock()
	ops := append(e.expireExecs(), op)
	e.execs[x.id] = x
	e.execMu.Unlock()
	if err := e.journal.Apply(false, ops...); err != nil {
		e.execMu.Lock()
		delete(e.execs, x.id)
		e.execMu.Unlock()
		return "", err
	}
	e.emit(rec, events.Action(string(events.ActionExecCreate)+": "+strings.Join(r.Cmd, " ")), "execID", x.id)
	return x.id, nil
}

func canExec(c *ctr, s container.State) error {
	switch {
	case s == container.Paused:
		return fmt.Errorf("container %s is paused, unpause the container before exec: %w", c.id, errdefs.ErrConflict)
	case s == container.Restarting:
		return fmt.Errorf("container %s is restarting, wait until the container is running: %w", c.id, errdefs.ErrConflict)
	case !s.Alive():
		return notRunning(c)
	}
	return nil
}

// expireExecs forgets what nobody asked for in time. The caller holds execMu.
func (e *Engine) expireExecs() (ops []store.Op) {
	old := e.now().Add(-execKeep)
	for id, x := range e.execs {
		if x.Phase == execEnded && x.Ended.Before(old) {
			delete(e.execs, id)
			ops = append(ops, store.Op{Key: keyExec + id})
		}
	}
	return ops
}

// dropExecs forgets a container's execs for good.
func (e *Engine) dropExecs(id string) (ops []store.Op) {
	e.execMu.Lock()
	defer e.execMu.Unlock()
	for xid, x := range e.execs {
		if x.Container == id {
			delete(e.execs, xid)
			ops = append(ops, store.Op{Key: keyExec + xid})
		}
	}
	return ops
}

// forgetExecs marks the execs of a container that ended: none can run.
func (e *Engine) forgetExecs(id string) {
	e.execMu.Lock()
	defer e.execMu.Unlock()
	for _, x := range e.execs {
		if x.Container == id && x.Phase == execRunning {
			x.end(137, e.now())
			e.saveExec(x)
		}
	}
}

// exec finds an exec of a container that the client sees.
func (e *Engine) exec(ctx context.Context, id string) (*execution, error) {
	e.execMu.Lock()
	defer e.execMu.Unlock()
	if x, ok := e.execs[id]; ok {
		if rec, _ := x.ctr.view(); identity.From(ctx).Sees(rec.Tenant) && (!x.Probe || identity.From(ctx).Tenant == identity.Engine.Tenant) {
			return x, nil
		}
	}
	return nil, fmt.Errorf("No such exec instance: %s: %w", id, errdefs.ErrNotFound) //nolint:staticcheck // Docker's words
}

// ExecStart runs it and serves the client until it ends.
func (e *Engine) ExecStart(ctx context.Context, id string, o ExecStartOptions) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	x, err := e.exec(ctx, id)
	if err != nil {
		return err
	}
	if _, err := e.enter(ctx, x.ctr.id); err != nil {
		return err
	}
	rec, st := x.ctr.view()
	if err := canExec(x.ctr, st.State); err != nil {
		return err
	}
	if err := e.claimExec(x); err != nil {
		return err
	}
	r := &x.Request
	keys, _ := parseDetachKeys(def(o.DetachKeys, r.DetachKeys)) // checked at creation and by the default
	open := &backendpb.AttachOpen{
		Process: &backendpb.ProcessRef{Container: x.Container, Exec: x.id},
		Stdin:   o.Stdin != nil && r.AttachStdin, Stdout: o.Stdout != nil && r.AttachStdout, Stderr: o.Stderr != nil && r.AttachStderr,
	}
	if !open.GetStdin() {
		o.Stdin = nil
	}
	// What goes wrong from here on is told inside the stream.
	if !o.Detach {
		if err := o.Ready(r.Tty); err != nil {
			return e.execFailed(x, err)
		}
	}
	e.emit(rec, events.Action(string(events.ActionExecStart)+": "+strings.Join(r.Cmd, " ")), "execID", x.id)
	streams, err := e.runExec(ctx, x, rec, open, o)
	if err != nil {
		return e.execFailed(x, err)
	}
	if streams == nil {
		return nil
	}
	defer close(x.served)
	p := &pump{
		o: o.AttachOptions, tty: r.Tty, closeStdin: !r.Tty, keys: keys, streams: streams,
		again: func(ctx context.Context) (backend.Streams, error) {
			return e.reattach(ctx, rec.Decision.Backend, open)
		},
	}
	detached, err := p.run(ctx)
	_ = p.current().Close()
	if detached {
		e.emit(rec, events.ActionExecDetach, "execID", x.id)
	} else if err == nil {
		x.awaitEnd(ctx)
	}
	return err
}

// claimExec makes sure that an exec is started once.
func (e *Engine) claimExec(x *execution) error {
	e.execMu.Lock()
	defer e.execMu.Unlock()
	switch x.Phase {
	case execRunning:
		return fmt.Errorf("exec %s is already running: %w", x.id, errdefs.ErrConflict)
	case execEnded:
		return fmt.Errorf("exec %s has already run: %w", x.id, errdefs.ErrConflict)
	}
	x.Phase = execRunning
	return nil
}

// runExec goes through Exec, Attach and Start.
func (e *Engine) runExec(ctx context.Context, x *execution, rec *container.Record, open *backendpb.AttachOpen, o ExecStartOptions) (backend.Streams, error) {
	act, cancel := acting(ctx)
	defer cancel()
	r := &x.Request
	defaults, _ := e.settings()
	proc, err := spec.Exec(e.specInput(rec, defaults), r)
	if err != nil {
		return nil, err
	}
	blob, err := json.Marshal(proc)
	if err != nil {
		return nil, fmt.Errorf("encode exec: %w", err)
	}
	io := &backendpb.IO{Terminal: r.Tty, Stdin: r.AttachStdin}
	if size := sizeOf(o.ConsoleSize, r.ConsoleSize); r.Tty && size != nil {
		io.Rows, io.Cols = uint32(size[0]), uint32(size[1])
	}
	name := rec.Decision.Backend
	if err := e.call(act, name, func(p BackendProcess) error {
		err := p.Exec(act, &backendpb.ExecSpec{Container: x.Container, Exec: x.id, Process: blob, Io: io})
		if errdefs.IsAlreadyExists(err) {
			return nil // made by a backend that died before it answered
		}
		return err
	}); err != nil {
		return nil, err
	}
	e.execMu.Lock()
	size := x.size
	e.execMu.Unlock()
	if size != nil {
		if err := e.resize(act, x.ctr, x.id, size[0], size[1]); err != nil {
			e.log.Warn("a terminal has not the size that was asked for", "exec", x.id, "error", err)
		}
	}
	var streams backend.Streams
	if !o.Detach && (open.GetStdin() || open.GetStdout() || open.GetStderr()) {
		if streams, err = e.reattach(e.ctx, name, open); err != nil {
			e.deleteExec(act, rec, x)
			return nil, err
		}
		e.execMu.Lock()
		x.served = make(chan struct{})
		e.execMu.Unlock()
	}
	status, err := e.startExec(act, name, open.GetProcess())
	if err != nil {
		if streams != nil {
			_ = streams.Close()
			close(x.served)
		}
		e.deleteExec(act, rec, x)
		return nil, err
	}
	e.execMu.Lock()
	if x.Phase == execRunning {
		x.Pid = status.GetPid()
	}
	e.saveExec(x)
	e.execMu.Unlock()
	return streams, nil
}

// startExec is Start. If the backend dies under it, what became of the exec
// decides whether it is done again.
func (e *Engine) startExec(ctx context.Context, name string, ref *backendpb.ProcessRef) (status *backendpb.Status, err error) {
	tries := 0
	err = e.call(ctx, name, func(p BackendProcess) error {
		if tries++; tries > 1 {
			s, err := p.State(ctx, ref.GetContainer())
			if err != nil {
				return err
			}
			for _, x := range s.GetExecs() {
				if x.GetProcess().GetExec() == ref.GetExec() && x.GetPhase() != backendpb.ProcessState_CREATED {
					status = &backendpb.Status{Pid: x.GetPid()}
					return nil
				}
			}
		}
		status, err = p.Start(ctx, ref)
		return err
	})
	return status, err
}

// saveExec writes an exec's record. The caller holds execMu, so that an older
// state never follows a newer one.
func (e *Engine) saveExec(x *execution, more ...store.Op) {
	op, err := put(keyExec+x.id, x.execRecord)
	if err == nil {
		err = e.journal.Apply(false, append(more, op)...)
	}
	e.noted(x.ctr, err)
}

func sizeOf(sizes ...*[2]uint) *[2]uint {
	i := slices.IndexFunc(sizes, func(s *[2]uint) bool { return s != nil && s[0] > 0 && s[1] > 0 })
	if i < 0 {
		return nil
	}
	return sizes[i]
}

func (e *Engine) deleteExec(ctx context.Context, rec *container.Record, x *execution) {
	err := e.call(ctx, rec.Decision.Backend, func(p BackendProcess) error {
		return p.Delete(ctx, &backendpb.ProcessRef{Container: x.Container, Exec: x.id})
	})
	if err != nil {
		e.log.Warn("cannot clear an exec away", "container", x.Container, "exec", x.id, "error", err)
	}
}

// execFailed records that an exec did not start and says why in Docker's words.
func (e *Engine) execFailed(x *execution, cause error) error {
	code := 126
	if ee, ok := errors.AsType[*backend.ExecError](cause); ok {
		code = ee.ExitCode()
		cause = fmt.Errorf("OCI runtime exec failed: exec failed: unable to start container process: %s: %w", ee.Message, errdefs.ErrInvalidArgument)
	}
	e.endExec(x, code)
	return cause
}

// endExec records the end once and says whether it did.
func (e *Engine) endExec(x *execution, code int, more ...store.Op) bool {
	e.execMu.Lock()
	defer e.execMu.Unlock()
	if x.Phase == execEnded {
		return false
	}
	x.end(code, e.now())
	e.saveExec(x, more...)
	return true
}

// execExited is called by the backend's event loop.
func (e *Engine) execExited(id string, exit *backendpb.Exit, more ...store.Op) {
	x, err := e.exec(e.ctx, id)
	if err == nil && exit.GetUnknown() {
		e.execMu.Lock()
		x.lost = true
		e.execMu.Unlock()
	}
	if err != nil || !e.endExec(x, int(exit.GetCode()), more...) {
		return
	}
	rec, _ := x.ctr.view()
	if !x.Probe {
		e.emit(rec, events.ActionExecDie, "execID", id, "exitCode", itoa(int(exit.GetCode())))
	}
	e.execMu.Lock()
	served := x.served
	e.execMu.Unlock()
	e.spawn(func(ctx context.Context) {
		ctx, cancel := acting(ctx)
		defer cancel()
		if served != nil {
			t := time.NewTimer(drainTime)
			defer t.Stop()
			select {
			case <-served:
			case <-t.C:
			case <-e.ctx.Done():
				return // the next restore clears it away
			}
		}
		e.deleteExec(ctx, rec, x)
	})
}

// ExecInspect tells of an exec until some minutes after its end.
func (e *Engine) ExecInspect(ctx context.Context, id string) (apicontainer.ExecInspectResponse, error) {
	x, err := e.exec(ctx, id)
	if err != nil {
		return apicontainer.ExecInspectResponse{}, err
	}
	rec, _ := x.ctr.view()
	e.execMu.Lock()
	defer e.execMu.Unlock()
	r := x.Request
	keys, _ := parseDetachKeys(r.DetachKeys)
	out := apicontainer.ExecInspectResponse{
		ID: x.id, Running: x.Phase == execRunning, ContainerID: x.Container, Pid: int(x.Pid), CanRemove: x.Phase == execEnded,
		OpenStdin: r.AttachStdin, OpenStdout: r.AttachStdout, OpenStderr: r.AttachStderr, DetachKeys: keys,
		ProcessConfig: &apicontainer.ExecProcessConfig{
			Tty: r.Tty, Entrypoint: r.Cmd[0], Arguments: r.Cmd[1:], Privileged: &r.Privileged, User: def(r.User, rec.Config.User),
		},
	}
	if x.Phase == execEnded {
		code := x.ExitCode
		out.ExitCode = &code
	}
	return out, nil
}

// ExecResize sets the size of an exec's terminal. Clients do so at once after
// they asked for the start: the size is kept until the backend has the process.
func (e *Engine) ExecResize(ctx context.Context, id string, rows, cols uint) error {
	x, err := e.exec(ctx, id)
	if err != nil {
		return err
	}
	if x.Request.Tty && rows <= maxTerminal && cols <= maxTerminal {
		e.execMu.Lock()
		x.size = &[2]uint{rows, cols}
		e.execMu.Unlock()
	}
	err = e.resize(ctx, x.ctr, x.id, rows, cols)
	if !errdefs.IsNotFound(err) {
		return err
	}
	e.execMu.Lock()
	defer e.execMu.Unlock()
	if x.Phase == execEnded || x.size == nil {
		return notRunning(x.ctr)
	}
	return nil // runExec does it
}

// execIDs lists the running execs of a container.
func (e *Engine) execIDs(id string) []string {
	e.execMu.Lock()
	defer e.execMu.Unlock()
	var out []string
	for xid, x := range e.execs {
		if x.Container == id && x.Phase == execRunning && !x.Probe {
			out = append(out, xid)
		}
	}
	slices.Sort(out)
	return out
}
