package plugin

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A daemon is idle most of its life and must then be small: what start and work
// used is given back once nothing happens.
const (
	idleCheck = 5 * time.Second
	restful   = 2       // checks in a row that saw nothing happen
	quiet     = 1 << 20 // bytes allocated since the last check that still count as nothing
)

// KeepSmall gives unused memory back to the system whenever this process has
// become idle, until ctx ends: the heap's free pages, and the mapped pages of
// the program itself, most of which only its start needed. Those stay in the
// page cache, so the next request pays some hundred minor faults, a millisecond
// or two, once.
func KeepSmall(ctx context.Context) {
	// The live heap is a few megabytes: while there is work, collecting it often
	// would cost more than the work. What that leaves lying is given back at rest.
	debug.SetGCPercent(400)
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(idleCheck)
	defer tick.Stop()
	var last uint64
	calm := 0 // checks since something happened
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(samples)
		allocated := samples[0].Value.Uint64()
		calm++
		if allocated-last >= quiet {
			calm = 0
		}
		last = allocated
		if calm == restful {
			debug.FreeOSMemory()
			dropProgram()
		}
	}
}
