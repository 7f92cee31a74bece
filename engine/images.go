package engine

import (
	"context"
	"fmt"

	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/images"
)

// ImageRemove deletes an image's name, or the image, unless a container needs
// it; force takes the name away even then.
func (e *Engine) ImageRemove(ctx context.Context, ref string, force, prune bool) ([]images.Deleted, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	e.images.Lock() // nobody creates from what is being deleted
	defer e.images.Unlock()
	deleted, err := e.cfg.Images.Delete(ctx, ref, force, prune, e.usersOf(ctx))
	e.emitDeleted(ctx, deleted)
	return deleted, err
}

// ImagePrune deletes dangling images, or all that no container needs, and tells
// the bytes that this freed.
func (e *Engine) ImagePrune(ctx context.Context, f map[string][]string) ([]images.Deleted, uint64, error) {
	if err := e.await(ctx); err != nil {
		return nil, 0, err
	}
	e.images.Lock()
	defer e.images.Unlock()
	deleted, freed, err := e.cfg.Images.Prune(ctx, f, e.usersOf(ctx))
	e.emitDeleted(ctx, deleted)
	e.publish(identity.From(ctx).Scope(), events.ImageEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(freed)})
	return deleted, freed, err
}

func (e *Engine) emitDeleted(ctx context.Context, list []images.Deleted) {
	for _, d := range list {
		if d.Untagged != "" {
			e.EmitImage(ctx, events.ActionUnTag, d.Untagged, d.Untagged)
		} else {
			e.EmitImage(ctx, events.ActionDelete, d.Deleted, d.Deleted)
		}
	}
}

// EmitImage publishes an event of an image of the client's.
func (e *Engine) EmitImage(ctx context.Context, action events.Action, id, name string) {
	e.publish(identity.From(ctx).Scope(), events.ImageEventType, action, id, map[string]string{"name": name})
}

// usersOf lists the containers that need an image, as far as the client sees
// them: name and state. What another tenant runs stands on an image of its own.
func (e *Engine) usersOf(ctx context.Context) func(id digest.Digest) []string {
	return func(id digest.Digest) []string {
		var users []string
		for _, c := range e.ctrs.Visible(identity.From(ctx)) {
			rec, st := c.view()
			if rec.Needs(id.String()) {
				users = append(users, fmt.Sprintf("%s (%s)", rec.ID[:12], st.State.API()))
			}
		}
		return users
	}
}

// ImageUsers counts the containers of each image id.
func (e *Engine) ImageUsers(ctx context.Context) map[string]int {
	users := map[string]int{}
	for _, c := range e.ctrs.Visible(identity.From(ctx)) {
		rec, _ := c.view()
		users[rec.Image]++
	}
	return users
}
