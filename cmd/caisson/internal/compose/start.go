package compose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/client"
)

// pollEvery is the time between two looks at a container that is waited for.
const pollEvery = 100 * time.Millisecond

// Start starts the services' containers that do not run, each service when those
// that it depends on are as far as it asks.
func (r *Runner) Start(ctx context.Context, services []*Service) error {
	all, err := r.Containers(ctx)
	if err != nil {
		return err
	}
	return inOrder(ctx, services, false, func(ctx context.Context, s *Service) error {
		idle := filter(of(all, s.Name), func(c *Container) bool { return !c.Running() })
		if len(idle) == 0 {
			return nil
		}
		if err := r.await(ctx, s, all); err != nil {
			return err
		}
		return each(ctx, idle, func(ctx context.Context, c *Container) error {
			if err := r.API.Start(ctx, c.ID, "", ""); err != nil {
				return fmt.Errorf("container %s: %w", c.Name, err)
			}
			r.say("Container", c.Name, "Started")
			return nil
		})
	})
}

// await waits for what a service depends on.
func (r *Runner) await(ctx context.Context, s *Service, all []*Container) error {
	for name, d := range s.DependsOn {
		if d.Condition == Started || slices.Contains(r.Project.Dormant, name) {
			continue
		}
		if dep := r.Project.Service(name); dep != nil && dep.Scale == 0 && dep.Hash != "" {
			continue
		}
		list := of(all, name)
		err := error(nil)
		if len(list) == 0 {
			err = fmt.Errorf("%s is missing dependency %s", s.Name, name)
		}
		for _, c := range list {
			if err = r.reach(ctx, c, d.Condition); err != nil {
				break
			}
		}
		switch {
		case err == nil:
		case d.Required || ctx.Err() != nil:
			return err
		default:
			r.warn("optional dependency %q failed: %v", name, err)
		}
	}
	return nil
}

// reach waits until a container is as the condition says.
func (r *Runner) reach(ctx context.Context, c *Container, condition string) error {
	if condition == Completed {
		res, err := r.API.Wait(ctx, c.ID, "not-running")
		if err != nil {
			return err
		}
		if res.StatusCode != 0 {
			return fmt.Errorf("service %q didn't complete successfully: exit %d", c.Service, res.StatusCode)
		}
		r.say("Container", c.Name, "Exited")
		return nil
	}
	for {
		d, err := r.inspect(ctx, c.ID)
		if err != nil {
			return err
		}
		h := d.State.Health
		switch {
		case d.State.Status == "exited" || d.State.Status == "dead":
			return fmt.Errorf("dependency failed to start: container %s exited (%d)", c.Name, d.State.ExitCode)
		case condition == Healthy && (h == nil || h.Status == "none" || h.Status == ""):
			return fmt.Errorf("dependency failed to start: container %s has no healthcheck configured", c.Name)
		case h != nil && h.Status == "unhealthy":
			return fmt.Errorf("dependency failed to start: container %s is unhealthy", c.Name)
		case h != nil && h.Status == "healthy":
			r.say("Container", c.Name, "Healthy")
			return nil
		case (h == nil || h.Status == "none" || h.Status == "") && d.State.Status == "running":
			return nil
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Settle waits until the services' containers run and are healthy, if they have
// a way to tell, for at most timeout; 0 is any time. One that others wait for the
// end of is to end well.
func (r *Runner) Settle(ctx context.Context, services []*Service, timeout time.Duration) error {
	if timeout > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the project is not up after %s: %w", timeout, errdefs.ErrUnavailable))
		defer cancel()
	}
	all, err := r.Containers(ctx)
	if err != nil {
		return err
	}
	var list []*Container
	ends := map[string]bool{}
	for _, s := range services {
		list = append(list, of(all, s.Name)...)
		for d, c := range s.DependsOn {
			ends[d] = ends[d] || c.Condition == Completed
		}
	}
	return each(ctx, list, func(ctx context.Context, c *Container) error {
		if ends[c.Service] {
			return r.reach(ctx, c, Completed)
		}
		return r.reach(ctx, c, "")
	})
}

// Stop ends the services' containers in reverse order.
func (r *Runner) Stop(ctx context.Context, services []string, timeout *int) error {
	list, err := r.Of(ctx, services, false)
	if err != nil {
		return err
	}
	return inOrder(ctx, r.Project.Select(services, false), true, func(ctx context.Context, s *Service) error {
		return each(ctx, of(list, s.Name), func(ctx context.Context, c *Container) error {
			if !c.Running() {
				return nil
			}
			return r.stop(ctx, c, timeout)
		})
	})
}

func (r *Runner) stop(ctx context.Context, c *Container, timeout *int) error {
	err := r.API.Stop(ctx, c.ID, client.StopOptions{Timeout: timeout})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		r.say("Container", c.Name, "Stopped")
		c.State = "exited"
	}
	return err
}

// Restart restarts the services' containers, and those that ask to be restarted
// with them, in order.
func (r *Runner) Restart(ctx context.Context, services []string, timeout *int, deps bool) error {
	list, err := r.Of(ctx, nil, false)
	if err != nil {
		return err
	}
	if err := r.Project.Check(services); err != nil {
		return err
	}
	if deps && len(services) > 0 {
		for _, s := range r.Project.Services { // sorted: one that follows is met later
			for d, c := range s.DependsOn {
				if c.Restart && slices.Contains(services, d) && !slices.Contains(services, s.Name) {
					services = append(services, s.Name)
				}
			}
		}
	}
	return inOrder(ctx, r.Project.Select(services, false), false, func(ctx context.Context, s *Service) error {
		return each(ctx, of(list, s.Name), func(ctx context.Context, c *Container) error {
			if err := r.API.Restart(ctx, c.ID, client.StopOptions{Timeout: timeout}); err != nil {
				return fmt.Errorf("container %s: %w", c.Name, err)
			}
			r.say("Container", c.Name, "Started")
			return nil
		})
	})
}

// Each does one thing to every running container of the services.
func (r *Runner) Each(ctx context.Context, services []string, done string, f func(context.Context, string) error) error {
	list, err := r.Of(ctx, services, false)
	if err != nil {
		return err
	}
	list = filter(list, (*Container).Running)
	if len(list) == 0 {
		return errors.New("no container to act on")
	}
	return each(ctx, list, func(ctx context.Context, c *Container) error {
		if err := f(ctx, c.ID); err != nil {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
		r.say("Container", c.Name, done)
		return nil
	})
}
