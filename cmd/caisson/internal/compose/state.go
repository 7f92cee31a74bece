package compose

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caisson-engine/caisson/engine/client"
)

// Runner does things to one project on one engine.
type Runner struct {
	API     *client.Client
	Project *Project
	// Out gets a line for each thing done, Warn what the user should know.
	Out, Warn io.Writer
	// Pull pulls an image.
	Pull func(ctx context.Context, image, platform string) error

	mu sync.Mutex // guards Out
}

// say tells what was done to what.
func (r *Runner) say(what, name, done string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.Out, " %s %s  %s\n", what, name, done)
}

func (r *Runner) warn(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.Warn, "WARNING: "+format+"\n", args...)
}

// Container is one of the project's containers.
type Container struct {
	client.ContainerSummary
	Name    string
	Service string
	Number  int  // among those of its service
	OneOff  bool // made by `run`
}

// Running says whether it has a process.
func (c *Container) Running() bool {
	return c.State == "running" || c.State == "paused" || c.State == "restarting"
}

// Short is how its output is marked: without the project's name.
func (c *Container) Short(project string) string { return strings.TrimPrefix(c.Name, project+"-") }

// Containers lists all of the project's containers, in the order of services and
// numbers.
func (r *Runner) Containers(ctx context.Context) ([]*Container, error) {
	list, err := r.API.List(ctx, client.ListOptions{All: true, Filters: client.Filters{"label": {labelProject + "=" + r.Project.Name}}})
	if err != nil {
		return nil, err
	}
	out := make([]*Container, 0, len(list))
	for _, c := range list {
		n, _ := strconv.Atoi(c.Labels[labelNumber])
		x := &Container{ContainerSummary: c, Service: c.Labels[labelService], Number: n, OneOff: c.Labels[labelOneOff] == "True"}
		if len(c.Names) > 0 {
			x.Name = strings.TrimPrefix(c.Names[0], "/")
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b *Container) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), cmp.Compare(a.Number, b.Number), strings.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Of lists the containers of services, all services without names: those that
// `run` made only if oneOff is set. A project without files is what is there.
func (r *Runner) Of(ctx context.Context, services []string, oneOff bool) ([]*Container, error) {
	all, err := r.Containers(ctx)
	if err != nil {
		return nil, err
	}
	r.Project.adopt(all)
	if err := r.Project.Check(services); err != nil {
		return nil, err
	}
	return filter(all, func(c *Container) bool {
		return (oneOff || !c.OneOff) && (len(services) == 0 || slices.Contains(services, c.Service))
	}), nil
}

// One is a service's container of that number, its first if that is 0.
func (r *Runner) One(ctx context.Context, service string, number int) (*Container, error) {
	list, err := r.Of(ctx, []string{service}, false)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if number == 0 || c.Number == number {
			return c, nil
		}
	}
	if number == 0 {
		return nil, fmt.Errorf("service %q is not running", service)
	}
	return nil, fmt.Errorf("service %q is not running container #%d", service, number)
}

// adopt makes services of the containers that are there, for a project that is
// only a name.
func (p *Project) adopt(list []*Container) {
	if p.Files != nil {
		return
	}
	p.Services = nil
	for _, c := range list {
		if c.Service == "" || p.Service(c.Service) != nil {
			continue
		}
		s := Service{Name: c.Service, Image: c.Image, DependsOn: map[string]Dependency{}}
		for d := range strings.SplitSeq(c.Labels[labelDependsOn], ",") {
			if part := strings.Split(d, ":"); len(part) == 3 {
				s.DependsOn[part[0]] = Dependency{Condition: part[1], Restart: part[2] == "true"}
			}
		}
		p.Services = append(p.Services, s)
	}
}

// isOrphan says whether the container's service is not in the files.
func (p *Project) isOrphan(c *Container) bool {
	return p.Service(c.Service) == nil && !slices.Contains(p.Dormant, c.Service) || c.OneOff && !c.Running()
}

func filter(list []*Container, keep func(*Container) bool) []*Container {
	var out []*Container
	for _, c := range list {
		if keep(c) {
			out = append(out, c)
		}
	}
	return out
}

func of(list []*Container, service string) []*Container {
	return filter(list, func(c *Container) bool { return c.Service == service && !c.OneOff })
}

// inOrder calls f for each service, several at once, but each only after those
// that it depends on; with reverse after those that depend on it. After a
// failure none is begun any more.
func inOrder(ctx context.Context, services []*Service, reverse bool, f func(context.Context, *Service) error) error {
	done := make(map[string]chan struct{}, len(services))
	for _, s := range services {
		done[s.Name] = make(chan struct{})
	}
	first := make(map[string][]string, len(services)) // who comes before whom
	for _, s := range services {
		for d := range s.DependsOn {
			a, b := d, s.Name
			if reverse {
				a, b = b, a
			}
			first[b] = append(first[b], a)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range services {
		g.Go(func() error {
			for _, before := range first[s.Name] {
				if done[before] == nil {
					continue // not among them
				}
				select {
				case <-done[before]:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			if err := f(ctx, s); err != nil {
				return err
			}
			close(done[s.Name])
			return nil
		})
	}
	return g.Wait()
}

// each calls f for all containers at once.
func each(ctx context.Context, list []*Container, f func(context.Context, *Container) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, c := range list {
		g.Go(func() error { return f(ctx, c) })
	}
	return g.Wait()
}

// parallel is how many containers are worked on at once.
const parallel = 50

// details are what a container's list entry does not say.
type details struct {
	State struct {
		Status     string
		ExitCode   int
		FinishedAt time.Time
		Health     *struct{ Status string }
	}
	Mounts []struct{ Type, Name, Destination string }
}

func (r *Runner) inspect(ctx context.Context, id string) (details, error) {
	var d details
	_, raw, err := r.API.Inspect(ctx, id, false)
	if err == nil {
		err = json.Unmarshal(raw, &d)
	}
	return d, err
}
