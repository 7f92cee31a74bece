package engine

import (
	"context"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
)

// PruneContainers removes the containers that do not run and match the filters:
// label, label! and until (a time, or an age such as 24h).
func (e *Engine) PruneContainers(ctx context.Context, f map[string][]string) (apicontainer.PruneReport, error) {
	report := apicontainer.PruneReport{ContainersDeleted: []string{}}
	labels := map[string][]string{}
	before := e.now()
	for key, values := range f {
		switch key {
		case "label", "label!":
			labels[key] = values
		case "until":
			if len(values) != 1 {
				return report, invalid("more than one until filter specified")
			}
			var err error
			if before, err = e.moment(values[0]); err != nil {
				return report, err
			}
		default:
			return report, invalid("invalid filter '%s'", key)
		}
	}
	match, _, err := e.listFilter(ctx, labels)
	if err != nil {
		return report, err
	}
	for _, c := range e.ctrs.Visible(identity.From(ctx)) {
		rec, st := c.view()
		idle := st.State == container.Created || st.State == container.Exited || st.State == container.Dead
		if !idle || rec.Created.After(before) || !match(rec, &st) {
			continue
		}
		size, err := e.written(ctx, rec)
		if err != nil && !errdefs.IsNotFound(err) {
			return report, err
		}
		switch err := e.Remove(ctx, rec.ID, RemoveOptions{}); {
		case errdefs.IsNotFound(err), errdefs.IsConflict(err):
			continue // somebody else removed or started it
		case err != nil:
			return report, err
		}
		report.ContainersDeleted = append(report.ContainersDeleted, rec.ID)
		report.SpaceReclaimed += uint64(size)
	}
	e.publish(identity.From(ctx).Scope(), events.ContainerEventType, events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)})
	return report, nil
}

// moment reads an age, an RFC 3339 time, or Unix seconds.
func (e *Engine) moment(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return e.now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Unix(0, int64(n*float64(time.Second))), nil
	}
	return time.Time{}, invalid("%q is not a time: give an age such as 24h, an RFC 3339 time or Unix seconds", s)
}
