package engine

import (
	"context"

	"github.com/moby/moby/api/types/events"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// maxTerminal bounds a terminal's size: the kernel's fields have 16 bits.
const maxTerminal = 1<<16 - 1

// Resize sets the size of a container's terminal.
func (e *Engine) Resize(ctx context.Context, ref string, rows, cols uint) error {
	c, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	err = e.resize(ctx, c, "", rows, cols)
	if errdefs.IsNotFound(err) {
		return notRunning(c)
	}
	if err != nil {
		return err
	}
	rec, _ := c.view()
	e.emit(rec, events.ActionResize, "height", itoa(int(rows)), "width", itoa(int(cols)))
	return nil
}

// resize is NotFound if the backend has no such process.
func (e *Engine) resize(ctx context.Context, c *ctr, exec string, rows, cols uint) error {
	if rows > maxTerminal || cols > maxTerminal {
		return invalid("invalid terminal size %d by %d", rows, cols)
	}
	c.awaitStart()
	rec, st := c.view()
	if !st.State.Alive() {
		return notRunning(c)
	}
	return e.call(ctx, rec.Decision.Backend, func(p BackendProcess) error {
		return p.Resize(ctx, &backendpb.ResizeRequest{
			Process: &backendpb.ProcessRef{Container: c.id, Exec: exec}, Rows: uint32(rows), Cols: uint32(cols),
		})
	})
}
