package engine

import (
	"context"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/store"
)

// exited records the end of a container's first process, once, with more in
// the same write, and spawns what follows. It is called by the backend's event
// loop and does not block.
func (e *Engine) exited(c *ctr, x *backendpb.Exit, more ...store.Op) {
	at := time.Unix(0, x.GetAt())
	if x.GetAt() == 0 {
		at = e.now()
	}
	c.mu.Lock()
	if at.Before(c.st.TriedAt) {
		c.mu.Unlock() // of a run before this one
		return
	}
	if c.st.State == container.Starting {
		// The start's own goroutine goes on when it has its answer.
		c.early = x
		c.mu.Unlock()
		return
	}
	if !c.st.State.Alive() {
		c.mu.Unlock()
		return
	}
	move := container.Exit
	if e.wantsRestart(c, int(x.GetCode())) {
		move = container.Backoff
	}
	_ = c.st.Move(move) // legal from every state that is alive
	st := &c.st
	st.ExitCode, st.FinishedAt, st.Pid, st.StopBy = int(x.GetCode()), at.UTC(), 0, 0
	st.OOMKilled = st.OOMKilled || x.GetOomKilled()
	st.Error = x.GetReason()
	if x.GetUnknown() && st.Error == "" {
		st.Error = "the exit code was lost"
	}
	c.live = false
	c.unwatch()
	if move == container.Exit {
		c.ended()
	}
	e.noted(c, e.save(c, false, more...))
	lasted := at.Sub(st.StartedAt)
	e.emit(c.rec, events.ActionDie, "exitCode", itoa(st.ExitCode), "execDuration", itoa(int(lasted.Seconds())))
	c.mu.Unlock()
	e.cfg.Crash("exit.recorded")
	e.spawn(func(ctx context.Context) { e.settle(ctx, c) })
}

// oom notes that the kernel killed a process of the container for memory.
func (e *Engine) oom(c *ctr) {
	c.mu.Lock()
	rec := c.rec
	c.st.OOMKilled = true
	c.mu.Unlock()
	e.emit(rec, events.ActionOOM)
}

// settle takes a container that nobody acts on to where its record says it
// should be: what an ended run held is given back, a removal is finished, a
// restart is scheduled. It may be called at any time and again.
func (e *Engine) settle(ctx context.Context, c *ctr) {
	if e.await(ctx) != nil {
		return
	}
	c.op.Lock()
	defer c.op.Unlock()
	_, st := c.view()
	switch st.State {
	case container.Created, container.Exited, container.Restarting:
		e.release(ctx, c)
	case container.Removing:
		if err := e.remove(ctx, c, st.RemoveVolumes); err != nil {
			e.log.Error("cannot finish the removal of a container", "container", c.id, "error", err)
		}
		return
	}
	rec, st := c.view()
	switch {
	case st.State == container.Restarting:
		e.schedule(c)
	case st.State == container.Exited && rec.Host.AutoRemove && !st.Again:
		if err := e.remove(ctx, c, true); err != nil {
			e.log.Error("cannot remove a container after its exit", "container", c.id, "error", err)
		}
	}
}

// release gives back what a run held: network first, so that its ports are free
// when the waiters hear of the end, then the sandbox. The caller holds c.op; the
// container is not alive. What fails is tried again by the next start, removal
// or restore.
func (e *Engine) release(ctx context.Context, c *ctr) { e.giveBack(ctx, c, true) }

// giveBack is release; output says that the run had any that clients may not
// have taken yet.
func (e *Engine) giveBack(ctx context.Context, c *ctr, output bool) {
	rec, st := c.view()
	if !st.Held {
		return
	}
	// Who comes to wait while the rest is given back is told at the end.
	defer c.tell(false)
	ok := true
	if st.Network != nil {
		if err := e.cfg.Network.Release(ctx, st.Network); err != nil {
			e.log.Error("cannot release a container's network", "container", c.id, "error", err)
			ok = false
		} else {
			c.mu.Lock()
			c.st.Network = nil // who is told of the end sees no ports any more
			c.mu.Unlock()
			e.emitEndpoints(rec, events.ActionDisconnect, st.Network.Endpoints)
		}
	}
	e.cfg.Crash("exit.network")
	c.tell(false)
	if output {
		c.drain(ctx)
	}
	c.setLive(false)
	if err := e.call(ctx, rec.Decision.Backend, func(p BackendProcess) error { return p.Close(ctx, c.id) }); err != nil {
		e.log.Error("cannot close a container's sandbox", "container", c.id, "error", err)
		ok = false
	}
	e.cfg.Crash("exit.closed")
	if err := e.unmountAll(rec); err != nil {
		e.log.Error("cannot unmount what a container had", "container", c.id, "error", err)
		ok = false
	}
	if !ok {
		return
	}
	e.forgetExecs(c.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.st.Held, c.st.Network = false, nil
	if rec.Host.AutoRemove && c.st.State == container.Exited && !c.st.Again {
		return // its removal is the next write
	}
	e.noted(c, e.save(c, false))
}

// setLive says whether the backend has the process to attach to.
func (c *ctr) setLive(live bool) {
	c.mu.Lock()
	c.live = live
	c.mu.Unlock()
}

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = time.Minute
	// steady is how long a run must last for the back-off to start anew.
	steady = 10 * time.Second
)

// wantsRestart says whether the restart policy applies to a run that just
// ended. The caller holds c.mu.
func (e *Engine) wantsRestart(c *ctr, code int) bool {
	if c.st.Stopped || e.ctx.Err() != nil {
		return false
	}
	switch p := c.rec.Host.RestartPolicy; p.Name {
	case apicontainer.RestartPolicyAlways, apicontainer.RestartPolicyUnlessStopped:
		return true
	case apicontainer.RestartPolicyOnFailure:
		return code != 0 && (p.MaximumRetryCount == 0 || c.st.Restarts < p.MaximumRetryCount)
	}
	return false
}

// schedule starts the back-off of a container that is restarting. The caller
// holds c.op.
func (e *Engine) schedule(c *ctr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil || c.st.State != container.Restarting {
		return
	}
	switch {
	case c.st.FinishedAt.Sub(c.st.StartedAt) >= steady || c.delay == 0:
		c.delay = firstBackoff
	default:
		c.delay = min(2*c.delay, lastBackoff)
	}
	c.timer = time.AfterFunc(c.delay, func() {
		e.spawn(func(ctx context.Context) { e.again(ctx, c) })
	})
}

// again starts a container whose back-off is over.
func (e *Engine) again(ctx context.Context, c *ctr) {
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	c.timer = nil
	due := c.st.State == container.Restarting
	c.mu.Unlock()
	if !due {
		return // stopped, removed or started meanwhile
	}
	err := e.start(ctx, c, func(st *container.Status) { st.Restarts++ })
	if err == nil {
		return
	}
	e.log.Warn("cannot restart a container", "container", c.id, "error", err)
	c.mu.Lock()
	again := e.wantsRestart(c, c.st.ExitCode) && c.st.Move(container.Backoff) == nil
	if again {
		e.noted(c, e.save(c, false))
	}
	c.mu.Unlock()
	if again {
		e.schedule(c)
	}
}
