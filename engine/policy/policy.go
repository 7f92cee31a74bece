// Package policy decides at which isolation level, and by which backend, a
// container runs. It is pure: a policy file and a question give a decision with
// its reason. The host owner writes the file; a client may ask for more than it
// demands, never for less.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"gopkg.in/yaml.v3"

	"github.com/caisson-engine/caisson/engine/identity"
)

// maxFile bounds a policy file, in bytes. Yaml aliases expand, so a small bound
// is also a bound on the work of reading it.
const maxFile = 1 << 20

// Policy is the host owner's file. The zero Policy sets no minimum and leaves
// the default to the backends.
type Policy struct {
	// DefaultLevel is used when a client does not ask. "" is the level that the
	// first healthy backend calls its default.
	DefaultLevel string `yaml:"default_level"`
	// MinimumLevel is the weakest level that may run. "" allows every level.
	MinimumLevel string `yaml:"minimum_level"`
	// Runtimes are OCI runtimes that become backends, by name.
	Runtimes map[string]Runtime `yaml:"runtimes"`
}

// Parse reads a policy file. Unknown keys are errors: a misspelt rule must not
// silently leave a host open.
func Parse(b []byte) (*Policy, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("policy file is larger than %d bytes: %w", maxFile, errdefs.ErrInvalidArgument)
	}
	var p Policy
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("policy file: %s: %w", strings.TrimPrefix(err.Error(), "yaml: "), errdefs.ErrInvalidArgument)
	}
	if err := d.Decode(new(Policy)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("policy file: more than one document: %w", errdefs.ErrInvalidArgument)
	}
	p.DefaultLevel, p.MinimumLevel = Canonical(p.DefaultLevel), Canonical(p.MinimumLevel)
	if err := p.checkRuntimes(); err != nil {
		return nil, err
	}
	return &p, nil
}

// Canonical is the one name of a level that has several: typed Docker clients
// can only say hyperv where they mean vm. "default" and "" are no level.
func Canonical(level string) string {
	switch l := strings.ToLower(strings.TrimSpace(level)); l {
	case "default":
		return ""
	case "hyperv":
		return "vm"
	default:
		return l
	}
}

// Level is one level that a backend offers, with its strength.
type Level struct {
	Name     string
	Strength int
}

// Backend is what a decision needs to know of a backend.
type Backend struct {
	Name    string
	OS      string // of the containers it runs
	Levels  []Level
	Default string // level
	Problem string // why it cannot be used now, "" if it can
}

// Input is the question.
type Input struct {
	Identity  identity.Identity
	Image     string
	OS        string // of the image
	Isolation string // HostConfig.Isolation as sent
	Runtime   string // HostConfig.Runtime as sent: a level, a backend's name, or backend/level as inspect shows it
	Backends  []Backend
}

// Decision is the answer. It is stored with the container.
type Decision struct {
	Backend  string
	Level    string
	Strength int
	Rule     string // of the policy: default_level, minimum_level; "" where the client's wish was free
	Reason   string // one sentence for people
}

// Decide answers. Errors: PermissionDenied names the rule that forbids what was
// asked; InvalidArgument names what does not exist and what does; Unavailable
// names the backend that is broken and why.
func (p *Policy) Decide(in Input) (Decision, error) {
	level, backend, err := wish(in)
	if err != nil {
		return Decision{}, err
	}
	d := Decision{Level: level}
	switch {
	case level != "":
		d.Reason = fmt.Sprintf("the client asked for level %s", level)
	case backend != "":
		d.Reason = fmt.Sprintf("the client asked for backend %s", backend)
	case p.DefaultLevel != "":
		d.Level, d.Rule = p.DefaultLevel, "default_level"
		d.Reason = fmt.Sprintf("default_level of the policy is %s", p.DefaultLevel)
	default:
		d.Reason = "neither the client nor the policy names a level: the backend's default"
	}

	b, l, err := pick(in, d.Level, backend)
	if err != nil {
		return Decision{}, err
	}
	if p.MinimumLevel != "" {
		floor, ok := strength(in.Backends, p.MinimumLevel)
		switch {
		case !ok:
			return Decision{}, fmt.Errorf("policy: minimum_level is %q, which no backend of this host offers: install one that does or change the policy: %w", p.MinimumLevel, errdefs.ErrFailedPrecondition)
		case l.Strength >= floor:
		case level != "" || backend != "":
			return Decision{}, fmt.Errorf("policy: rule minimum_level forbids level %s: at least %s is required: %w", l.Name, p.MinimumLevel, errdefs.ErrPermissionDenied)
		default:
			// Nobody asked for the weaker level: the minimum decides.
			if b, l, err = pick(in, p.MinimumLevel, ""); err != nil {
				return Decision{}, err
			}
			d.Rule = "minimum_level"
			d.Reason = fmt.Sprintf("minimum_level of the policy is %s", p.MinimumLevel)
		}
	}
	d.Backend, d.Level, d.Strength = b.Name, l.Name, l.Strength
	return d, nil
}

