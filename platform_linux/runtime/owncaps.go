//go:build linux

package runtime

import (
	"sync"

	"github.com/caisson-engine/caisson/platform_linux/caps"
)

// ownCaps are the permitted capabilities of this process, and so of the keeper
// that it starts; all if they cannot be read, and then the kernel refuses.
var ownCaps = sync.OnceValue(func() uint64 {
	s, err := caps.Get()
	if err != nil {
		return ^uint64(0)
	}
	return s.Permitted
})
