package compose

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/client"
)

// labelled are labels of the file's with those that tie an object to the project.
func (p *Project) labelled(labels map[string]string, kind, key, hash string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, labels)
	maps.Copy(out, map[string]string{labelProject: p.Name, labelVersion: Version, kind: key, labelHash: hash})
	return out
}

// ensureNetworks makes networks that are missing, and makes anew those that
// changed: the containers in them are taken away first and made anew after.
func (c *creation) ensureNetworks(ctx context.Context, services []*Service) error {
	for _, key := range slices.Sorted(maps.Keys(c.Project.Networks)) {
		uses := func(s *Service) bool {
			return slices.ContainsFunc(s.Networks, func(a Attachment) bool { return a.Network == key })
		}
		if !slices.ContainsFunc(services, uses) {
			continue
		}
		n := c.Project.Networks[key]
		have, err := c.network(ctx, n.Create.Name)
		switch {
		case err != nil:
			return err
		case n.External && have == nil:
			return fmt.Errorf("network %s declared as external, but could not be found", n.Create.Name)
		case n.External:
			continue
		case have != nil && have.Labels[labelNetwork] != key:
			return fmt.Errorf("network %s was not made by Compose as %s of this project: set `external: true` to use it", n.Create.Name, key)
		case have != nil && (have.Labels[labelHash] == "" || have.Labels[labelHash] == n.Hash):
			continue
		case have != nil:
			if err := c.evict(ctx, uses); err != nil {
				return err
			}
			if err := c.API.RemoveNetwork(ctx, n.Create.Name); err != nil {
				return err
			}
			c.say("Network", n.Create.Name, "Removed")
		}
		req := n.Create
		req.Labels = c.Project.labelled(req.Labels, labelNetwork, key, n.Hash)
		_, warning, err := c.API.CreateNetwork(ctx, req)
		if err != nil && !errdefs.IsConflict(err) { // another `up` made it meanwhile
			return fmt.Errorf("failed to create network %s: %w", req.Name, err)
		}
		if warning != "" {
			c.warn("network %s: %s", req.Name, warning)
		}
		c.say("Network", req.Name, "Created")
	}
	return nil
}

// network is the network of exactly that name, nil if there is none.
func (r *Runner) network(ctx context.Context, name string) (*client.Network, error) {
	list, err := r.API.Networks(ctx, client.Filters{"name": {name}})
	i := slices.IndexFunc(list, func(n client.Network) bool { return n.Name == name })
	if err != nil || i < 0 {
		return nil, err
	}
	return &list[i], nil
}

// evict removes the containers of some services: they are made anew later.
func (c *creation) evict(ctx context.Context, which func(*Service) bool) error {
	all, err := c.Containers(ctx)
	if err != nil {
		return err
	}
	return each(ctx, filter(all, func(x *Container) bool {
		s := c.Project.Service(x.Service)
		return s != nil && which(s)
	}), func(ctx context.Context, x *Container) error { return c.stopAndRemove(ctx, x, c.o.Timeout, false) })
}

// ensureVolumes makes volumes that are missing. One that differs from the files
// is left as it is, since its data would go with it.
func (c *creation) ensureVolumes(ctx context.Context, services []*Service) error {
	for _, key := range slices.Sorted(maps.Keys(c.Project.Volumes)) {
		v := c.Project.Volumes[key]
		if !slices.ContainsFunc(services, func(s *Service) bool { return slices.Contains(s.volumes(), v.Create.Name) }) {
			continue
		}
		list, err := c.API.Volumes(ctx, client.Filters{"name": {v.Create.Name}})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(x client.Volume) bool { return x.Name == v.Create.Name })
		switch {
		case v.External && i < 0:
			return fmt.Errorf("external volume %q not found", v.Create.Name)
		case v.External:
			continue
		case i >= 0:
			if labels := list[i].Labels; labels[labelProject] != c.Project.Name {
				c.warn("volume %q exists but was not created for this project; set `external: true` to use it", v.Create.Name)
			} else if h := labels[labelHash]; h != "" && h != v.Hash {
				c.warn("volume %q exists and differs from the files; it is left as it is: `caisson compose down -v` removes it with its data", v.Create.Name)
			}
			continue
		}
		req := v.Create
		req.Labels = c.Project.labelled(req.Labels, labelVolume, key, v.Hash)
		if _, err := c.API.CreateVolume(ctx, req); err != nil {
			return fmt.Errorf("failed to create volume %s: %w", req.Name, err)
		}
		c.say("Volume", req.Name, "Created")
	}
	return nil
}

// removeNetworks removes the project's networks and counts them.
func (r *Runner) removeNetworks(ctx context.Context) (int, error) {
	list, err := r.API.Networks(ctx, r.filters(labelNetwork))
	for _, n := range list {
		if err := r.removed("Network", n.Name, r.API.RemoveNetwork(ctx, n.Name)); err != nil {
			return 0, err
		}
	}
	return len(list), err
}

// removeVolumes removes the project's named volumes and counts them.
func (r *Runner) removeVolumes(ctx context.Context) (int, error) {
	list, err := r.API.Volumes(ctx, r.filters(labelVolume))
	for _, v := range list {
		if err := r.removed("Volume", v.Name, r.API.RemoveVolume(ctx, v.Name, false)); err != nil {
			return 0, err
		}
	}
	return len(list), err
}

// filters choose the project's objects of a kind.
func (r *Runner) filters(kind string) client.Filters {
	return client.Filters{"label": {labelProject + "=" + r.Project.Name, kind}}
}

// removed says what became of a removal. What others use stays.
func (r *Runner) removed(what, name string, err error) error {
	switch {
	case errdefs.IsConflict(err), errdefs.IsPermissionDenied(err): // 403 is Docker's for a network in use
		r.say(what, name, "Resource is still in use")
	case err == nil, errdefs.IsNotFound(err):
		r.say(what, name, "Removed")
	default:
		return fmt.Errorf("failed to remove %s: %w", name, err)
	}
	return nil
}
