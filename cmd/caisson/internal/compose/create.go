package compose

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/client"
)

// When containers are made anew: if they differ from the files, or always, or
// never.
const (
	Diverged = "diverged"
	Force    = "force"
	Never    = "never"
)

// CreateOptions say what Create makes.
type CreateOptions struct {
	Services      []string // "" is all
	NoDeps        bool     // leave what they depend on as it is
	Recreate      string
	RecreateDeps  string         // of services that are only depended on
	RenewVolumes  bool           // new anonymous volumes instead of the old container's
	RemoveOrphans bool           // containers of services that are not in the files
	Scale         map[string]int // instead of the files'
	Timeout       *int           // seconds that a container has to end; nil is its own
	Pull          string         // instead of the files'; "" is theirs
}

// creation is one Create at work.
type creation struct {
	*Runner
	o      CreateOptions
	images map[string]image // by reference

	mu      sync.Mutex // guards what follows
	made    map[string][]*Container
	restart map[string]bool // services to stop because of one they depend on
}

// image is what the engine has under a service's image reference.
type image struct {
	ID     string `json:"Id"`
	Config struct{ Volumes map[string]struct{} }
}

// Create makes what the chosen services need and returns them in order.
func (r *Runner) Create(ctx context.Context, o CreateOptions) ([]*Service, error) {
	services := r.Project.Select(o.Services, !o.NoDeps)
	for name := range o.Scale {
		if err := r.Project.Check([]string{name}); err != nil {
			return nil, err
		}
	}
	c := r.creation(o)
	if _, err := c.prepare(ctx, services); err != nil {
		return nil, err
	}
	return services, inOrder(ctx, services, false, c.ensure)
}

func (r *Runner) creation(o CreateOptions) *creation {
	return &creation{Runner: r, o: o, images: map[string]image{}, made: map[string][]*Container{}, restart: map[string]bool{}}
}

// prepare makes what containers of the services need, and returns the project's.
func (c *creation) prepare(ctx context.Context, services []*Service) ([]*Container, error) {
	if err := c.ensureImages(ctx, services); err != nil {
		return nil, err
	}
	if err := c.ensureNetworks(ctx, services); err != nil {
		return nil, err
	}
	if err := c.ensureVolumes(ctx, services); err != nil {
		return nil, err
	}
	all, err := c.Containers(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if !x.OneOff {
			c.made[x.Service] = append(c.made[x.Service], x)
		}
	}
	return all, c.orphans(ctx, all)
}

func (c *creation) ensureImages(ctx context.Context, services []*Service) error {
	for _, s := range services {
		if _, ok := c.images[s.Image]; ok {
			continue
		}
		pull := cmp.Or(c.o.Pull, s.Pull)
		if pull == "always" && !s.Build {
			if err := c.Pull(ctx, s.Image, s.Platform); err != nil {
				return err
			}
		}
		raw, err := c.API.ImageInspect(ctx, s.Image, "")
		if errdefs.IsNotFound(err) {
			switch {
			case s.Build:
				return fmt.Errorf("services.%s.build: caisson compose does not build images, and %s is not here: build it with another tool and load it", s.Name, s.Image)
			case pull == "never":
				return fmt.Errorf("services.%s: the image %s is not here, and is not to be pulled", s.Name, s.Image)
			}
			if err := c.Pull(ctx, s.Image, s.Platform); err != nil {
				return err
			}
			raw, err = c.API.ImageInspect(ctx, s.Image, "")
		}
		if err != nil {
			return err
		}
		var img image
		if err := json.Unmarshal(raw, &img); err != nil {
			return err
		}
		c.images[s.Image] = img
	}
	return nil
}

