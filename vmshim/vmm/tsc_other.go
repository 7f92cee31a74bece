//go:build !amd64

package vmm

// tscKHz is zero where there is no such counter.
func tscKHz() int64 { return 0 }
