package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// The contract as the backend sees it: the guest's, checked. What can be answered
// here is not asked of the guest.

var (
	_ backend.Backend       = (*shim)(nil)
	_ backend.Pauser        = (*shim)(nil)
	_ backend.ProcessLister = (*shim)(nil)
	_ backend.Files         = (*shim)(nil)
)

// Info is backend.Backend. It answers while the machine boots.
func (s *shim) Info(context.Context) (*backendpb.InfoReply, error) {
	r := &backendpb.InfoReply{Name: "vmshim", Version: s.cfg.Version}
	select {
	case <-s.machine.Done():
		r.Warnings = append(r.Warnings, clean(s.machine.Err().Error(), 512)+lastWords(s.machine.Console()))
	default:
	}
	return r, nil
}

// Open is backend.Backend: the sandbox in the guest.
func (s *shim) Open(ctx context.Context, r *backendpb.Sandbox) error {
	return s.void(ctx, func(ctx context.Context) error { return s.remote.Open(ctx, r) })
}

// void is call for what answers nothing.
func (s *shim) void(ctx context.Context, do func(context.Context) error) error {
	_, err := call(ctx, s, func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) })
	return err
}

// Close is backend.Backend: it ends machine and shim. What the guest has on its
// disks is written back if it still answers.
func (s *shim) Close(ctx context.Context, _ string) error {
	select {
	case <-s.machine.Done():
	default:
		if s.agent != nil {
			_ = s.gate.set(ctx, false)
			_ = s.shutdown(ctx)
		}
	}
	s.end()
	return nil
}

