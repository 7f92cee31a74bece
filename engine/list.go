package engine

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	apicontainer "github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
)

// List tells of containers, the newest first: those that run, or all. A filter
// on state, exit code or a neighbour in time, and a limit, imply all.
func (e *Engine) List(ctx context.Context, all, size bool, limit int, f map[string][]string) ([]apicontainer.Summary, error) {
	match, impliesAll, err := e.listFilter(ctx, f)
	if err != nil {
		return nil, err
	}
	all = all || impliesAll || limit > 0
	type row struct {
		rec *container.Record
		st  container.Status
	}
	var rows []row
	for _, c := range e.ctrs.Visible(identity.From(ctx)) {
		rec, st := c.view()
		if (all || st.State.Alive() || st.State == container.Restarting) && match(rec, &st) {
			rows = append(rows, row{rec, st})
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(b.rec.Created.Compare(a.rec.Created), cmp.Compare(a.rec.ID, b.rec.ID))
	})
	if limit > 0 && len(rows) > limit {
		rows = rows[:limit]
	}
	out := make([]apicontainer.Summary, 0, len(rows))
	for _, r := range rows {
		s := e.summary(r.rec, &r.st)
		if size {
			if s.SizeRw, s.SizeRootFs, err = e.sizes(ctx, r.rec); errdefs.IsNotFound(err) {
				continue // removed meanwhile
			} else if err != nil {
				return nil, err
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func (e *Engine) summary(rec *container.Record, st *container.Status) apicontainer.Summary {
	s := apicontainer.Summary{
		ID: rec.ID, Names: []string{"/" + rec.Name}, Image: rec.ImageRef, ImageID: rec.Image,
		ImageManifestDescriptor: rec.Manifest, Created: rec.Created.Unix(), Labels: rec.Config.Labels,
		State: st.State.API(), Status: statusText(st, e.now()), Mounts: points(rec), Ports: ports(st),
		NetworkSettings: &apicontainer.NetworkSettingsSummary{Networks: networkSettings(rec, st).Networks},
	}
	s.Health = &apicontainer.HealthSummary{Status: healthOf(st), FailingStreak: st.FailingStreak}
	if p, args := command(rec.Config); p != "" {
		s.Command = strings.Join(append([]string{p}, args...), " ")
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.HostConfig.NetworkMode = networkName(rec.Host.NetworkMode)
	s.HostConfig.Annotations = rec.Host.Annotations
	return s
}

// statusText is the state as people read it, in Docker's words.
func statusText(st *container.Status, now time.Time) string {
	since := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch st.State {
	case container.Running:
		return "Up " + since(st.StartedAt) + healthText(st.Health)
	case container.Paused:
		return "Up " + since(st.StartedAt) + " (Paused)"
	case container.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, since(st.FinishedAt))
	case container.Exited:
		return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, since(st.FinishedAt))
	case container.Removing:
		return "Removal In Progress"
	case container.Dead:
		return "Dead"
	}
	return "Created"
}

// healthText is a health status as people read it behind a state.
func healthText(h apicontainer.HealthStatus) string {
	switch h {
	case "":
		return ""
	case apicontainer.Starting:
		return " (health: starting)"
	}
	return " (" + string(h) + ")"
}

// healthOf is the status of a container with or without a check.
func healthOf(st *container.Status) apicontainer.HealthStatus {
	return cmp.Or(st.Health, apicontainer.NoHealthcheck)
}

// ports lists the ports in force, sorted.
func ports(st *container.Status) []apicontainer.PortSummary {
	out := []apicontainer.PortSummary{}
	if st.Network == nil {
		return out
	}
	for p, bindings := range st.Network.Ports {
		if len(bindings) == 0 {
			out = append(out, apicontainer.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
		for _, b := range bindings {
			public, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			out = append(out, apicontainer.PortSummary{IP: b.HostIP, PrivatePort: p.Num(), PublicPort: uint16(public), Type: string(p.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b apicontainer.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.PublicPort, b.PublicPort), a.IP.Compare(b.IP), cmp.Compare(a.Type, b.Type))
	})
	return out
}

// predicate says whether a container matches one value of one filter.
type predicate func(*container.Record, *container.Status) bool

// filters makes a predicate of a filter's value. A container must match one
// value of each filter, but every value of those in needsAll.
var filters = map[string]func(e *Engine, ctx context.Context, value string) (predicate, error){
	"id": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		return func(r *container.Record, _ *container.Status) bool { return strings.HasPrefix(r.ID, v) }, nil
	},
	"name": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		re, err := nameFilter(v)
		if err != nil {
			return nil, err
		}
		return func(r *container.Record, _ *container.Status) bool {
			return re.MatchString("/"+r.Name) || re.MatchString(r.Name)
		}, nil
	},
	"label": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		return func(r *container.Record, _ *container.Status) bool { return hasLabel(r.Config.Labels, v) }, nil
	},
	"label!": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		return func(r *container.Record, _ *container.Status) bool { return !hasLabel(r.Config.Labels, v) }, nil
	},
	"status": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		if err := apicontainer.ValidateContainerState(apicontainer.ContainerState(v)); err != nil {
			return nil, invalid("invalid filter 'status=%s'", v)
		}
		return func(_ *container.Record, st *container.Status) bool { return string(st.State.API()) == v }, nil
	},
	"exited": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		code, err := strconv.Atoi(v)
		if err != nil {
			return nil, invalid("invalid filter 'exited=%s': it is not a number", v)
		}
		return func(_ *container.Record, st *container.Status) bool {
			return st.State == container.Exited && st.HasRun() && st.ExitCode == code
		}, nil
	},
	"ancestor": func(e *Engine, ctx context.Context, v string) (predicate, error) {
		img, err := e.cfg.Images.Get(ctx, v, nil)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			return func(r *container.Record, _ *container.Status) bool { return r.ImageRef == v }, nil
		}
		if err != nil {
			return nil, err
		}
		return func(r *container.Record, _ *container.Status) bool { return r.Image == img.ID.String() }, nil
	},
	"before": func(e *Engine, ctx context.Context, v string) (predicate, error) {
		return e.neighbour(ctx, v, func(r, other *container.Record) bool { return r.Created.Before(other.Created) })
	},
	"since": func(e *Engine, ctx context.Context, v string) (predicate, error) {
		return e.neighbour(ctx, v, func(r, other *container.Record) bool { return r.Created.After(other.Created) })
	},
	"network": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		return func(r *container.Record, st *container.Status) bool {
			for name, ep := range networkSettings(r, st).Networks {
				if name == v || (ep.NetworkID != "" && strings.HasPrefix(ep.NetworkID, v)) {
					return true
				}
			}
			return false
		}, nil
	},
	"volume": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		return func(r *container.Record, _ *container.Status) bool {
			for _, m := range r.Mounts {
				if m.Name == v || path.Clean(m.Destination) == path.Clean(v) || m.Source == v {
					return true
				}
			}
			return false
		}, nil
	},
	"publish": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		return portFilter("publish", v, func(r *container.Record, p apinetwork.Port) bool { return len(r.Host.PortBindings[p]) > 0 })
	},
	"expose": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		return portFilter("expose", v, func(r *container.Record, p apinetwork.Port) bool {
			_, ok := r.Config.ExposedPorts[p]
			return ok || len(r.Host.PortBindings[p]) > 0
		})
	},
	"isolation": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		return func(r *container.Record, _ *container.Status) bool {
			return r.Decision.Level == v || string(r.Host.Isolation) == v
		}, nil
	},
	"health": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		if err := apicontainer.ValidateHealthStatus(apicontainer.HealthStatus(v)); err != nil {
			return nil, invalid("invalid filter 'health=%s'", v)
		}
		return func(_ *container.Record, st *container.Status) bool { return v == string(healthOf(st)) }, nil
	},
	"is-task": func(_ *Engine, _ context.Context, v string) (predicate, error) {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return nil, invalid("invalid filter 'is-task=%s'", v)
		}
		return func(*container.Record, *container.Status) bool { return !b }, nil
	},
}

