package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/identity"
)

// Level is one level that a backend offers, with its strength.
type Level struct {
	Name     string
	Strength int
}

// Backend is what a decision needs to know of a backend.
type Backend struct {
	Name     string
	OS       string // of the containers it runs
	Levels   []Level
	Default  string // level
	Problem  string // why it cannot be used now, "" if it can
	Emulated bool   // what should be the hardware's wall is emulated by software
}

// Input is the question.
type Input struct {
	Identity  identity.Identity
	Image     string   // as the client wrote it
	Names     []string // full names of the image that can be trusted
	Digests   []string // of its index, manifest and config
	Labels    map[string]string
	Network   string // bridge, host, none, container, or a network's name
	OS        string // of the image
	Isolation string // HostConfig.Isolation as sent
	Runtime   string // HostConfig.Runtime as sent: a level, a backend's name, or backend/level as inspect shows it
	Asks      []Ask  // options that not everybody may have
	Resources Resources
	Backends  []Backend
}

// Resources are the limits that a container has; zero is none, or none named.
type Resources struct {
	Memory   int64   // bytes; -1 is none
	Swap     int64   // memory and swap together, bytes; -1 is no limit
	CPUs     float64 // processors; -1 is none
	Pids     int64   // -1 is none
	NoLimits bool    // what is zero has no limit, and nothing will give it one
}

// Decision is the answer. It is stored with the container.
type Decision struct {
	Backend  string
	Level    string
	Strength int
	Emulated bool   `json:",omitempty"` // the level is no security boundary on this host
	Rule     string // of the policy: a rule's name, default_level, minimum_level; "" where the client's wish was free
	Reason   string // one sentence for people

	// Set are the limits that the container gets because it named none.
	Set Limits `json:"-"`
}

// NoRule stands for a rule's name where none matched.
const NoRule = "(none)"

func ruleName(r *Rule) string {
	if r == nil {
		return NoRule
	}
	return r.Name
}

// Refusal is a PermissionDenied that knows the rule it comes from.
type Refusal struct {
	Rule string
	err  error
}

func (r *Refusal) Error() string { return r.err.Error() }
func (r *Refusal) Unwrap() error { return r.err }

// refusal is fmt.Errorf for a rule.
func refusal(rule, format string, a ...any) error {
	return &Refusal{rule, fmt.Errorf(format, a...)}
}

// RuleOf is the rule that an error comes from, "" if it comes from none.
func RuleOf(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Rule
	}
	return ""
}