// wish reads what the client asked for: a level, a backend's name, or neither.
func wish(in Input) (level, backend string, err error) {
	level = Canonical(in.Isolation)
	rt := Canonical(in.Runtime)
	if b, l, both := strings.Cut(rt, "/"); both {
		// A client copies what inspect showed it.
		in.Runtime = b
		if in.Isolation = def(Canonical(in.Isolation), l); Canonical(in.Isolation) != Canonical(l) {
			return "", "", fmt.Errorf("conflicting options: isolation %q and runtime %q name different levels: %w", in.Isolation, rt, errdefs.ErrInvalidArgument)
		}
		return wish(in)
	}
	switch {
	case rt == "":
		return level, "", nil
	case known(in.Backends, rt):
		if level != "" && level != rt {
			return "", "", fmt.Errorf("conflicting options: isolation %q and runtime %q name different levels: %w", in.Isolation, in.Runtime, errdefs.ErrInvalidArgument)
		}
		return rt, "", nil
	default:
		for _, b := range in.Backends {
			if b.Name == rt {
				return level, rt, nil
			}
		}
		return "", "", fmt.Errorf("unknown or invalid runtime name: %s: this host has %s: %w", in.Runtime, names(in.Backends), errdefs.ErrInvalidArgument)
	}
}

// pick finds the first healthy backend for an operating system that offers
// level; an empty level is the backend's default.
func pick(in Input, level, backend string) (Backend, Level, error) {
	var broken []string
	for _, b := range in.Backends {
		if (backend != "" && b.Name != backend) || (in.OS != "" && b.OS != "" && b.OS != in.OS) {
			continue
		}
		want := level
		if want == "" {
			want = Canonical(b.Default)
		}
		for _, l := range b.Levels {
			if l.Name != want {
				continue
			}
			if b.Problem == "" {
				return b, l, nil
			}
			broken = append(broken, fmt.Sprintf("backend %s: %s", b.Name, b.Problem))
		}
		if len(b.Levels) == 0 && b.Problem != "" {
			broken = append(broken, fmt.Sprintf("backend %s: %s", b.Name, b.Problem))
		}
	}
	what := fmt.Sprintf("isolation level %q", level)
	switch {
	case backend != "":
		what = fmt.Sprintf("backend %q", backend)
	case level == "":
		what = "any isolation level"
	}
	if in.OS != "" {
		what += " for " + in.OS + " images"
	}
	if len(broken) > 0 {
		return Backend{}, Level{}, fmt.Errorf("%s is not available now: %s: %w", what, strings.Join(broken, "; "), errdefs.ErrUnavailable)
	}
	return Backend{}, Level{}, fmt.Errorf("no backend offers %s: this host has %s: %w", what, names(in.Backends), errdefs.ErrInvalidArgument)
}

func def(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

func known(bs []Backend, level string) bool {
	_, ok := strength(bs, level)
	return ok || level == "process" || level == "vm"
}

func strength(bs []Backend, level string) (int, bool) {
	for _, b := range bs {
		for _, l := range b.Levels {
			if l.Name == level {
				return l.Strength, true
			}
		}
	}
	return 0, false
}

// names lists what a client may ask for.
func names(bs []Backend) string {
	var out []string
	for _, b := range bs {
		var ls []string
		for _, l := range b.Levels {
			ls = append(ls, l.Name)
		}
		if len(ls) > 0 {
			out = append(out, fmt.Sprintf("%s (backend %s)", strings.Join(ls, ", "), b.Name))
		}
	}
	if len(out) == 0 {
		return "no working backend"
	}
	return strings.Join(out, "; ")
}
