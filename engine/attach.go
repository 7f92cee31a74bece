package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/logs"
)

// pendingAttach waits for a process that the backend does not have yet.
type pendingAttach struct {
	open *backendpb.AttachOpen
	got  chan connected // capacity 1
}

// connected is the answer to a pending attachment: streams, or why there are
// none. Both nil: the container will not run.
type connected struct {
	streams backend.Streams
	err     error
}

// Attach connects a client to a container's first process, running or to be
// started.
func (e *Engine) Attach(ctx context.Context, ref string, o AttachOptions) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	c, err := e.enter(ctx, ref)
	if err != nil {
		return err
	}
	keys, err := parseDetachKeys(o.DetachKeys)
	if err != nil {
		return err
	}
	rec, st := c.view()
	switch st.State {
	case container.Paused:
		return fmt.Errorf("container %s is paused, unpause the container before attach: %w", ref, errdefs.ErrConflict)
	case container.Restarting:
		return fmt.Errorf("container %s is restarting, wait until the container is running: %w", ref, errdefs.ErrConflict)
	case container.Removing, container.Dead:
		return fmt.Errorf("container %s is marked for removal: %w", ref, errdefs.ErrConflict)
	}
	var unread io.Reader
	if !rec.Config.OpenStdin {
		unread, o.Stdin = o.Stdin, nil
	}
	open := &backendpb.AttachOpen{
		Process: &backendpb.ProcessRef{Container: c.id},
		Stdin:   o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil,
	}
	var p *pendingAttach
	var streams backend.Streams
	if o.Stream {
		if streams, p, err = e.attach(ctx, c, open); err != nil {
			return err
		}
		if p != nil {
			defer c.withdraw(p)
		}
	}
	defer func() {
		if streams != nil {
			_ = streams.Close()
			c.leftStream()
		}
	}()
	e.emit(rec, events.ActionAttach)
	if err := o.Ready(rec.Config.Tty); err != nil {
		return err
	}
	if unread != nil {
		go func() { _, _ = io.Copy(io.Discard, unread) }() // its end is how a client tells that it left
	}
	if o.Logs {
		if err := e.replay(ctx, rec, o); err != nil {
			return err
		}
	}
	if !o.Stream {
		return nil
	}
	if p != nil {
		select {
		case got := <-p.got:
			if got.streams == nil {
				return nil // a start that failed tells its own caller why
			}
			streams = got.streams
		case <-ctx.Done():
			return ctx.Err()
		case <-e.ctx.Done():
			return errClosed
		}
	}
	pump := &pump{
		o: o, tty: rec.Config.Tty, closeStdin: rec.Config.StdinOnce && !rec.Config.Tty, keys: keys, streams: streams,
		again: func(ctx context.Context) (backend.Streams, error) { return e.attachAgain(ctx, c, open) },
	}
	detached, err := pump.run(ctx)
	streams = pump.streams
	if detached {
		e.emit(rec, events.ActionDetach)
	}
	return err
}

// attach connects to the process, or queues until there is one. Streams are
// counted.
func (e *Engine) attach(ctx context.Context, c *ctr, open *backendpb.AttachOpen) (backend.Streams, *pendingAttach, error) {
	c.mu.Lock()
	if !c.live {
		p := &pendingAttach{open: open, got: make(chan connected, 1)}
		c.waiting = append(c.waiting, p)
		c.mu.Unlock()
		return nil, p, nil
	}
	c.attachedStream()
	name := c.rec.Decision.Backend
	c.mu.Unlock()
	s, err := e.reattach(ctx, name, open)
	if err != nil {
		c.leftStream()
		if errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) {
			return nil, nil, notRunning(c)
		}
		return nil, nil, err
	}
	return s, nil, nil
}

// startPoll is how often an attachment looks for a process whose start is being
// carried on by another backend process.
const startPoll = 20 * time.Millisecond