// needsAll names the filters whose every value must match.
var needsAll = map[string]bool{"label": true, "label!": true}

// meansAll names the filters that also look at containers that do not run.
var meansAll = map[string]bool{"status": true, "exited": true, "before": true, "since": true}

// listFilter joins all filters into one predicate.
func (e *Engine) listFilter(ctx context.Context, f map[string][]string) (match predicate, impliesAll bool, err error) {
	var groups []predicate
	for key, values := range f {
		make, ok := filters[key]
		if !ok {
			return nil, false, invalid("invalid filter '%s'", key)
		}
		impliesAll = impliesAll || meansAll[key]
		var alternatives []predicate
		for _, v := range values {
			p, err := make(e, ctx, v)
			if err != nil {
				return nil, false, err
			}
			alternatives = append(alternatives, p)
		}
		if needsAll[key] {
			groups = append(groups, alternatives...)
			continue
		}
		groups = append(groups, func(r *container.Record, st *container.Status) bool {
			return slices.ContainsFunc(alternatives, func(p predicate) bool { return p(r, st) })
		})
	}
	return func(r *container.Record, st *container.Status) bool {
		return !slices.ContainsFunc(groups, func(p predicate) bool { return !p(r, st) })
	}, impliesAll, nil
}

func (e *Engine) neighbour(ctx context.Context, ref string, test func(r, other *container.Record) bool) (predicate, error) {
	c, err := e.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	other, _ := c.view()
	return func(r *container.Record, _ *container.Status) bool { return test(r, other) }, nil
}

func portFilter(name, v string, test func(*container.Record, apinetwork.Port) bool) (predicate, error) {
	r, err := apinetwork.ParsePortRange(v)
	if err != nil {
		return nil, invalid("invalid filter '%s=%s'", name, v)
	}
	return func(rec *container.Record, _ *container.Status) bool {
		for p := range r.All() {
			if test(rec, p) {
				return true
			}
		}
		return false
	}, nil
}

// hasLabel matches key or key=value.
func hasLabel(labels map[string]string, want string) bool {
	key, value, withValue := strings.Cut(want, "=")
	have, ok := labels[key]
	return ok && (!withValue || have == value)
}

// nameFilter is a filter's value as a regular expression, as Docker takes it.
func nameFilter(v string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(v)
	if err != nil {
		return nil, invalid("invalid filter 'name=%s': %v", v, err)
	}
	return re, nil
}