// Decide answers. Errors: PermissionDenied names the rule that forbids what was
// asked, and the remedy; InvalidArgument names what does not exist and what
// does; Unavailable names the backend that is broken and why.
func (p *Policy) Decide(in Input) (Decision, error) {
	level, backend, err := wish(in)
	if err != nil {
		return Decision{}, err
	}
	r := p.match(&in)
	if err := p.refuse(r, &in); err != nil {
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
	floor, err := p.floor(r, in.Backends)
	if err != nil {
		return Decision{}, err
	}
	b, l, err := p.pick(in, d.Level, backend)
	switch asked := level != "" || backend != ""; {
	case err != nil && (asked || floor.level == "" || d.Level != ""):
		return Decision{}, err
	case err == nil && l.Strength >= floor.strength:
	case asked:
		return Decision{}, refusal(floor.rule, "policy: rule %s forbids level %s: at least %s is required: leave --isolation and --runtime out, or ask for %s: %w", floor.rule, l.Name, floor.level, floor.level, errdefs.ErrPermissionDenied)
	default:
		// Nobody asked for the weaker level: the least decides.
		if b, l, err = p.pick(in, floor.level, ""); err != nil {
			return Decision{}, err
		}
		d.Rule = floor.rule
		d.Reason = floor.reason
	}
	d.Backend, d.Level, d.Strength, d.Emulated = b.Name, l.Name, l.Strength, b.Emulated
	if r != nil && d.Rule != r.Name {
		d.Rule, d.Reason = r.Name, fmt.Sprintf("rule %s matched; %s", r.Name, d.Reason)
	}
	if d.Emulated {
		d.Reason += "; emulated by software, which is no security boundary (allow_emulation)"
	}
	d.Set = r.fill(in.Resources)
	return d, nil
}

// Permit says whether a client may have options outside of a container: in what it
// makes for one to use.
func (p *Policy) Permit(in Input) error { return p.refuse(p.match(&in), &in) }

// Violation says why a container that exists would not be allowed to as it is,
// nil if it would. level is the one that it has.
func (p *Policy) Violation(in Input, level Level, emulated bool) error {
	r := p.match(&in)
	if err := p.refuse(r, &in); err != nil {
		return err
	}
	floor, err := p.floor(r, in.Backends)
	if err != nil {
		return err
	}
	if level.Strength < floor.strength {
		return refusal(floor.rule, "policy: rule %s forbids level %s: at least %s is required: remove the container and make it anew: %w", floor.rule, level.Name, floor.level, errdefs.ErrPermissionDenied)
	}
	if emulated && !p.AllowEmulation {
		return emulation(level.Name)
	}
	return nil
}

func emulation(what string) error {
	return refusal("allow_emulation", "policy: %s is only emulated on this host, which is no security boundary: use a host with hardware virtualisation, or set allow_emulation: true in the policy: %w", what, errdefs.ErrPermissionDenied)
}

// floor is the least level that a container may have.
type floor struct {
	level, rule, reason string
	strength            int
}

func (p *Policy) floor(r *Rule, bs []Backend) (floor, error) {
	var f floor
	for _, c := range []struct{ level, rule, what string }{
		{p.MinimumLevel, "minimum_level", "minimum_level of the policy is"},
		{r.level(), ruleName(r), "rule " + ruleName(r) + " requires at least"},
	} {
		if c.level == "" {
			continue
		}
		s, ok := strength(bs, c.level)
		if !ok {
			return f, fmt.Errorf("policy: %s %q, which no backend of this host offers: install one that does or change the policy: %w", c.what, c.level, errdefs.ErrFailedPrecondition)
		}
		if f.level == "" || s > f.strength {
			f = floor{c.level, c.rule, c.what + " " + c.level, s}
		}
	}
	return f, nil
}

func (r *Rule) level() string {
	if r == nil {
		return ""
	}
	return r.Level
}

// refuse is what a rule says no to, whatever the level.
func (p *Policy) refuse(r *Rule, in *Input) error {
	if r != nil && r.Deny.Yes {
		why := "ask the host's owner to change the rule"
		if r.Deny.Why != "" {
			why = r.Deny.Why
		}
		return refusal(r.Name, "policy: rule %q denies this container: %s: %w", r.Name, why, errdefs.ErrPermissionDenied)
	}
	var allow *Allow
	if r != nil {
		allow = r.Allow
	}
	if allow != nil || !in.Identity.Admin {
		no := slices.DeleteFunc(slices.Clone(in.Asks), allow.permits)
		if len(no) > 0 {
			return denied(r, in, no)
		}
	}
	if r != nil {
		if what := r.Limits.exceeded(in.Resources); what != "" {
			return refusal(r.Name, "policy: rule %q limits %s: ask for less, or have the host's owner raise limits of the rule: %w", r.Name, what, errdefs.ErrPermissionDenied)
		}
	}
	return nil
}

// maxTold bounds the options that one message names.
const maxTold = 8

func denied(r *Rule, in *Input, no []Ask) error {
	var what, fix []string
	for _, a := range no[:min(len(no), maxTold)] {
		what = append(what, a.String())
		fix = append(fix, a.allowance())
	}
	if len(no) > maxTold {
		what = append(what, fmt.Sprintf("%d more", len(no)-maxTold))
	}
	remedy := fmt.Sprintf("run without, or ask the host's owner to allow it (%s)", strings.Join(fix, ", "))
	if r == nil {
		return refusal(NoRule, "policy: no rule matches, so %s may not use %s: %s: %w", who(in.Identity), strings.Join(what, ", "), remedy, errdefs.ErrPermissionDenied)
	}
	return refusal(r.Name, "policy: rule %q does not allow %s to use %s: %s: %w", r.Name, who(in.Identity), strings.Join(what, ", "), remedy, errdefs.ErrPermissionDenied)
}

// exceeded says which limit is not kept, "" if all are.
func (l Limits) exceeded(r Resources) string {
	// What was not named gets the default, unless nothing will give it one.
	open := func(v float64) bool { return v < 0 || v == 0 && r.NoLimits }
	for _, c := range []struct {
		what       string
		have, most float64
		show       any
	}{
		{"memory", float64(r.Memory), float64(l.Memory), l.Memory},
		{"cpus", r.CPUs, l.CPUs, l.CPUs},
		{"processes", float64(r.Pids), float64(l.Pids), l.Pids},
	} {
		if c.most > 0 && (open(c.have) || c.have > c.most+slack) {
			return fmt.Sprintf("%s to %v", c.what, c.show)
		}
	}
	if l.Memory > 0 && (r.Swap < 0 || r.Swap > 2*int64(l.Memory)) {
		return fmt.Sprintf("memory and swap together to %s", 2*l.Memory)
	}
	return ""
}

// fill is what a container gets that names no limits: the rule's defaults, else
// its limits.
func (r *Rule) fill(have Resources) (set Limits) {
	if r == nil {
		return set
	}
	if have.Memory == 0 {
		if set.Memory = r.Defaults.Memory; set.Memory == 0 {
			set.Memory = r.Limits.Memory
		}
	}
	if have.CPUs == 0 {
		if set.CPUs = r.Defaults.CPUs; set.CPUs == 0 {
			set.CPUs = r.Limits.CPUs
		}
	}
	if have.Pids == 0 {
		if set.Pids = r.Defaults.Pids; set.Pids == 0 {
			set.Pids = r.Limits.Pids
		}
	}
	return set
}
