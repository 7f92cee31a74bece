package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/container"
)

// Rename gives a container another name. Record and name change in one write.
func (e *Engine) Rename(ctx context.Context, ref, want string) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	if want == "" {
		return invalid("Neither old nor new names may be empty")
	}
	c, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	name, err := checkName(want)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	rec, st := c.view()
	switch {
	case st.State == container.Removing || st.State == container.Dead:
		return fmt.Errorf("container %s is marked for removal: %w", ref, errdefs.ErrConflict)
	case rec.Name == name:
		return invalid("Renaming a container with the same name as its current name")
	}
	if err := e.reserve(rec.Tenant, name, c.id); err != nil {
		return err
	}
	renamed := *rec
	renamed.Name = name
	if err := e.replace(c, &renamed, true); err != nil {
		e.ctrs.Unreserve(rec.Tenant, name, c.id)
		return err
	}
	e.ctrs.Unreserve(rec.Tenant, rec.Name, c.id)
	if st.Network != nil {
		// What fails is only that others do not find it by the new name yet.
		att, err := e.cfg.Network.Rename(ctx, c.id, rec.Name, name)
		if err != nil {
			e.log.Warn("a container's new name is not served", "container", c.id, "error", err)
		}
		if att != nil {
			e.note(c, func(st *container.Status) { st.Network = att })
		}
	}
	e.emit(&renamed, events.ActionRename, "oldName", "/"+rec.Name)
	return nil
}
