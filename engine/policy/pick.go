package policy

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

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
// level; an empty level is the backend's default. One that only emulates its
// wall counts if the policy says so.
func (p *Policy) pick(in Input, level, backend string) (Backend, Level, error) {
	var broken []string
	emulated := ""
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
			if b.Emulated && !p.AllowEmulation {
				emulated = fmt.Sprintf("level %s of backend %s", l.Name, b.Name)
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
	if emulated != "" {
		return Backend{}, Level{}, emulation(emulated)
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
