package engine

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
)

const (
	stopTimeout = 10 // seconds
	// killWait is how long the end of a killed container may take to be heard of.
	killWait = 30 * time.Second
)

// Stop ends a container: its stop signal, then SIGKILL after a while.
func (e *Engine) Stop(ctx context.Context, ref string, o StopOptions) (alreadyStopped bool, err error) {
	if err := e.await(ctx); err != nil {
		return false, err
	}
	c, err := e.find(ctx, ref)
	if err != nil {
		return false, err
	}
	return e.stop(ctx, c, o, false)
}

// stop does it; again says that the caller will start it.
func (e *Engine) stop(ctx context.Context, c *ctr, o StopOptions, again bool) (alreadyStopped bool, err error) {
	c.awaitStart()
	rec, _ := c.view()
	sig, timeout, err := e.stopWith(rec, o)
	if err != nil {
		return false, err
	}
	deadline := int64(-1)
	if timeout >= 0 {
		deadline = e.now().Add(time.Duration(timeout) * time.Second).UnixNano()
	}
	if e.cancelRestart(c) {
		return false, nil
	}
	var w *waiter
	if err := e.change(c, func(st *container.Status) error {
		if !st.State.Alive() {
			st.Again = st.Again && again // between the end and the start of a restart
			return nil
		}
		st.StopBy = deadline
		st.Stopped, st.Again = true, again
		w = c.register(false)
		return nil
	}); err != nil {
		if w != nil {
			c.forget(w)
		}
		return false, err
	}
	if w == nil {
		return true, nil
	}
	defer c.forget(w)
	e.cfg.Crash("stop.intent")
	err = e.signal(ctx, c, sig)
	// What cannot be asked to end is killed at the deadline all the same.
	late := deadline >= 0 && errdefs.IsUnavailable(err)
	if err != nil && !late && !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
		return false, err
	}
	e.cfg.Crash("stop.signaled")
	if err := e.stopped(ctx, c, w, deadline); err != nil {
		return false, err
	}
	e.emit(rec, events.ActionStop)
	return false, nil
}

// stopWith is the signal and the timeout in seconds of a stop.
func (e *Engine) stopWith(rec *container.Record, o StopOptions) (signal, int, error) {
	d, _ := e.settings()
	timeout := def(d.StopTimeout, stopTimeout)
	if rec.Config.StopTimeout != nil {
		timeout = *rec.Config.StopTimeout
	}
	if o.Timeout != nil {
		timeout = *o.Timeout
	}
	sig := sigTerm
	if s := def(o.Signal, rec.Config.StopSignal); s != "" {
		var err error
		if sig, err = parseSignal(s); err != nil {
			return signal{}, 0, err
		}
	}
	return sig, timeout, nil
}

// stopped waits for the end of a container that was asked to stop, and kills
// it at the deadline (Unix nanoseconds, -1 never).
func (e *Engine) stopped(ctx context.Context, c *ctr, w *waiter, deadline int64) error {
	var late <-chan time.Time
	if deadline >= 0 {
		t := time.NewTimer(time.Unix(0, deadline).Sub(e.now()))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-w.ch:
		return nil
	case <-ctx.Done():
		// The client has left; the stop goes on as it was asked for.
		e.spawn(func(ctx context.Context) { e.finishStop(ctx, c, deadline) })
		return ctx.Err()
	case <-e.ctx.Done():
		return errClosed
	case <-late:
	}
	return e.killAndWait(ctx, c, w)
}

// finishStop carries on a stop whose client or engine went away.
func (e *Engine) finishStop(ctx context.Context, c *ctr, deadline int64) {
	c.mu.Lock()
	if !c.st.State.Alive() || c.st.StopBy == 0 {
		c.mu.Unlock()
		return
	}
	w := c.register(false)
	rec := c.rec
	c.mu.Unlock()
	defer c.forget(w)
	if err := e.stopped(ctx, c, w, deadline); err != nil {
		e.log.Warn("a container was not stopped", "container", c.id, "error", err)
		return
	}
	e.emit(rec, events.ActionStop)
}

// killAndWait ends a container for certain.
func (e *Engine) killAndWait(ctx context.Context, c *ctr, w *waiter) error {
	err := e.signal(ctx, c, sigKill)
	if err != nil && !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
		return err
	}
	t := time.NewTimer(killWait)
	defer t.Stop()
	select {
	case <-w.ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return errClosed
	case <-t.C:
		return errNoEnd(c)
	}
}

// signal sends a signal to the first process. Frozen processes would not see
// it, so a paused container goes on.
func (e *Engine) signal(ctx context.Context, c *ctr, sig signal) error {
	rec, st := c.view()
	// Told before it is done: listeners see the kill before the death.
	e.emit(rec, events.ActionKill, "signal", itoa(sig.num))
	err := e.call(ctx, rec.Decision.Backend, func(p BackendProcess) error {
		return p.Signal(ctx, &backendpb.SignalRequest{Process: &backendpb.ProcessRef{Container: c.id}, Signal: sig.name})
	})
	if err != nil {
		return err
	}
	if st.State != container.Paused {
		return nil
	}
	if err := e.freezing(ctx, rec.Decision.Backend, c.id, backend.Pauser.Resume); err != nil {
		return err
	}
	e.note(c, func(st *container.Status) { _ = st.Move(container.Unpause) })
	return nil
}

// cancelRestart ends the back-off of a container that is restarting, and says
// whether it did.
func (e *Engine) cancelRestart(c *ctr) bool {
	c.mu.Lock()
	if c.st.State != container.Restarting {
		c.mu.Unlock()
		return false
	}
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	_ = c.st.Move(container.GiveUp)
	c.st.Stopped = true
	c.ended()
	e.noted(c, e.save(c, false))
	c.mu.Unlock()
	c.tell(false)
	return true
}
