package compose

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"

	"github.com/caisson-engine/caisson/engine/client"
)

// OneOffOptions describe a container that a service is run in once.
type OneOffOptions struct {
	Service       *Service // with what is different this time
	Name          string   // "" is made up
	NoDeps        bool
	Pull          string
	RemoveOrphans bool
	Ports         bool // publish the service's ports
	Aliases       bool // answer to the service's names
	Remove        bool // when it ends
}

// OneOff starts what the service depends on, and creates a container of it that
// is not among the service's own. It returns its id and what it was created from.
func (r *Runner) OneOff(ctx context.Context, o OneOffOptions) (string, *client.CreateRequest, error) {
	s := o.Service
	co := CreateOptions{Recreate: Never, RecreateDeps: Never, RemoveOrphans: o.RemoveOrphans, Pull: o.Pull}
	deps := slices.Sorted(maps.Keys(s.DependsOn))
	if len(deps) > 0 && !o.NoDeps {
		co.Services = deps
		chosen, err := r.Create(ctx, co)
		if err != nil {
			return "", nil, err
		}
		if err := r.Start(ctx, chosen); err != nil {
			return "", nil, err
		}
	}
	// The networks and volumes of the service itself, and who it shares with.
	co.Services, co.NoDeps, co.Scale = []string{s.Name}, true, nil
	c := r.creation(co)
	all, err := c.prepare(ctx, []*Service{s})
	if err != nil {
		return "", nil, err
	}
	if !o.NoDeps {
		if err := r.await(ctx, s, all); err != nil {
			return "", nil, err
		}
	}
	host, hash, err := c.resolve(s)
	if err != nil {
		return "", nil, err
	}
	host.AutoRemove, host.RestartPolicy = o.Remove, client.RestartPolicy{}
	once := *s
	if !o.Ports {
		host.PortBindings = nil
		once.Config.ExposedPorts = nil
	}
	slug := make([]byte, 32)
	_, _ = rand.Read(slug) // it does not fail
	name := o.Name
	if name == "" {
		name = r.Project.Name + "-" + s.Name + "-run-" + hex.EncodeToString(slug[:6])
	}
	req, err := r.Project.Request(&once, host, name, o.Aliases)
	if err != nil {
		return "", nil, err
	}
	maps.Copy(req.Labels, map[string]string{
		labelOneOff: "True", labelSlug: hex.EncodeToString(slug), labelHash: hash, labelImage: c.images[s.Image].ID,
	})
	out, err := r.API.Create(ctx, *req, name, s.Platform)
	if err != nil {
		return "", nil, err
	}
	for _, w := range out.Warnings {
		r.warn("%s: %s", s.Name, w)
	}
	return out.ID, req, nil
}