// Create is backend.Backend.
func (s *shim) Create(ctx context.Context, r *backendpb.Container) (*backendpb.Status, error) {
	ref := &backendpb.ProcessRef{Container: r.GetId()}
	if err := checkRef(ref); err != nil {
		return nil, err
	}
	s.mu.Lock()
	_, exists := s.containers[r.GetId()]
	s.mu.Unlock()
	if exists {
		return nil, fmt.Errorf("container %q exists: %w", r.GetId(), errdefs.ErrAlreadyExists)
	}
	p, err := s.openPipes(ref)
	if err != nil {
		return nil, err
	}
	if _, err := call(ctx, s, func(ctx context.Context) (*backendpb.Status, error) { return s.remote.Create(ctx, r) }); err != nil {
		p.close()
		return nil, err
	}
	init, err := s.connectOutput(ref, p)
	if err != nil {
		p.close()
		_ = s.void(ctx, func(ctx context.Context) error { return s.remote.Delete(ctx, ref) })
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[r.GetId()] = &container{id: r.GetId(), init: init, execs: map[string]*process{}}
	return &backendpb.Status{}, nil
}

// Start is backend.Backend.
func (s *shim) Start(ctx context.Context, ref *backendpb.ProcessRef) (*backendpb.Status, error) {
	p, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	st, err := call(ctx, s, func(ctx context.Context) (*backendpb.Status, error) {
		st, err := s.remote.Start(ctx, ref)
		if failure, ok := errors.AsType[*backend.ExecError](err); ok {
			return &backendpb.Status{Failure: &backendpb.ExecFailure{Kind: failure.Kind, Message: failure.Message}}, nil
		}
		return st, err
	})
	if err != nil {
		return nil, err
	}
	if f := st.GetFailure(); f != nil {
		f = cleanFailure(f)
		return nil, &backend.ExecError{Kind: f.GetKind(), Message: f.GetMessage()}
	}
	s.started(p)
	return &backendpb.Status{}, nil
}

// Exec is backend.Backend.
func (s *shim) Exec(ctx context.Context, r *backendpb.ExecSpec) error {
	ref := &backendpb.ProcessRef{Container: r.GetContainer(), Exec: r.GetExec()}
	if err := checkRef(ref); err != nil {
		return err
	}
	if _, err := s.find(&backendpb.ProcessRef{Container: r.GetContainer()}); err != nil {
		return err
	}
	if _, err := s.find(ref); err == nil {
		return fmt.Errorf("exec %q exists: %w", r.GetExec(), errdefs.ErrAlreadyExists)
	}
	p, err := s.openPipes(ref)
	if err != nil {
		return err
	}
	if err := s.void(ctx, func(ctx context.Context) error { return s.remote.Exec(ctx, r) }); err != nil {
		p.close()
		return err
	}
	q, err := s.connectOutput(ref, p)
	if err != nil {
		p.close()
		_ = s.void(ctx, func(ctx context.Context) error { return s.remote.Delete(ctx, ref) })
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[r.GetContainer()]
	if c == nil {
		q.stop()
		return fmt.Errorf("container %s is being deleted: %w", r.GetContainer(), errdefs.ErrFailedPrecondition)
	}
	c.execs[r.GetExec()] = q
	return nil
}

// Attach is backend.Backend, for stdin only: output goes through the FIFOs.
func (s *shim) Attach(ctx context.Context, a *backendpb.AttachOpen) (backend.Streams, error) {
	if _, err := s.find(a.GetProcess()); err != nil {
		return nil, err
	}
	if a.GetStdout() || a.GetStderr() {
		return nil, fmt.Errorf("output goes through pipes: %w", errdefs.ErrInvalidArgument)
	}
	return call(ctx, s, func(ctx context.Context) (backend.Streams, error) {
		in, err := s.remote.Attach(ctx, &backendpb.AttachOpen{Process: a.GetProcess(), Stdin: true})
		if err != nil {
			return nil, err
		}
		return silent{in}, nil
	})
}

// silent is an attachment of which the guest's words are thrown away.
type silent struct{ backend.Streams }

func (s silent) Recv() (*backendpb.AttachOutput, error) {
	for {
		if _, err := s.Streams.Recv(); err != nil {
			return nil, io.EOF
		}
	}
}

// Resize is backend.Backend.
func (s *shim) Resize(ctx context.Context, r *backendpb.ResizeRequest) error {
	return s.void(ctx, func(ctx context.Context) error { return s.remote.Resize(ctx, r) })
}

// Signal is backend.Backend. A guest that is to kill a container's first process and
// does not, or does not tell of its end, loses its machine.
func (s *shim) Signal(ctx context.Context, r *backendpb.SignalRequest) error {
	ctx, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	err := s.void(ctx, func(ctx context.Context) error { return s.remote.Signal(ctx, r) })
	if r.GetSignal() == "SIGKILL" && r.GetProcess().GetExec() == "" {
		if errors.Is(err, errSilent) {
			s.condemn("its agent did not answer when it was to kill a container")
			return nil
		}
		if p, e := s.find(r.GetProcess()); e == nil && err == nil {
			time.AfterFunc(dieTimeout, func() { s.mustBeDead(p) })
		}
	}
	if err == nil && r.GetSignal() == "SIGKILL" && s.isPaused(r.GetProcess().GetContainer()) {
		// A killed process leaves the freezer, so its machine must run.
		return s.gate.set(ctx, false)
	}
	return err
}

func (s *shim) mustBeDead(p *process) {
	s.mu.Lock()
	dead := p.exited != nil
	s.mu.Unlock()
	if !dead {
		s.condemn("its agent did not tell of the end of a container that was killed")
	}
}

func (s *shim) isPaused(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	return c != nil && c.paused
}

// State is backend.Backend, from what was told.
func (s *shim) State(_ context.Context, id string) (*backendpb.ContainerState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, fmt.Errorf("no container %q: %w", id, errdefs.ErrNotFound)
	}
	return c.state(s.cfg.Sandbox), nil
}

func (c *container) state(sandbox string) *backendpb.ContainerState {
	st := &backendpb.ContainerState{Init: c.init.state(), Sandbox: sandbox, Paused: c.paused}
	for _, p := range c.sorted() {
		st.Execs = append(st.Execs, p.state())
	}
	return st
}

func (p *process) state() *backendpb.ProcessState {
	st := &backendpb.ProcessState{Process: p.ref}
	if p.started != nil {
		st.Phase, st.StartedAt = backendpb.ProcessState_RUNNING, p.started.GetAt()
	}
	if p.exited != nil {
		st.Phase, st.Exit = backendpb.ProcessState_EXITED, p.exited.GetExit()
	}
	return st
}

// List is backend.Backend.
func (s *shim) List(context.Context) (*backendpb.ListReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &backendpb.ListReply{Sandboxes: []string{s.cfg.Sandbox}}
	for _, c := range s.containers {
		r.Containers = append(r.Containers, c.state(s.cfg.Sandbox))
	}
	return r, nil
}

// Events is backend.Backend.
func (s *shim) Events(ctx context.Context, after uint64) (backend.EventStream, error) {
	return &subscription{ctx: ctx, from: s.events, after: after}, nil
}

// Stats is backend.Backend.
func (s *shim) Stats(ctx context.Context, id string) (*backendpb.StatsReply, error) {
	return call(ctx, s, func(ctx context.Context) (*backendpb.StatsReply, error) {
		r, err := s.remote.Stats(ctx, id)
		if err != nil {
			return nil, err
		}
		return cleanStats(r, time.Now().UnixNano(), uint64(s.cfg.Shape.Memory), s.cfg.Shape.CPUs), nil
	})
}

// Update is backend.Backend.
func (s *shim) Update(ctx context.Context, r *backendpb.UpdateRequest) error {
	return s.void(ctx, func(ctx context.Context) error { return s.remote.Update(ctx, r) })
}

// Delete is backend.Backend. A machine that is gone has nothing left to delete.
func (s *shim) Delete(ctx context.Context, ref *backendpb.ProcessRef) error {
	p, err := s.find(ref)
	if err != nil {
		return nil //nolint:nilerr // unknown is success
	}
	select {
	case <-s.machine.Done():
	default:
		if err := s.void(ctx, func(ctx context.Context) error { return s.remote.Delete(ctx, ref) }); err != nil {
			return err
		}
		if ref.GetExec() == "" {
			_ = s.gate.set(ctx, false)
		}
	}
	s.mu.Lock()
	c := s.containers[ref.GetContainer()]
	gone := []*process{p}
	if ref.GetExec() == "" {
		gone = append(gone, c.sorted()...)
	}
	s.mu.Unlock()
	// The guest told of their ends before it answered, so that is on its way too.
	for _, q := range gone {
		// Its output ends with the attachment.
		select {
		case <-q.pumped:
		case <-time.After(drainTimeout):
		}
		q.stop()
		<-q.pumped
		s.exited(q, &backendpb.Exit{Code: lostCode, Unknown: true, At: time.Now().UnixNano(), Reason: "the guest did not tell"})
	}
	s.mu.Lock()
	if ref.GetExec() == "" {
		delete(s.containers, ref.GetContainer())
	} else if c != nil {
		delete(c.execs, ref.GetExec())
	}
	s.mu.Unlock()
	s.events.forget(ref)
	return nil
}

// Pause is backend.Pauser: the container is frozen in the guest, so that calls
// find it paused, and then the whole machine stands still.
func (s *shim) Pause(ctx context.Context, id string) error {
	if err := s.void(ctx, func(ctx context.Context) error { return s.remote.Pause(ctx, id) }); err != nil {
		return err
	}
	s.setPaused(id, true)
	return s.gate.set(ctx, true)
}

func (s *shim) setPaused(id string, paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		c.paused = paused
	}
}

