package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// container is one that the backend made in the machine.
type container struct {
	id    string
	init  *process
	execs map[string]*process // guarded by shim.mu

	paused bool // guarded by shim.mu
}

// process is a container's first process or an exec.
type process struct {
	ref    *backendpb.ProcessRef
	pumped chan struct{} // closed when all its output is in the FIFOs
	stop   context.CancelFunc

	// Guarded by shim.mu.
	started *backendpb.Event
	exited  *backendpb.Event
	oom     bool
}

var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func checkRef(p *backendpb.ProcessRef) error {
	if !validID.MatchString(p.GetContainer()) || p.GetExec() != "" && !validID.MatchString(p.GetExec()) {
		return fmt.Errorf("invalid id: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// find is a process that the backend made.
func (s *shim) find(ref *backendpb.ProcessRef) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.lookup(ref); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no process %s %s: %w", ref.GetContainer(), ref.GetExec(), errdefs.ErrNotFound)
}

// lookup is find with s.mu held.
func (s *shim) lookup(ref *backendpb.ProcessRef) *process {
	c := s.containers[ref.GetContainer()]
	switch {
	case c == nil:
		return nil
	case ref.GetExec() == "":
		return c.init
	}
	return c.execs[ref.GetExec()]
}

// pipes are a process's FIFOs, both ends of each.
type pipes [2]*os.File

func (p pipes) close() {
	for _, f := range p {
		if f != nil {
			_ = f.Close()
		}
	}
}

var streamNames = [2]string{"stdout", "stderr"}

// openPipes opens what the backend made. A process with a terminal has no second.
func (s *shim) openPipes(ref *backendpb.ProcessRef) (p pipes, err error) {
	for i, stream := range streamNames {
		name := FIFO(ref.GetContainer(), ref.GetExec(), stream)
		fd, err := unix.Openat(int(s.dir.Fd()), name, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) && i == 1 {
			break
		}
		if err != nil {
			p.close()
			return pipes{}, fmt.Errorf("output %s: %w", name, err)
		}
		p[i] = os.NewFile(uintptr(fd), name)
	}
	return p, nil
}

// connectOutput has a created process's output flow into its pipes. It returns once the
// guest has the attachment, so that no byte is missed.
func (s *shim) connectOutput(ref *backendpb.ProcessRef, p pipes) (*process, error) {
	life, stop := context.WithCancel(context.Background())
	streams, err := call(life, s, func(ctx context.Context) (backend.Streams, error) {
		return s.remote.Attach(ctx, &backendpb.AttachOpen{Process: ref, Stdout: true, Stderr: true})
	})
	if err != nil {
		stop()
		return nil, err
	}
	q := &process{ref: ref, pumped: make(chan struct{}), stop: stop}
	var once sync.Once
	end := func() { once.Do(func() { _ = streams.Close() }) }
	context.AfterFunc(life, func() {
		end()
		// Wakes a write that waits for room.
		for _, f := range p {
			if f != nil {
				_ = f.SetWriteDeadline(time.Now())
			}
		}
	})
	go func() {
		pump(streams, p)
		end()
		close(q.pumped)
		// The pipes stay open until the process is deleted: what is in them is
		// nowhere else.
		<-life.Done()
		p.close()
	}()
	return q, nil
}

// pump writes what a guest sends until it ends.
func pump(from backend.Streams, to pipes) {
	for {
		out, err := from.Recv()
		if err != nil {
			return
		}
		f := to[0]
		if out.GetStream() == backendpb.AttachOutput_STDERR && to[1] != nil {
			f = to[1]
		}
		if _, err := f.Write(out.GetData()); err != nil {
			return
		}
	}
}

// follow turns the guest's events into ours. A guest that invents some, repeats
// them or sends them in another order is not heard. One that ends the stream has an
// agent that is gone or taken over: nothing would tell of the end of what runs in it.
func (s *shim) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if s.await(ctx) != nil || s.remote == nil {
		return
	}
	stream, err := s.remote.Events(ctx, 0)
	for err == nil {
		var ev *backendpb.Event
		if ev, err = stream.Recv(); err == nil {
			s.heard(ev)
		}
	}
	// A machine that ends takes its agent along, and then says more than that.
	select {
	case <-s.machine.Done():
	case <-time.After(lastWordsTimeout):
		s.condemn("its agent broke the connection: " + clean(cleanError(err).Error(), 256))
	}
}

func (s *shim) heard(ev *backendpb.Event) {
	p, err := s.find(ev.GetProcess())
	if err != nil {
		return
	}
	switch ev.GetType() {
	case backendpb.Event_STARTED:
		s.started(p)
	case backendpb.Event_OOM:
		s.mu.Lock()
		first := !p.oom && p.started != nil
		p.oom = true
		s.mu.Unlock()
		if first {
			s.events.add(&backendpb.Event{Type: backendpb.Event_OOM, Process: p.ref, At: time.Now().UnixNano()})
		}
	case backendpb.Event_EXITED:
		s.exited(p, cleanExit(ev.GetExit(), time.Now().UnixNano()))
	}
}

// started tells that a process runs, once.
func (s *shim) started(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.started != nil {
		return
	}
	p.started = &backendpb.Event{Type: backendpb.Event_STARTED, Process: p.ref, At: time.Now().UnixNano()}
	s.events.add(p.started)
}

// exited tells that a process has ended, once, after the last byte of its output
// and after the execs of the same container.
func (s *shim) exited(p *process, exit *backendpb.Exit) {
	<-p.pumped
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.started == nil || p.exited != nil {
		return
	}
	if p.ref.GetExec() == "" {
		for _, q := range s.containers[p.ref.GetContainer()].sorted() {
			if q.started != nil && q.exited == nil {
				// The guest's backend would have told of it: it is lying.
				q.exited = &backendpb.Event{Type: backendpb.Event_EXITED, Process: q.ref, At: exit.GetAt(),
					Exit: &backendpb.Exit{Code: 255, Unknown: true, At: exit.GetAt(), Reason: "the guest did not tell"}}
				s.events.add(q.exited)
			}
		}
	}
	p.exited = &backendpb.Event{Type: backendpb.Event_EXITED, Process: p.ref, Exit: exit, At: exit.GetAt()}
	s.events.add(p.exited)
}

func (c *container) sorted() []*process {
	if c == nil {
		return nil
	}
	var list []*process
	for _, q := range c.execs {
		list = append(list, q)
	}
	slices.SortFunc(list, func(a, b *process) int {
		if a.ref.GetExec() < b.ref.GetExec() {
			return -1
		}
		return 1
	})
	return list
}

// killedCode is the exit code of a process that a signal took away with its
// machine; lostCode is that of one whose machine ended otherwise.
const (
	killedCode = 137
	lostCode   = 255
)

// allEnded tells the end of all that ran in a machine that is gone.
func (s *shim) allEnded(why error) {
	code := int32(lostCode)
	if x, ok := errors.AsType[*vmm.Exit](why); errors.Is(why, vmm.ErrKilled) || ok && x.Reason == vmm.Signalled {
		code = killedCode
	}
	text := "its virtual machine ended"
	if why != nil {
		text += ": " + clean(why.Error(), 512)
		if code == lostCode {
			text += lastWords(s.machine.Console()) // it did not end by our hand: it may say more
		}
	}
	s.mu.Lock()
	var execs, inits []*process
	for _, c := range s.containers {
		execs, inits = append(execs, c.sorted()...), append(inits, c.init)
	}
	s.mu.Unlock()
	for _, p := range append(execs, inits...) {
		if p == nil {
			continue
		}
		s.exited(p, &backendpb.Exit{Code: code, At: time.Now().UnixNano(), Reason: text})
	}
}
