package compose

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/caisson-engine/caisson/engine/client"
)

// Project is what a set of Compose files comes to: what the engine is to be
// asked for, in the engine's own terms. caisson-compose makes it.
type Project struct {
	Name     string
	Dir      string   // what relative paths in the files are relative to
	Files    []string // the Compose files
	EnvFiles []string `json:",omitempty"` // those given by --env-file
	// Services are sorted: each comes after those that it depends on.
	Services []Service
	// Networks and Volumes by their key in the files, which is not their name.
	Networks map[string]Network
	Volumes  map[string]Volume
	Profiles []string `json:",omitempty"` // all that the files have
	// Dormant are the services that the chosen profiles leave out.
	Dormant []string `json:",omitempty"`
	// Ignored names each key of the files that means nothing here, with why.
	Ignored []string `json:",omitempty"`
}

// Service is one service's containers, all alike.
type Service struct {
	Name  string
	Image string
	Hash  string // of its configuration, Docker's
	// Hashed is what Hash is of, for a service that refers to others: what the
	// references come to is part of it.
	Hashed        string `json:",omitempty"`
	Build         bool   // it has a build section
	Pull          string // when its image is pulled: always, missing, never
	Platform      string `json:",omitempty"`
	ContainerName string `json:",omitempty"` // "" is PROJECT-SERVICE-NUMBER
	Scale         int
	DependsOn     map[string]Dependency `json:",omitempty"`
	// Config and Host are the containers', except what depends on the project's
	// state: references to other services are still service:NAME.
	Config client.Config
	Host   client.HostConfig
	// Networks are what it is connected to, the one of its gateway first.
	Networks []Attachment `json:",omitempty"`
	// Links are SERVICE or SERVICE:ALIAS.
	Links []string `json:",omitempty"`
	// Contents are files whose content is in the project, not on the host.
	Contents []Content `json:",omitempty"`
	Silent   bool      `json:",omitempty"` // attached `up` does not show its output
}

// Dependency is what a service waits for before it starts.
type Dependency struct {
	Condition string
	Required  bool
	Restart   bool // it is restarted with it
}

// The conditions of a Dependency.
const (
	Started   = "service_started"
	Healthy   = "service_healthy"
	Completed = "service_completed_successfully"
)

// Attachment is a service's place in a network of the project.
type Attachment struct {
	Network  string // its key
	Endpoint client.Endpoint
}

// Network is a network of the project.
type Network struct {
	External bool `json:",omitempty"` // it must exist
	Hash     string
	Create   client.CreateNetworkRequest
}

// Volume is a named volume of the project.
type Volume struct {
	External bool `json:",omitempty"`
	Hash     string
	Create   client.VolumeCreate
}

// Content is a secret or configuration file that the files carry themselves or
// take from the environment.
type Content struct {
	Target string // in the container
	Data   []byte
	Mode   uint32
	UID    int
	GID    int
	// Missing says why Data is not known; only who makes a container minds.
	Missing string `json:",omitempty"`
}

// Encode writes p for Decode.
func (p *Project) Encode(w io.Writer) error { return json.NewEncoder(w).Encode(p) }

// Decode reads what Encode wrote.
func Decode(r io.Reader) (*Project, error) {
	p := new(Project)
	if err := json.NewDecoder(r).Decode(p); err != nil {
		return nil, fmt.Errorf("what caisson-compose answered is no project: %w", err)
	}
	return p, nil
}

// Service returns the service of that name, nil if there is none.
func (p *Project) Service(name string) *Service {
	i := slices.IndexFunc(p.Services, func(s Service) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Services[i]
}

// Check says which of names is no service of the project.
func (p *Project) Check(names []string) error {
	for _, n := range names {
		if p.Service(n) == nil {
			return fmt.Errorf("no such service: %s", n)
		}
	}
	return nil
}

// Select returns the services named, all without names, in order; with deps
// also those that they depend on.
func (p *Project) Select(names []string, deps bool) []*Service {
	wanted := map[string]bool{}
	var want func(string)
	want = func(n string) {
		s := p.Service(n)
		if s == nil || wanted[n] {
			return
		}
		wanted[n] = true
		if deps {
			for d := range s.DependsOn {
				want(d)
			}
		}
	}
	for _, n := range names {
		want(n)
	}
	var out []*Service
	for i := range p.Services {
		if s := &p.Services[i]; len(names) == 0 || wanted[s.Name] {
			out = append(out, s)
		}
	}
	return out
}

// container is the name of the service's container of that number.
func (p *Project) container(s *Service, number int) string {
	if s.ContainerName != "" {
		return s.ContainerName
	}
	return fmt.Sprintf("%s-%s-%d", p.Name, s.Name, number)
}
