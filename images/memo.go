package images

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// memo remembers what the database says of chains of layers. A garbage
// collection deletes chains long before it is through with their files, and an
// image that is pulled again meanwhile gets new ones: so nothing that was read
// before or during a collection is remembered.
type memo[V any] struct {
	mu  sync.RWMutex
	m   map[digest.Digest]V
	gen uint64 // odd during a collection
}

// load returns what is remembered of chain, else the generation to store it with.
func (c *memo[V]) load(chain digest.Digest) (v V, gen uint64, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok = c.m[chain]
	return v, c.gen, ok
}

// store remembers what was read since load told gen.
func (c *memo[V]) store(chain digest.Digest, v V, gen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != c.gen || gen%2 == 1 {
		return
	}
	if c.m == nil {
		c.m = map[digest.Digest]V{}
	}
	c.m[chain] = v
}

// suspend forgets everything and remembers nothing until resume. Collections
// do not overlap.
func (c *memo[V]) suspend() { c.turn() }

func (c *memo[V]) resume() { c.turn() }

func (c *memo[V]) turn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.m = nil
}
