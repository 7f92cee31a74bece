package fake

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// inputLimit is how much stdin a process holds that it has not read, in bytes.
const inputLimit = 64 << 10

// attachment is one attacher's view of a process. Its queue is not bounded, but
// flood waits for it.
type attachment struct {
	b      *Backend
	p      *proc
	open   *backendpb.AttachOpen
	queue  []*backendpb.AttachOutput // mu of b
	closed bool                      // mu of b
}

// Attach connects from now on.
func (b *Backend) Attach(ctx context.Context, a *backendpb.AttachOpen) (backend.Streams, error) {
	end, err := b.begin(ctx, "Attach")
	defer end()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, p, err := b.process(a.GetProcess())
	if err != nil {
		return nil, err
	}
	if p.Phase == backendpb.ProcessState_EXITED {
		return nil, refused("process has exited")
	}
	s := &attachment{b: b, p: p, open: a}
	p.sinks[s] = struct{}{}
	return s, nil
}

func (a *attachment) wants(s backendpb.AttachOutput_Stream) bool {
	return s == backendpb.AttachOutput_STDOUT && a.open.GetStdout() ||
		s == backendpb.AttachOutput_STDERR && a.open.GetStderr()
}

func (a *attachment) Recv() (*backendpb.AttachOutput, error) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	for {
		switch {
		case a.closed:
			return nil, io.EOF
		case len(a.queue) > 0:
			out := a.queue[0]
			a.queue = a.queue[1:]
			a.b.changed.Broadcast()
			return out, nil
		case a.p.gone:
			return nil, io.EOF
		case a.b.closed:
			return nil, fmt.Errorf("backend has ended: %w", errdefs.ErrUnavailable)
		}
		a.b.changed.Wait()
	}
}

func (a *attachment) Send(data []byte) error {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if !a.open.GetStdin() || !a.p.IO.GetStdin() {
		return refused("stdin is not attached")
	}
	for len(a.p.input) > inputLimit && !a.done() {
		a.b.changed.Wait()
	}
	if a.done() {
		return refused("stdin is closed")
	}
	a.p.input = append(a.p.input, data...)
	a.b.changed.Broadcast()
	return nil
}

// done tells whether input can reach the process no more.
func (a *attachment) done() bool {
	return a.closed || a.p.gone || a.p.InputClosed || a.b.closed
}

func (a *attachment) CloseStdin() error {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if !a.open.GetStdin() {
		return refused("stdin is not attached")
	}
	a.p.InputClosed = true
	a.b.changed.Broadcast()
	return a.b.save()
}

func (a *attachment) Close() error {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	delete(a.p.sinks, a)
	if a.open.GetStdin() && a.p.IO.GetStdinOnce() {
		a.p.InputClosed = true
	}
	a.b.changed.Broadcast()
	return nil
}

// journal holds the events of processes that were not deleted.
type journal struct {
	Seq    uint64             // of the newest event ever
	Events []*backendpb.Event // in order
	subs   map[*subscription]struct{}
}

// emit numbers an event and gives it to all subscribers. Call with mu held.
func (b *Backend) emit(e *backendpb.Event) {
	b.events.Seq++
	e.Seq = b.events.Seq
	e.At = e.GetExit().GetAt()
	if e.At == 0 {
		e.At = now()
	}
	b.events.Events = append(b.events.Events, e)
	for s := range b.events.subs {
		s.queue = append(s.queue, e)
	}
	b.changed.Broadcast()
}

// forget drops the events of a deleted process.
func (j *journal) forget(ref *backendpb.ProcessRef) {
	kept := j.Events[:0:0]
	for _, e := range j.Events {
		if e.Process.GetContainer() != ref.GetContainer() || e.Process.GetExec() != ref.GetExec() {
			kept = append(kept, e)
		}
	}
	j.Events = kept
}

// subscription has a queue of its own, so that a subscriber gets also the events
// of processes that are deleted before it reads.
type subscription struct {
	b     *Backend
	ctx   context.Context
	queue []*backendpb.Event // mu of b
}

// Events replays what is known after the number, or says RESET to who has seen
// more than there was: somebody lost the state file.
func (b *Backend) Events(ctx context.Context, after uint64) (backend.EventStream, error) {
	end, err := b.begin(ctx, "Events")
	defer end()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &subscription{b: b, ctx: ctx}
	if after > b.events.Seq {
		s.queue = append(s.queue, &backendpb.Event{Type: backendpb.Event_RESET, Seq: b.events.Seq, At: now()})
	} else {
		for _, e := range b.events.Events {
			if e.Seq > after {
				s.queue = append(s.queue, e)
			}
		}
	}
	if b.events.subs == nil {
		b.events.subs = map[*subscription]struct{}{}
	}
	b.events.subs[s] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.events.subs, s)
		b.changed.Broadcast()
	})
	return s, nil
}

func (s *subscription) Recv() (*backendpb.Event, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	for {
		switch {
		case s.ctx.Err() != nil:
			return nil, s.ctx.Err()
		case len(s.queue) > 0:
			e := s.queue[0]
			s.queue = s.queue[1:]
			return e, nil
		case s.b.closed:
			return nil, fmt.Errorf("backend has ended: %w", errdefs.ErrUnavailable)
		}
		s.b.changed.Wait()
	}
}
