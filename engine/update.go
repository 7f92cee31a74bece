package engine

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/spec"
	"github.com/caisson-engine/caisson/engine/store"
)

// replace makes a changed copy of the record the container's record.
func (e *Engine) replace(c *ctr, rec *container.Record, sync bool, more ...store.Op) error {
	op, err := put(keyRecord+c.id, rec)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.journal.Apply(sync, append(more, op)...); err != nil {
		return err
	}
	c.rec = rec
	return nil
}

// Update changes limits and the restart policy, of a running container at once.
// A zero in u leaves a limit as it is.
func (e *Engine) Update(ctx context.Context, ref string, u apicontainer.UpdateConfig) (apicontainer.UpdateResponse, error) {
	none := apicontainer.UpdateResponse{}
	if err := e.await(ctx); err != nil {
		return none, err
	}
	c, err := e.find(ctx, ref)
	if err != nil {
		return none, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	rec, st := c.view()
	if st.State == container.Removing || st.State == container.Dead {
		return none, fmt.Errorf("cannot update container %s: it is marked for removal: %w", ref, errdefs.ErrConflict)
	}
	changed, err := updated(rec, u)
	if err != nil {
		return none, err
	}
	if _, err := spec.Resources(&changed.Host.Resources, e.cfg.Devices); err != nil {
		return none, fmt.Errorf("cannot update container %s: %w", ref, err)
	}
	admitted, err := e.mayChange(ctx, changed)
	if err != nil {
		return none, err
	}
	defer admitted()
	if err := e.replace(c, changed, true, store.Op{Key: keyUpdate + c.id, Value: []byte("{}")}); err != nil {
		return none, err
	}
	e.cfg.Crash("update.intent")
	act, cancel := acting(ctx)
	defer cancel()
	if st.State.Alive() {
		if err := e.reapplyLimits(act, changed); err != nil {
			if rerr := e.replace(c, rec, true, store.Op{Key: keyUpdate + c.id}); rerr != nil {
				e.noted(c, rerr)
			}
			return none, fmt.Errorf("Cannot update container %s: %w", c.id, err) //nolint:staticcheck // Docker's words
		}
	}
	e.cfg.Crash("update.applied")
	e.noted(c, e.journal.Apply(false, store.Op{Key: keyUpdate + c.id}))
	e.emit(changed, events.ActionUpdate)
	return apicontainer.UpdateResponse{Warnings: []string{}}, nil
}

// updated is a copy of the record with what u sets.
func updated(rec *container.Record, u apicontainer.UpdateConfig) (*container.Record, error) {
	out := *rec
	host := *rec.Host
	out.Host = &host
	r, n := &host.Resources, &u.Resources
	if n.NanoCPUs != 0 && (r.CPUPeriod != 0 || r.CPUQuota != 0) {
		return nil, fmt.Errorf("Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota has already been set: %w", errdefs.ErrConflict) //nolint:staticcheck // Docker's words
	}
	if r.NanoCPUs != 0 && (n.CPUPeriod != 0 || n.CPUQuota != 0) {
		return nil, fmt.Errorf("Conflicting options: CPU Period or Quota cannot be updated as NanoCPUs has already been set: %w", errdefs.ErrConflict) //nolint:staticcheck // Docker's words
	}
	if n.Memory > 0 && r.MemorySwap > 0 && n.MemorySwap == 0 && n.Memory > r.MemorySwap {
		return nil, fmt.Errorf("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time: %w", errdefs.ErrConflict) //nolint:staticcheck // Docker's words
	}
	for _, f := range []struct{ to, from *int64 }{
		{&r.CPUShares, &n.CPUShares}, {&r.NanoCPUs, &n.NanoCPUs}, {&r.CPUPeriod, &n.CPUPeriod}, {&r.CPUQuota, &n.CPUQuota},
		{&r.CPURealtimePeriod, &n.CPURealtimePeriod}, {&r.CPURealtimeRuntime, &n.CPURealtimeRuntime},
		{&r.Memory, &n.Memory}, {&r.MemorySwap, &n.MemorySwap}, {&r.MemoryReservation, &n.MemoryReservation},
	} {
		*f.to = def(*f.from, *f.to)
	}
	r.CpusetCpus, r.CpusetMems = def(n.CpusetCpus, r.CpusetCpus), def(n.CpusetMems, r.CpusetMems)
	r.BlkioWeight = def(n.BlkioWeight, r.BlkioWeight)
	if r.PidsLimit = def(n.PidsLimit, r.PidsLimit); n.PidsLimit != nil && *n.PidsLimit == 0 {
		unlimited := int64(-1) // 0 would leave the limit as it is
		r.PidsLimit = &unlimited
	}
	if r.Memory > 0 && r.MemorySwap == 0 {
		r.MemorySwap = 2 * r.Memory
	}
	if p := u.RestartPolicy; p.Name != "" {
		if err := apicontainer.ValidateRestartPolicy(p); err != nil {
			return nil, invalid("%v", err)
		}
		if host.AutoRemove && !p.IsNone() {
			return nil, fmt.Errorf("Restart policy cannot be updated because AutoRemove is enabled for the container: %w", errdefs.ErrConflict) //nolint:staticcheck // Docker's words
		}
		host.RestartPolicy = p
	}
	return &out, nil
}

// resourcesJSON is the OCI form of limits, as the contract carries it.
func resourcesJSON(r *apicontainer.Resources, d spec.Devices) ([]byte, error) {
	res, err := spec.Resources(r, d)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(res)
	if err != nil {
		return nil, fmt.Errorf("encode limits: %w", err)
	}
	return b, nil
}
