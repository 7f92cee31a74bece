package images

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// progressEvery is the least time between two updates of one layer's bytes.
const progressEvery = 100 * time.Millisecond

// reporter passes updates on one at a time. Its methods do nothing on one
// without a receiver.
type reporter struct {
	mu   sync.Mutex
	p    Progress
	last map[string]time.Time
}

func newReporter(p Progress) *reporter {
	return &reporter{p: p, last: map[string]time.Time{}}
}

// line reports a state of a layer, or a line of its own with id "".
func (r *reporter) line(id, status string) { r.send(Update{ID: id, Status: status}) }

func (r *reporter) send(u Update) {
	if r.p == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p(u)
}

// bytes reports how far a layer is, now and then.
func (r *reporter) bytes(id, status string, current, total int64) {
	if r.p == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.last[id]) < progressEvery {
		return
	}
	r.last[id] = now
	r.p(Update{ID: id, Status: status, Current: current, Total: total})
}

// short is how people see a digest.
func short(d digest.Digest) string {
	e := d.Encoded()
	return e[:min(12, len(e))]
}
