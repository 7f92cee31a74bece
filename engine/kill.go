package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/container"
)

// Kill sends a signal, SIGKILL if none is named.
func (e *Engine) Kill(ctx context.Context, ref, name string) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	sig := sigKill
	if name != "" {
		var err error
		if sig, err = parseSignal(name); err != nil {
			return err
		}
	}
	c, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	c.awaitStart()
	rec, st := c.view()
	if !st.State.Alive() {
		if e.cancelRestart(c) {
			return nil
		}
		return fmt.Errorf("cannot kill container: %s: %w", ref, notRunning(c))
	}
	stop := sigTerm
	if rec.Config.StopSignal != "" {
		stop, _ = parseSignal(rec.Config.StopSignal) // checked at creation
	}
	if sig == sigKill || sig == stop {
		// A client that ends a container does not want it back.
		if err := e.change(c, func(st *container.Status) error { st.Stopped = true; return nil }); err != nil {
			return err
		}
		e.cfg.Crash("kill.intent")
	}
	err = e.signal(ctx, c, sig)
	if errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot kill container: %s: %w", ref, notRunning(c))
	}
	return err
}

func errNoEnd(c *ctr) error {
	return fmt.Errorf("container %s was killed, but its end was not reported: is its backend well? %w", c.id, errdefs.ErrUnavailable)
}