// attachAgain replaces streams whose backend died. They are counted already.
func (e *Engine) attachAgain(ctx context.Context, c *ctr, open *backendpb.AttachOpen) (backend.Streams, error) {
	for {
		rec, st := c.view()
		s, err := e.reattach(ctx, rec.Decision.Backend, open)
		if st.State != container.Starting || !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			return s, err
		}
		select {
		case <-time.After(startPoll):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reattach opens the streams of a process, waiting for its backend if need be.
func (e *Engine) reattach(ctx context.Context, name string, open *backendpb.AttachOpen) (s backend.Streams, err error) {
	err = e.call(ctx, name, func(p BackendProcess) error {
		s, err = p.Attach(ctx, open)
		return err
	})
	return s, err
}

// connect gives the queued attachments their streams, before the process
// starts. Attachments outlive the start's context: they are the engine's.
func (e *Engine) connect(_ context.Context, proc BackendProcess, c *ctr) error {
	c.mu.Lock()
	queue := c.waiting
	c.waiting, c.live = nil, true
	c.streams += len(queue)
	c.mu.Unlock()
	for i, p := range queue {
		s, err := proc.Attach(e.ctx, p.open)
		if err != nil {
			for range queue[i:] {
				c.leftStream()
			}
			c.mu.Lock()
			c.waiting, c.live = append(queue[i:], c.waiting...), false
			c.mu.Unlock()
			return err
		}
		p.got <- connected{streams: s}
	}
	return nil
}

// abandon tells the queued attachments that there will be no process.
func (c *ctr) abandon(err error) {
	c.mu.Lock()
	queue := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	for _, p := range queue {
		p.got <- connected{err: err}
	}
}

// withdraw takes back a queued attachment whose client left, with the streams
// it got meanwhile.
func (c *ctr) withdraw(p *pendingAttach) {
	c.mu.Lock()
	if i := slices.Index(c.waiting, p); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	c.mu.Unlock()
	select {
	case got := <-p.got:
		if got.streams != nil {
			_ = got.streams.Close()
			c.leftStream()
		}
	default:
	}
}

// replay writes what was logged.
func (e *Engine) replay(ctx context.Context, rec *container.Record, o AttachOptions) error {
	err := logs.Read(ctx, logConfig(rec), logs.Options{Stdout: o.Stdout != nil, Stderr: o.Stderr != nil, Tail: -1}, func(r logs.Record) error {
		w := o.Stdout
		if r.Stream == logs.Stderr && !rec.Config.Tty {
			w = o.Stderr
		}
		_, err := w.Write(r.Line)
		return err
	})
	if errdefs.IsNotImplemented(err) {
		return nil // nothing was kept
	}
	return err
}

// pump moves bytes between a client and a process until the process's output
// ends or the client leaves.
type pump struct {
	o          AttachOptions
	tty        bool
	closeStdin bool // the end of the client's input is the end of the process's
	keys       []byte
	again      func(context.Context) (backend.Streams, error)

	mu      sync.Mutex
	streams backend.Streams // replaced when the backend was launched again
}

func (p *pump) current() backend.Streams {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.streams
}

// run returns when all output was written, the client detached, cannot be
// written to, or ctx ended.
func (p *pump) run(ctx context.Context) (detached bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Closing the streams is what ends a Recv.
	stop := context.AfterFunc(ctx, func() { _ = p.current().Close() })
	defer stop()
	if p.o.Stdin != nil {
		// It ends when the caller closes the client's connection.
		go p.input(cancel)
	}
	err = p.output(ctx)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDetached):
		return true, nil
	case errors.Is(cause, errInputEnded):
		return false, nil
	}
	return false, err
}

var (
	errDetached   = errors.New("the client detached")
	errInputEnded = errors.New("the client's input ended")
)

func (p *pump) output(ctx context.Context) error {
	for {
		out, err := p.current().Recv()
		switch {
		case errors.Is(err, io.EOF):
			return ctx.Err()
		case err != nil:
			if ctx.Err() != nil || !errdefs.IsUnavailable(err) {
				return err
			}
			// The backend died and the process did not.
			s, err := p.again(ctx)
			if errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) {
				return nil // it has ended meanwhile
			}
			if err != nil {
				return err
			}
			p.mu.Lock()
			p.streams = s
			p.mu.Unlock()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		w := p.o.Stdout
		if out.GetStream() == backendpb.AttachOutput_STDERR && !p.tty {
			w = p.o.Stderr
		}
		if w == nil || len(out.GetData()) == 0 {
			continue
		}
		if _, err := w.Write(out.GetData()); err != nil {
			return nil //nolint:nilerr // the client left, which is not the engine's failure
		}
	}
}

// input copies the client's input. As in Docker, its end ends the attachment,
// unless it ends the process's input.
func (p *pump) input(end context.CancelCauseFunc) {
	r := p.o.Stdin
	var esc *escape
	if p.tty && len(p.keys) > 0 {
		esc = &escape{keys: p.keys}
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		data := buf[:n]
		detached := false
		if esc != nil {
			data, detached = esc.filter(data)
		}
		if len(data) > 0 && p.send(data) != nil {
			return
		}
		if detached {
			end(errDetached)
			return
		}
		if err != nil {
			break
		}
	}
	if !p.closeStdin {
		end(errInputEnded)
		return
	}
	_ = p.current().CloseStdin()
}

// send writes input. A process that ended or has no input is no error: its
// output goes on being read. The data is copied: streams may keep it.
func (p *pump) send(data []byte) error {
	err := p.current().Send(slices.Clone(data))
	if errdefs.IsUnavailable(err) {
		return nil // lost with the backend that died
	}
	return err
}
