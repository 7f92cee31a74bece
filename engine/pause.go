package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/container"
)

// Pause freezes a container's processes.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, container.Pause, events.ActionPause, backend.Pauser.Pause)
}

// Unpause lets them go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, container.Unpause, events.ActionUnPause, backend.Pauser.Resume)
}

func (e *Engine) freeze(ctx context.Context, ref string, move container.Move, action events.Action, act func(backend.Pauser, context.Context, string) error) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	resolve := e.find
	if move == container.Unpause {
		resolve = e.enter
	}
	c, err := resolve(ctx, ref)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	rec, st := c.view()
	switch {
	case !st.State.Alive():
		return fmt.Errorf("container %s is not running: %w", ref, errdefs.ErrConflict)
	case move == container.Pause && st.State == container.Paused:
		return fmt.Errorf("container %s is already paused: %w", ref, errdefs.ErrConflict)
	case move == container.Unpause && st.State != container.Paused:
		return fmt.Errorf("container %s is not paused: %w", ref, errdefs.ErrConflict)
	}
	if err := e.freezing(ctx, rec.Decision.Backend, c.id, act); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", move, ref, err)
	}
	e.note(c, func(st *container.Status) { _ = st.Move(move) })
	e.emit(rec, action)
	return nil
}
