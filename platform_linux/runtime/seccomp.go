//go:build linux

package runtime

import (
	"encoding/binary"
	"hash/maphash"
	"runtime"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/platform_linux/seccomp"
)

// maxFilters bounds the cache of compiled filters. Nearly all containers of a
// host share one or two profiles.
const maxFilters = 16

// filterCache keeps compiled filters, found by the profile's content. Compiling
// Docker's takes 2 ms, which would be a third of a container's start.
type filterCache struct {
	mu       sync.Mutex
	seed     maphash.Seed
	compiled map[uint64]*seccomp.Filter
}

// compile returns the program and flags for a profile, nil for none.
func (c *filterCache) compile(s *specs.LinuxSeccomp) ([]byte, uint64, error) {
	if s == nil {
		return nil, 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.compiled == nil {
		c.seed, c.compiled = maphash.MakeSeed(), map[uint64]*seccomp.Filter{}
	}
	sum := profileSum(c.seed, s)
	f := c.compiled[sum]
	if f == nil {
		var err error
		if f, err = seccomp.Compile(s, runtime.GOARCH); err != nil {
			return nil, 0, err
		}
		if len(c.compiled) >= maxFilters {
			clear(c.compiled)
		}
		c.compiled[sum] = f
	}
	return f.Program, f.Flags, nil
}

// profileSum is a hash of all that Compile looks at. Its seed is secret, so that
// nobody can make a profile that passes for another.
func profileSum(seed maphash.Seed, s *specs.LinuxSeccomp) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	number := func(n uint64) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], n)
		h.Write(b[:])
	}
	text := func(s string) {
		number(uint64(len(s)))
		h.WriteString(s)
	}
	optional := func(n *uint) {
		if n == nil {
			number(^uint64(0))
		} else {
			number(uint64(*n))
		}
	}
	text(string(s.DefaultAction))
	optional(s.DefaultErrnoRet)
	number(uint64(len(s.Architectures)))
	for _, a := range s.Architectures {
		text(string(a))
	}
	number(uint64(len(s.Flags)))
	for _, f := range s.Flags {
		text(string(f))
	}
	text(s.ListenerPath)
	number(uint64(len(s.Syscalls)))
	for i := range s.Syscalls {
		c := &s.Syscalls[i]
		number(uint64(len(c.Names)))
		for _, n := range c.Names {
			text(n)
		}
		text(string(c.Action))
		optional(c.ErrnoRet)
		number(uint64(len(c.Args)))
		for _, a := range c.Args {
			number(uint64(a.Index))
			number(a.Value)
			number(a.ValueTwo)
			text(string(a.Op))
		}
	}
	return h.Sum64()
}
