package unpack

import (
	"fmt"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

const (
	// maxRatio is a little above what deflate can do (1032:1), so that only
	// other formats' bombs, which go far beyond, meet it.
	maxRatio = 1100
	// ratioFrom is how much must have come out before the ratio counts, bytes.
	ratioFrom = 64 << 20
	// DefaultEntries is how many entries a layer may have.
	DefaultEntries = 4 << 20
)

// Budget is the bytes that an image may still take unpacked; all its layers
// draw on it.
type Budget struct {
	left  atomic.Int64
	total int64
}

// NewBudget makes a budget of n bytes.
func NewBudget(n int64) *Budget {
	b := &Budget{total: n}
	b.left.Store(n)
	return b
}

// Take draws n bytes. It fails, FailedPrecondition, when not that much is left.
func (b *Budget) Take(n int64) error {
	if n < 0 || b.left.Add(-n) < 0 {
		return fmt.Errorf("image takes more than the %d bytes that it may unpacked; free disk space or raise the limit: %w", b.total, errdefs.ErrFailedPrecondition)
	}
	return nil
}
