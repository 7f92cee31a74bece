package policy

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"gopkg.in/yaml.v3"

	"github.com/caisson-engine/caisson/engine/identity"
)

// Cases is a file that says what a policy must decide.
type Cases struct {
	// Levels are what the host is taken to offer, weakest first; none given:
	// process and vm.
	Levels List   `yaml:"levels"`
	Cases  []Case `yaml:"cases"`
}

// Case is one request and what must become of it.
type Case struct {
	Name string `yaml:"name"`
	As   string `yaml:"as"` // uid:N, uid:N:GID[,GID…], cert:NAME; "" is root
	// Run is what follows "caisson run". The image is taken to come from its registry.
	Run    string `yaml:"run"`
	Digest string `yaml:"digest"` // of the image, where rules match on it
	Want   string `yaml:"want"`   // denied, allowed, or the level that it gets
	Rule   string `yaml:"rule"`   // that decides, "" for any
	Says   string `yaml:"says"`   // part of the reason, "" for any

	Client identity.Identity `yaml:"-"` // As, read
	Line   int               `yaml:"-"`
}

// ParseCases reads a file of cases.
func ParseCases(b []byte) (*Cases, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("file is larger than %d bytes: %w", maxFile, errdefs.ErrInvalidArgument)
	}
	var c Cases
	if err := decodeStrict(b, &c); err != nil {
		return nil, err
	}
	var tree yaml.Node
	_ = yaml.Unmarshal(b, &tree) // it was read once already
	if len(c.Levels) == 0 {
		c.Levels = List{"process", "vm"}
	}
	for i := range c.Levels {
		c.Levels[i] = Canonical(c.Levels[i])
	}
	if len(c.Cases) == 0 {
		return nil, fmt.Errorf("there are no cases: %w", errdefs.ErrInvalidArgument)
	}
	for i := range c.Cases {
		x := &c.Cases[i]
		x.Line = lineOf(&tree, "cases", i)
		ok := true
		if x.Client = identity.FromPeer(0, 0, 0); x.As != "" {
			x.Client, ok = identity.Parse(x.As)
		}
		what := ""
		switch {
		case x.Name == "":
			what = "a case needs a name"
		case !ok:
			what = fmt.Sprintf("case %q: %q is no client: want uid:N, uid:N:GID[,GID…], cert:NAME or anonymous", x.Name, x.As)
		case x.Run == "":
			what = fmt.Sprintf("case %q: run is missing: what follows \"caisson run\"", x.Name)
		case x.Want == "":
			what = fmt.Sprintf("case %q: want is missing: denied, allowed, or a level", x.Name)
		}
		if what != "" {
			return nil, fmt.Errorf("line %d: %s: %w", x.Line, what, errdefs.ErrInvalidArgument)
		}
	}
	return &c, nil
}

// Backends are those of a host that offers the file's levels.
func (c *Cases) Backends() (out []Backend) {
	for i, l := range c.Levels {
		out = append(out, Backend{Name: l, OS: "linux", Default: l, Levels: []Level{{Name: l, Strength: 100 * (i + 1)}}})
	}
	return out
}

// Verdict is what became of a case.
type Verdict struct {
	Got, Rule, Reason string
	Pass              bool
}

// Judge decides a case. in says what is run; who asks is the case's.
func (p *Policy) Judge(x *Case, in Input) Verdict {
	id, err := p.Identify(x.Client)
	var d Decision
	if err == nil {
		in.Identity = id
		d, err = p.Decide(in)
	}
	v := Verdict{Got: d.Level, Rule: d.Rule, Reason: d.Reason}
	switch {
	case errdefs.IsPermissionDenied(err):
		v = Verdict{Got: "denied", Rule: RuleOf(err), Reason: strings.TrimSuffix(err.Error(), ": "+errdefs.ErrPermissionDenied.Error())}
	case err != nil:
		v = Verdict{Got: "error", Reason: err.Error()}
	}
	want := x.Want
	if want != "denied" && want != "allowed" {
		want = Canonical(want)
	}
	v.Pass = (v.Got == want || want == "allowed" && err == nil) && (x.Rule == "" || x.Rule == v.Rule) && strings.Contains(v.Reason, x.Says)
	return v
}
