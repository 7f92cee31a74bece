package host

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// events is what is told of a machine's processes: numbered by us, kept until the
// process is deleted. A guest cannot add to it beyond a start, an end and one
// notice of memory per process that the backend made.
type events struct {
	mu      sync.Mutex
	list    []*told
	last    uint64
	changed chan struct{} // closed and replaced with each
}

// told is one; gone says that its process was deleted.
type told struct {
	*backendpb.Event
	gone bool
}

func newEvents() *events { return &events{changed: make(chan struct{})} }

func (e *events) add(ev *backendpb.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	ev.Seq = e.last
	e.list = append(e.list, &told{Event: ev})
	close(e.changed)
	e.changed = make(chan struct{})
}

// forget says that a process was deleted, or a container with all of its. What was
// said of it goes once the backend has heard it: it waits for the end of what it
// deletes.
func (e *events) forget(p *backendpb.ProcessRef) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.list {
		q := ev.GetProcess()
		if q.GetContainer() == p.GetContainer() && (p.GetExec() == "" || q.GetExec() == p.GetExec()) {
			ev.gone = true
		}
	}
}

// next returns the first event after a number, waiting for it.
func (e *events) next(ctx context.Context, after uint64) (*backendpb.Event, error) {
	for {
		e.mu.Lock()
		changed := e.changed
		e.list = slices.DeleteFunc(e.list, func(ev *told) bool { return ev.gone && ev.GetSeq() <= after })
		for _, ev := range e.list {
			if ev.GetSeq() > after {
				e.mu.Unlock()
				return proto.CloneOf(ev.Event), nil
			}
		}
		e.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// subscription is backend.EventStream.
type subscription struct {
	ctx   context.Context
	from  *events
	after uint64
}

func (s *subscription) Recv() (*backendpb.Event, error) {
	ev, err := s.from.next(s.ctx, s.after)
	if err == nil {
		s.after = ev.GetSeq()
	}
	return ev, err
}
