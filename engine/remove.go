package engine

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/store"
)

// Remove deletes a container.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	c, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	if err := e.lockEnded(ctx, c, o.Force); err != nil {
		return err
	}
	defer c.op.Unlock()
	rec, st := c.view()
	switch st.State {
	case container.Paused:
		return fmt.Errorf("cannot remove container %q: container is paused and must be unpaused first: %w", "/"+rec.Name, errdefs.ErrConflict)
	case container.Running, container.Restarting:
		return fmt.Errorf("cannot remove container %q: container is %s: stop the container before removing or force remove: %w", "/"+rec.Name, st.State, errdefs.ErrConflict)
	}
	if _, there := e.ctrs.Get(c.id); !there {
		if o.Force {
			return nil // its own end removed it
		}
		return fmt.Errorf("No such container: %s: %w", ref, errdefs.ErrNotFound) //nolint:staticcheck // Docker's words
	}
	return e.remove(ctx, c, o.Volumes)
}

// maxEnds is how often a forced removal ends a container that something starts
// again meanwhile.
const maxEnds = 3

// lockEnded takes c.op, if force says so of a container that it has ended.
func (e *Engine) lockEnded(ctx context.Context, c *ctr, force bool) error {
	for try := 1; ; try++ {
		if force {
			if err := e.end(ctx, c); err != nil {
				return err
			}
		}
		c.op.Lock()
		if _, st := c.view(); !force || try == maxEnds || !st.State.Alive() && st.State != container.Restarting {
			return nil
		}
		c.op.Unlock()
	}
}

// end kills a container if it runs, and waits for that.
func (e *Engine) end(ctx context.Context, c *ctr) error {
	c.awaitStart()
	if e.cancelRestart(c) {
		return nil
	}
	var w *waiter
	if err := e.change(c, func(st *container.Status) error {
		st.Again = false
		if st.State.Alive() {
			st.Stopped = true
			w = c.register(false)
		}
		return nil
	}); err != nil || w == nil {
		if w != nil {
			c.forget(w)
		}
		return err
	}
	defer c.forget(w)
	return e.killAndWait(ctx, c, w)
}

// remove deletes what a container that is not alive has: intent, sandbox and
// network, root, directory, anonymous volumes, record. It may be repeated from
// any point. The caller holds c.op.
func (e *Engine) remove(ctx context.Context, c *ctr, volumes bool) (err error) {
	ctx, cancel := acting(ctx)
	defer cancel()
	if err := e.change(c, func(st *container.Status) error {
		if st.State != container.Removing {
			if err := st.Move(container.Remove); err != nil {
				return err
			}
		}
		st.RemoveVolumes = volumes
		return nil
	}); err != nil {
		return err
	}
	e.cfg.Crash("remove.intent")
	defer func() {
		if err != nil {
			why := reason(err)
			e.note(c, func(st *container.Status) { _ = st.Move(container.Fail); st.Error = why })
		}
	}()
	e.release(ctx, c)
	rec, st := c.view()
	if st.Held {
		return fmt.Errorf("cannot remove container %q: its sandbox or network could not be released; the engine's log says why: %w", "/"+rec.Name, errdefs.ErrUnavailable)
	}
	e.cfg.Crash("remove.released")
	e.unconfine(rec)
	if err := e.cfg.Images.Release(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove container %q: %w", "/"+rec.Name, err)
	}
	for _, m := range rec.Mounts {
		if m.Image == "" {
			continue
		}
		if err := e.cfg.Images.Release(ctx, m.Image); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("cannot remove container %q: %w", "/"+rec.Name, err)
		}
	}
	e.cfg.Crash("remove.root")
	if err := os.RemoveAll(e.dir(c.id)); err != nil {
		return fmt.Errorf("cannot remove container %q: %w", "/"+rec.Name, err)
	}
	if volumes {
		for _, m := range rec.Mounts {
			if !m.Anonymous {
				continue
			}
			if err := e.dropAnonymous(volumeKey{m.Tenant, m.Name}, c.id); err != nil {
				return fmt.Errorf("cannot remove container %q: %w", "/"+rec.Name, err)
			}
		}
	}
	e.cfg.Crash("remove.dir")
	ops := append(e.dropExecs(c.id), store.Op{Key: keyRecord + c.id}, store.Op{Key: keyStatus + c.id}, store.Op{Key: keyUpdate + c.id}, store.Op{Key: keyHealth + c.id})
	if err := e.journal.Apply(!rec.Host.AutoRemove, ops...); err != nil {
		return err
	}
	e.cfg.Crash("remove.done")
	e.ctrs.Delete(c.id, rec.Name)
	e.emit(rec, events.ActionDestroy)
	c.abandon(nil)
	c.tell(true)
	return nil
}