// Resume is backend.Pauser.
func (s *shim) Resume(ctx context.Context, id string) error {
	if err := s.gate.set(ctx, false); err != nil {
		return err
	}
	if err := s.void(ctx, func(ctx context.Context) error { return s.remote.Resume(ctx, id) }); err != nil {
		return err
	}
	s.setPaused(id, false)
	return nil
}

// Processes is backend.ProcessLister.
func (s *shim) Processes(ctx context.Context, id string) (*backendpb.ProcessesReply, error) {
	return call(ctx, s, func(ctx context.Context) (*backendpb.ProcessesReply, error) {
		r, err := s.remote.Processes(ctx, id)
		return cleanProcesses(r), err
	})
}

// StatPath is backend.Files.
func (s *shim) StatPath(ctx context.Context, r *backendpb.PathRequest) (*backendpb.PathStat, error) {
	return call(ctx, s, func(ctx context.Context) (*backendpb.PathStat, error) {
		st, err := s.remote.StatPath(ctx, r)
		if err != nil {
			return nil, err
		}
		return cleanStat(st)
	})
}

// Changes is backend.Files.
func (s *shim) Changes(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.ChangesReply, error) {
	return call(ctx, s, func(ctx context.Context) (*backendpb.ChangesReply, error) {
		r, err := s.remote.Changes(ctx, t)
		if err != nil {
			return nil, err
		}
		return cleanChanges(r)
	})
}

// ReadArchive is backend.Files. The archive is hostile, as any container's is, and
// checked by who unpacks it.
func (s *shim) ReadArchive(ctx context.Context, r *backendpb.PathRequest) (io.ReadCloser, error) {
	return s.archive(ctx, func(ctx context.Context) (io.ReadCloser, error) { return s.remote.ReadArchive(ctx, r) })
}

// ReadDiff is backend.Files; the same holds.
func (s *shim) ReadDiff(ctx context.Context, t *backendpb.FilesTarget) (io.ReadCloser, error) {
	return s.archive(ctx, func(ctx context.Context) (io.ReadCloser, error) { return s.remote.ReadDiff(ctx, t) })
}

// archive opens one, which may take longer than a call: the machine runs until it
// is closed.
func (s *shim) archive(ctx context.Context, open func(context.Context) (io.ReadCloser, error)) (io.ReadCloser, error) {
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	leave, err := s.gate.enter(ctx)
	if err != nil {
		return nil, err
	}
	r, err := open(ctx)
	if err != nil {
		leave()
		return nil, s.told(err)
	}
	return &running{r, s, leave}, nil
}

// running is an archive for which the machine runs.
type running struct {
	io.ReadCloser
	shim  *shim
	leave func()
}

func (r *running) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.shim.told(err)
	}
	return n, err
}

func (r *running) Close() error {
	defer r.leave()
	return r.ReadCloser.Close()
}

// WriteArchive is backend.Files.
func (s *shim) WriteArchive(ctx context.Context, t *backendpb.WriteTarget, tar io.Reader) error {
	if err := s.await(ctx); err != nil {
		return err
	}
	leave, err := s.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.remote.WriteArchive(ctx, t, tar); err != nil {
		return s.told(err)
	}
	return nil
}
