package engine

import (
	"context"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// statsGap lies between the two readings that a processor share is computed of.
const statsGap = time.Second

// Stats reads a container's counters. Unless oneShot it reads them twice, so
// that a client can compute rates; a container that does not run has none.
func (e *Engine) Stats(ctx context.Context, ref string, oneShot bool) (apicontainer.StatsResponse, error) {
	c, err := e.find(ctx, ref)
	if err != nil {
		return apicontainer.StatsResponse{}, err
	}
	if err := e.await(ctx); err != nil {
		return apicontainer.StatsResponse{}, err
	}
	first, err := e.readStats(ctx, c)
	if err != nil || oneShot || first.Read.IsZero() {
		return first, err
	}
	t := time.NewTimer(statsGap)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return first, ctx.Err()
	}
	second, err := e.readStats(ctx, c)
	if err != nil {
		return first, err
	}
	second.PreRead, second.PreCPUStats = first.Read, first.CPUStats
	return second, nil
}

func (e *Engine) readStats(ctx context.Context, c *ctr) (apicontainer.StatsResponse, error) {
	rec, st := c.view()
	s := apicontainer.StatsResponse{ID: rec.ID, Name: "/" + rec.Name, OSType: rec.OS}
	if !st.State.Alive() {
		return s, nil
	}
	proc, err := e.client(ctx, rec.Decision.Backend)
	if err != nil {
		return s, err
	}
	r, err := proc.Stats(ctx, c.id)
	if err != nil {
		return s, err
	}
	s.Read = time.Unix(0, r.GetAt())
	s.CPUStats = e.cpuStats(r.GetCpu())
	s.MemoryStats = e.memoryStats(r.GetMemory())
	s.PidsStats = apicontainer.PidsStats{Current: r.GetPids(), Limit: r.GetPidsLimit()}
	s.BlkioStats = blkioStats(r.GetBlockIo())
	s.Networks = networkStats(r.GetNetworks())
	return s, nil
}

func (e *Engine) cpuStats(c *backendpb.CPUStats) apicontainer.CPUStats {
	s := apicontainer.CPUStats{
		CPUUsage: apicontainer.CPUUsage{
			TotalUsage: c.GetTotal(), PercpuUsage: c.GetPerCpu(),
			UsageInKernelmode: c.GetSystem(), UsageInUsermode: c.GetUser(),
		},
		OnlineCPUs: uint32(e.cfg.Host.NCPU),
		ThrottlingData: apicontainer.ThrottlingData{
			Periods: c.GetPeriods(), ThrottledPeriods: c.GetThrottledPeriods(), ThrottledTime: c.GetThrottledTime(),
		},
	}
	if e.cfg.Host.SystemCPU != nil {
		if n, err := e.cfg.Host.SystemCPU(); err == nil {
			s.SystemUsage = n
		}
	}
	return s
}

// memoryStats gives a container without a limit the host's memory as one, as
// Docker does: clients compute a share of it.
func (e *Engine) memoryStats(m *backendpb.MemoryStats) apicontainer.MemoryStats {
	limit := m.GetLimit()
	if host := uint64(e.cfg.Host.MemTotal); host > 0 && (limit == 0 || limit > host) {
		limit = host
	}
	return apicontainer.MemoryStats{
		Usage: m.GetUsage(), MaxUsage: m.GetMaxUsage(), Limit: limit, Failcnt: m.GetFailcnt(), Stats: m.GetStats(),
	}
}

func blkioStats(list []*backendpb.BlockIO) apicontainer.BlkioStats {
	s := apicontainer.BlkioStats{
		IoServiceBytesRecursive: []apicontainer.BlkioStatEntry{}, IoServicedRecursive: []apicontainer.BlkioStatEntry{},
	}
	for _, b := range list {
		entry := apicontainer.BlkioStatEntry{Major: b.GetMajor(), Minor: b.GetMinor(), Op: b.GetOp(), Value: b.GetBytes()}
		s.IoServiceBytesRecursive = append(s.IoServiceBytesRecursive, entry)
		entry.Value = b.GetIos()
		s.IoServicedRecursive = append(s.IoServicedRecursive, entry)
	}
	return s
}

func networkStats(list []*backendpb.NetworkStats) map[string]apicontainer.NetworkStats {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]apicontainer.NetworkStats, len(list))
	for _, n := range list {
		m[n.GetName()] = apicontainer.NetworkStats{
			RxBytes: n.GetRxBytes(), RxPackets: n.GetRxPackets(), RxErrors: n.GetRxErrors(), RxDropped: n.GetRxDropped(),
			TxBytes: n.GetTxBytes(), TxPackets: n.GetTxPackets(), TxErrors: n.GetTxErrors(), TxDropped: n.GetTxDropped(),
		}
	}
	return m
}