func (c *creation) orphans(ctx context.Context, all []*Container) error {
	list := filter(all, c.Project.isOrphan)
	if len(list) == 0 {
		return nil
	}
	if c.o.RemoveOrphans {
		return each(ctx, list, func(ctx context.Context, x *Container) error { return c.stopAndRemove(ctx, x, c.o.Timeout, false) })
	}
	var names []string
	for _, x := range filter(list, func(x *Container) bool { return !x.OneOff }) {
		names = append(names, x.Name)
	}
	if len(names) > 0 {
		c.warn("Found orphan containers (%s) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.", strings.Join(names, ", "))
	}
	return nil
}

// ensure makes a service's containers what they should be, except running.
func (c *creation) ensure(ctx context.Context, s *Service) error {
	want := s.Scale
	if n, ok := c.o.Scale[s.Name]; ok {
		want = n
	}
	if want > 1 && s.ContainerName != "" {
		return fmt.Errorf("service %q: container_name %q is one container's, it cannot be scaled to %d", s.Name, s.ContainerName, want)
	}
	host, hash, err := c.resolve(s)
	if err != nil {
		return err
	}
	c.mu.Lock()
	have, stop := c.made[s.Name], c.restart[s.Name]
	c.mu.Unlock()

	next := 1
	for _, x := range have {
		next = max(next, x.Number+1)
	}
	strategy := c.o.Recreate
	if len(c.o.Services) > 0 && !slices.Contains(c.o.Services, s.Name) {
		strategy = c.o.RecreateDeps
	}
	stale := func(x *Container) bool { return c.differs(s, x, hash, strategy) }
	// Those that stay come first, so that what is too much goes.
	slices.SortStableFunc(have, func(a, b *Container) int {
		return cmp.Or(boolToInt(stale(a))-boolToInt(stale(b)), cmp.Compare(a.Number, b.Number))
	})
	keep, surplus := have[:min(want, len(have))], have[min(want, len(have)):]
	if err := each(ctx, surplus, func(ctx context.Context, x *Container) error { return c.stopAndRemove(ctx, x, c.o.Timeout, false) }); err != nil {
		return err
	}
	result := slices.Clone(keep)
	for range want - len(keep) {
		result = append(result, &Container{Service: s.Name, Number: next})
		next++
	}
	if slices.ContainsFunc(keep, stale) {
		c.dependents(s)
	}
	err = each(ctx, result, func(ctx context.Context, x *Container) error {
		switch {
		case x.ID == "":
			return c.make(ctx, s, host, hash, x)
		case stale(x):
			return c.remake(ctx, s, host, hash, x)
		case stop && x.Running():
			return c.stop(ctx, x, c.o.Timeout)
		case x.State == "running":
			c.say("Container", x.Name, "Running")
		}
		return nil
	})
	c.mu.Lock()
	c.made[s.Name] = result
	c.mu.Unlock()
	return err
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// dependents marks the services that are to be restarted with s.
func (c *creation) dependents(s *Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.Project.Services {
		if other.DependsOn[s.Name].Restart {
			c.restart[other.Name] = true
		}
	}
}

// resolve replaces references to other services by their containers, also in
// what the hash is of.
func (c *creation) resolve(s *Service) (client.HostConfig, string, error) {
	h, hashed := s.Host, s.Hashed
	c.mu.Lock()
	defer c.mu.Unlock()
	first := func(name, what string) (string, error) {
		if len(c.made[name]) == 0 {
			return "", fmt.Errorf("service %q cannot share %s with service %s: container missing", s.Name, what, name)
		}
		return slices.MinFunc(c.made[name], func(a, b *Container) int { return cmp.Compare(a.Number, b.Number) }).ID, nil
	}
	for _, mode := range []struct {
		key, what string
		value     *string
	}{
		{"network_mode", "the network namespace", &h.NetworkMode},
		{"ipc", "the IPC namespace", &h.IpcMode},
		{"pid", "the PID namespace", &h.PidMode},
	} {
		name, ok := strings.CutPrefix(*mode.value, "service:")
		if !ok {
			continue
		}
		id, err := first(name, mode.what)
		if err != nil {
			return h, "", err
		}
		*mode.value = "container:" + id
		hashed = strings.Replace(hashed, fmt.Sprintf("%q:%q", mode.key, "service:"+name), fmt.Sprintf("%q:%q", mode.key, *mode.value), 1)
	}
	h.VolumesFrom = nil
	for _, from := range s.Host.VolumesFrom {
		name, mode, _ := strings.Cut(from, ":")
		id, isContainer := strings.CutPrefix(from, "container:")
		if isContainer {
			id, mode, _ = strings.Cut(id, ":")
		} else {
			var err error
			if id, err = first(name, "volumes"); err != nil {
				return h, "", err
			}
		}
		hashed = strings.Replace(hashed, fmt.Sprintf("%q", from), fmt.Sprintf("%q", id), 1)
		if mode != "" {
			id += ":" + mode
		}
		h.VolumesFrom = append(h.VolumesFrom, id)
	}
	h.Links = slices.Clone(s.Host.Links)
	for _, l := range s.Links {
		name, alias, _ := strings.Cut(l, ":")
		for _, x := range c.made[name] {
			h.Links = append(h.Links, x.Name+":"+cmp.Or(alias, name), x.Name+":"+x.Short(c.Project.Name), x.Name+":"+x.Name)
		}
	}
	if hashed == "" {
		return h, s.Hash, nil
	}
	sum := sha256.Sum256([]byte(hashed))
	return h, hex.EncodeToString(sum[:]), nil
}

// differs says whether a container is not what the files say any more.
func (c *creation) differs(s *Service, x *Container, hash, strategy string) bool {
	switch strategy {
	case Never:
		return false
	case Force:
		return true
	}
	if x.Labels[labelHash] != hash || x.Labels[labelImage] != c.images[s.Image].ID {
		return true
	}
	for _, a := range s.Networks {
		if _, ok := x.NetworkSettings.Networks[c.Project.Networks[a.Network].Create.Name]; !ok && x.State == "running" {
			return true
		}
	}
	var mounted []string
	for _, m := range x.Mounts {
		mounted = append(mounted, m.Name)
	}
	return slices.ContainsFunc(s.volumes(), func(name string) bool { return !slices.Contains(mounted, name) })
}

// volumes are the names of the named volumes that the service mounts.
func (s *Service) volumes() []string {
	var out []string
	for _, b := range s.Host.Binds {
		if name, _, _ := strings.Cut(b, ":"); !strings.ContainsAny(name, `/\`) {
			out = append(out, name)
		}
	}
	for _, m := range s.Host.Mounts {
		if m.Type == "volume" && m.Source != "" {
			out = append(out, m.Source)
		}
	}
	return out
}

// Request is what a container of the service is created from, without what
// depends on other services.
func (p *Project) Request(s *Service, host client.HostConfig, name string, aliases bool) (*client.CreateRequest, error) {
	cfg := s.Config
	cfg.Image = s.Image
	cfg.Labels = map[string]string{}
	maps.Copy(cfg.Labels, s.Config.Labels)
	maps.Copy(cfg.Labels, map[string]string{
		labelProject: p.Name, labelService: s.Name, labelVersion: Version, labelDir: p.Dir, labelFiles: strings.Join(p.Files, ","),
		labelOneOff: "False", labelDependsOn: s.dependencies(),
	})
	if len(p.EnvFiles) > 0 {
		cfg.Labels[labelEnvFiles] = strings.Join(p.EnvFiles, ",")
	}
	req := &client.CreateRequest{Config: &cfg, HostConfig: &host}
	for i, a := range s.Networks {
		e := a.Endpoint
		e.Aliases = []string{name}
		if aliases {
			e.Aliases = append(append(e.Aliases, s.Name), a.Endpoint.Aliases...)
		}
		e.Links = host.Links
		network := p.Networks[a.Network].Create.Name
		if i == 0 {
			host.NetworkMode = network
			req.NetworkingConfig.EndpointsConfig = map[string]*client.Endpoint{}
		}
		req.NetworkingConfig.EndpointsConfig[network] = &e
	}
	mounts, err := p.writeContents(s)
	if err != nil {
		return nil, err
	}
	host.Mounts = append(slices.Clone(host.Mounts), mounts...)
	return req, nil
}

// dependencies is the label from which the order is known without the files.
func (s *Service) dependencies() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.DependsOn)) {
		d := s.DependsOn[name]
		out = append(out, fmt.Sprintf("%s:%s:%t", name, d.Condition, d.Restart))
	}
	return strings.Join(out, ",")
}

// make creates container x of the service, which has a number but no name.
func (c *creation) make(ctx context.Context, s *Service, host client.HostConfig, hash string, x *Container) error {
	x.Name = c.Project.container(s, x.Number)
	req, err := c.Project.Request(s, host, x.Name, true)
	if err != nil {
		return err
	}
	if err := c.create(ctx, s, req, hash, x, x.Name); err != nil {
		return err
	}
	c.say("Container", x.Name, "Created")
	return nil
}

func (c *creation) create(ctx context.Context, s *Service, req *client.CreateRequest, hash string, x *Container, name string) error {
	req.Labels[labelHash], req.Labels[labelImage] = hash, c.images[s.Image].ID
	req.Labels[labelNumber] = strconv.Itoa(x.Number)
	out, err := c.API.Create(ctx, *req, name, s.Platform)
	if err != nil {
		return fmt.Errorf("container %s: %w", name, err)
	}
	for _, w := range out.Warnings {
		c.warn("%s: %s", s.Name, w)
	}
	x.ID, x.State = out.ID, "created"
	return nil
}

// remake replaces container x by a new one with its name and number. The new one
// is created first, so that a mistake in the files leaves the old one running.
func (c *creation) remake(ctx context.Context, s *Service, host client.HostConfig, hash string, x *Container) error {
	name := c.Project.container(s, x.Number)
	req, err := c.Project.Request(s, host, name, true)
	if err != nil {
		return err
	}
	req.Labels[labelReplace] = x.Short(c.Project.Name)
	if !c.o.RenewVolumes {
		if err := c.inherit(ctx, s, req, x); err != nil {
			return err
		}
	}
	made := &Container{Number: x.Number}
	temporary := x.ID[:min(12, len(x.ID))] + "_" + name
	if err := c.create(ctx, s, req, hash, made, temporary); err != nil {
		return err
	}
	if err := c.API.Stop(ctx, x.ID, client.StopOptions{Timeout: c.o.Timeout}); err != nil {
		return errors.Join(err, c.API.Remove(ctx, made.ID, true, false, false))
	}
	if err := c.API.Remove(ctx, x.ID, false, false, false); err != nil {
		return err
	}
	if err := c.API.Rename(ctx, made.ID, name); err != nil {
		return err
	}
	x.ID, x.State, x.Name = made.ID, made.State, name
	c.say("Container", name, "Recreated")
	return nil
}

// inherit gives the new container the old one's anonymous volumes.
func (c *creation) inherit(ctx context.Context, s *Service, req *client.CreateRequest, old *Container) error {
	d, err := c.inspect(ctx, old.ID)
	if err != nil {
		return err
	}
	for _, m := range d.Mounts {
		if m.Type != "volume" {
			continue
		}
		i := slices.IndexFunc(req.HostConfig.Mounts, func(x client.Mount) bool { return x.Target == m.Destination })
		_, ofImage := c.images[s.Image].Config.Volumes[m.Destination]
		named := slices.ContainsFunc(req.HostConfig.Binds, func(b string) bool { return strings.Split(b, ":")[1] == m.Destination })
		switch {
		case i >= 0 && req.HostConfig.Mounts[i].Type == "volume" && req.HostConfig.Mounts[i].Source == "":
			req.HostConfig.Mounts[i].Source = m.Name
		case i < 0 && ofImage && !named:
			req.HostConfig.Mounts = append(req.HostConfig.Mounts, client.Mount{Type: "volume", Source: m.Name, Target: m.Destination})
		}
	}
	return nil
}
