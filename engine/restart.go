package engine

import (
	"context"
	"fmt"

	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/container"
)

// Restart stops a container if it runs and starts it.
func (e *Engine) Restart(ctx context.Context, ref string, o StopOptions) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	c, err := e.enter(ctx, ref)
	if err != nil {
		return err
	}
	rec, _ := c.view()
	if _, err := e.stop(ctx, c, o, true); err != nil {
		return fmt.Errorf("Cannot restart container %s: %w", ref, err) //nolint:staticcheck // Docker's words
	}
	c.op.Lock()
	defer c.op.Unlock()
	if _, st := c.view(); !st.State.Alive() {
		if err := e.start(ctx, c, func(st *container.Status) { st.Stopped, st.Restarts = false, 0 }); err != nil {
			return fmt.Errorf("Cannot restart container %s: %w", ref, err) //nolint:staticcheck // Docker's words
		}
	}
	e.emit(rec, events.ActionRestart)
	return nil
}
