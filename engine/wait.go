package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine/container"
)

// waiter is somebody who waits for a container to end or to go. ch has room
// for the one value, so nobody who tells it blocks.
type waiter struct {
	removed bool
	ch      chan Exit
}

// Wait registers before it returns; see dockerapi.Engine.
func (e *Engine) Wait(ctx context.Context, ref string, cond WaitCondition) (<-chan Exit, error) {
	c, err := e.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch cond {
	case "", apicontainer.WaitConditionNotRunning, apicontainer.WaitConditionNextExit, apicontainer.WaitConditionRemoved:
	default:
		return nil, fmt.Errorf("invalid condition: %q: %w", cond, errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	if cond == "" || cond == apicontainer.WaitConditionNotRunning {
		switch s := c.st.State; {
		case s.Alive() || s == container.Starting || s == container.Restarting:
		case s == container.Exited && c.st.Held:
			// It ended, and is told of when its ports are free.
			w := &waiter{ch: make(chan Exit, 1)}
			c.due = append(c.due, w)
			c.mu.Unlock()
			context.AfterFunc(ctx, func() { c.forget(w) })
			return w.ch, nil
		default:
			ch := make(chan Exit, 1)
			ch <- Exit{Code: c.st.ExitCode}
			c.mu.Unlock()
			return ch, nil
		}
	}
	w := c.register(cond == apicontainer.WaitConditionRemoved)
	c.mu.Unlock()
	context.AfterFunc(ctx, func() { c.forget(w) })
	return w.ch, nil
}

// register adds a waiter for the end of the container's run, or for its
// removal. The caller holds c.mu.
func (c *ctr) register(removed bool) *waiter {
	w := &waiter{removed: removed, ch: make(chan Exit, 1)}
	c.waiters = append(c.waiters, w)
	return w
}

// forget drops a waiter that was not told and closes its channel.
func (c *ctr) forget(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, list := range []*[]*waiter{&c.waiters, &c.due} {
		if i := slices.Index(*list, w); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
			close(w.ch)
		}
	}
}

// ended makes those who wait for the end of the run due: who registers from now
// on waits for the end of the next one. The caller holds c.mu.
func (c *ctr) ended() {
	keep := c.waiters[:0]
	for _, w := range c.waiters {
		if w.removed {
			keep = append(keep, w)
		} else {
			c.due = append(c.due, w)
		}
	}
	clear(c.waiters[len(keep):])
	if c.waiters = keep; len(keep) == 0 {
		c.waiters = nil
	}
}

// tell answers the waiters that are due, or all if the container is gone.
func (c *ctr) tell(gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	due := c.due
	if c.due = nil; gone {
		due = append(due, c.waiters...)
		c.waiters = nil
	}
	for _, w := range due {
		w.ch <- Exit{Code: c.st.ExitCode}
	}
}
