package vmm

import (
	"sync"
	"time"
)

func rdtsc() uint64

// tscKHz is the frequency of the host's time stamp counter. An emulated guest
// reads that very counter, and a machine without a timer chip gives its kernel
// nothing to measure it with: it has to be told.
//
// Each reading of the clock is taken as the shortest of several, so that being
// put off the processor in between does not count; 20 ms then give a few parts in
// a hundred thousand, and the guest's clock is set again whenever it matters.
var tscKHz = sync.OnceValue(func() int64 {
	sample := func() (uint64, time.Time) {
		var tsc uint64
		var at time.Time
		best := uint64(1) << 62
		for range 20 {
			before := rdtsc()
			now := time.Now()
			if after := rdtsc(); after-before < best {
				best, tsc, at = after-before, before+(after-before)/2, now
			}
		}
		return tsc, at
	}
	tsc0, at0 := sample()
	time.Sleep(20 * time.Millisecond)
	tsc1, at1 := sample()
	return int64(float64(tsc1-tsc0) / float64(at1.Sub(at0)) * 1e6)
})
