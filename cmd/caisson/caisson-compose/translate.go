package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/opencontainers/go-digest"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/engine/client"
)

// translator makes a plan of a project and collects what it leaves out.
type translator struct {
	p       *types.Project
	ignored []string
}

// ignore notes a key that means nothing here. where is its path in the files.
func (t *translator) ignore(where, why string) {
	t.ignored = append(t.ignored, where+": "+why)
}

func translate(p *types.Project, envFiles []string) (*compose.Project, error) {
	if err := p.CheckContainerNameUnicity(); err != nil {
		return nil, err
	}
	t := &translator{p: p}
	out := &compose.Project{
		Name: p.Name, Dir: p.WorkingDir, Files: p.ComposeFiles, EnvFiles: envFiles,
		Networks: map[string]compose.Network{}, Volumes: map[string]compose.Volume{},
		Dormant: p.DisabledServiceNames(),
	}
	for _, s := range p.AllServices() {
		out.Profiles = append(out.Profiles, s.Profiles...)
	}
	slices.Sort(out.Profiles)
	out.Profiles = slices.Compact(out.Profiles)
	for _, name := range order(p) {
		s, err := t.service(p.Services[name])
		if err != nil {
			return nil, fmt.Errorf("service %q: %w", name, err)
		}
		out.Services = append(out.Services, *s)
	}
	// Only what the chosen services use.
	used := p.WithoutUnnecessaryResources()
	for key, n := range used.Networks {
		var err error
		if out.Networks[key], err = network(n); err != nil {
			return nil, err
		}
	}
	for key, v := range used.Volumes {
		var err error
		if out.Volumes[key], err = volume(v); err != nil {
			return nil, err
		}
	}
	slices.Sort(t.ignored)
	out.Ignored = t.ignored
	return out, nil
}

// order sorts the services so that each comes after its dependencies, which the
// loader made sure are no circle.
func order(p *types.Project) []string {
	var out []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		s, here := p.Services[name]
		if !here || seen[name] {
			return
		}
		seen[name] = true
		for _, d := range slices.Sorted(maps.Keys(s.DependsOn)) {
			visit(d)
		}
		out = append(out, name)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		visit(name)
	}
	return out
}

// hashOf is Docker's: of the JSON form, in hex.
func hashOf(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return digest.FromBytes(b).Encoded(), nil
}

// hashed is what a service's hash is of: without what can change while its
// containers stay.
func hashed(s types.ServiceConfig) ([]byte, error) {
	s.Build, s.PullPolicy, s.Scale, s.DependsOn, s.Profiles = nil, "", nil, nil, nil
	if s.Deploy != nil {
		d := *s.Deploy
		d.Replicas = nil
		s.Deploy = &d
	}
	return json.Marshal(s)
}

func network(n types.NetworkConfig) (compose.Network, error) {
	hash, err := hashOf(&n)
	if err != nil {
		return compose.Network{}, err
	}
	req := client.CreateNetworkRequest{
		Name: n.Name, Driver: n.Driver, Options: n.DriverOpts, Internal: n.Internal, Attachable: n.Attachable,
		EnableIPv4: n.EnableIPv4, EnableIPv6: n.EnableIPv6, Labels: n.Labels,
	}
	if n.Ipam.Driver != "" || len(n.Ipam.Config) > 0 {
		req.IPAM = &client.IPAM{Driver: n.Ipam.Driver}
		for _, pool := range n.Ipam.Config {
			req.IPAM.Config = append(req.IPAM.Config, client.IPAMConfig{
				Subnet: pool.Subnet, IPRange: pool.IPRange, Gateway: pool.Gateway, AuxAddress: pool.AuxiliaryAddresses,
			})
		}
	}
	return compose.Network{External: bool(n.External), Hash: hash, Create: req}, nil
}

func volume(v types.VolumeConfig) (compose.Volume, error) {
	v.Driver = cmp.Or(v.Driver, "local")
	hash, err := hashOf(v)
	return compose.Volume{
		External: bool(v.External), Hash: hash,
		Create: client.VolumeCreate{Name: v.Name, Driver: v.Driver, DriverOpts: v.DriverOpts, Labels: v.Labels},
	}, err
}
