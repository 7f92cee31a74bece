package compose

import (
	"context"
	"errors"
	"slices"

	"github.com/containerd/errdefs"
)

// DownOptions say what Down takes away beside containers and networks.
type DownOptions struct {
	Services      []string // "" is all
	Volumes       bool     // the project's named volumes, and anonymous ones
	Images        string   // "", "local" or "all"
	RemoveOrphans bool
	Timeout       *int
}

// Down stops and removes the project. What is used by others stays, and is said.
func (r *Runner) Down(ctx context.Context, o DownOptions) error {
	all, err := r.Of(ctx, nil, true)
	if err != nil {
		return err
	}
	if err := r.Project.Check(o.Services); err != nil {
		return err
	}
	err = inOrder(ctx, r.Project.Select(o.Services, false), true, func(ctx context.Context, s *Service) error {
		return each(ctx, of(all, s.Name), func(ctx context.Context, c *Container) error {
			return r.stopAndRemove(ctx, c, o.Timeout, o.Volumes)
		})
	})
	if err != nil {
		return err
	}
	gone := all
	if orphans := filter(all, func(c *Container) bool { return c.OneOff || r.Project.isOrphan(c) }); len(orphans) > 0 && o.RemoveOrphans {
		err = each(ctx, orphans, func(ctx context.Context, c *Container) error { return r.stopAndRemove(ctx, c, o.Timeout, o.Volumes) })
	} else {
		gone = filter(all, func(c *Container) bool { return !slices.Contains(orphans, c) })
	}
	if err != nil || len(o.Services) > 0 {
		return err
	}
	removed := len(gone)
	n, err := r.removeNetworks(ctx)
	if err != nil {
		return err
	}
	removed += n
	if o.Volumes {
		if n, err = r.removeVolumes(ctx); err != nil {
			return err
		}
		removed += n
	}
	if err := r.removeImages(ctx, o.Images); err != nil {
		return err
	}
	if removed == 0 {
		r.warn("No resource found to remove for project %q.", r.Project.Name)
	}
	return r.Project.removeContents()
}

// removeImages removes the images of the services: all, or those that have no
// name in the files.
func (r *Runner) removeImages(ctx context.Context, which string) error {
	if which == "" {
		return nil
	}
	var refs []string
	for _, s := range r.Project.Services {
		if local := s.Image == r.Project.Name+"-"+s.Name; (which == "all" || local) && !slices.Contains(refs, s.Image) {
			refs = append(refs, s.Image)
		}
	}
	var errs []error
	for _, ref := range refs {
		_, err := r.API.RemoveImage(ctx, ref, false, false, nil)
		errs = append(errs, r.removed("Image", ref, err))
	}
	return errors.Join(errs...)
}

// Remove removes the services' containers that do not run.
func (r *Runner) Remove(ctx context.Context, list []*Container, volumes bool) error {
	return each(ctx, list, func(ctx context.Context, c *Container) error { return r.remove(ctx, c, volumes) })
}

func (r *Runner) stopAndRemove(ctx context.Context, c *Container, timeout *int, volumes bool) error {
	if c.Running() {
		if err := r.stop(ctx, c, timeout); err != nil {
			return err
		}
	}
	return r.remove(ctx, c, volumes)
}

func (r *Runner) remove(ctx context.Context, c *Container, volumes bool) error {
	err := r.API.Remove(ctx, c.ID, true, volumes, false)
	if errdefs.IsNotFound(err) {
		err = nil // --rm, or another hand
	}
	if err == nil {
		r.say("Container", c.Name, "Removed")
	}
	return err
}
