package engine

import (
	"context"
	"slices"
	"time"

	apievents "github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/events"
	"github.com/caisson-engine/caisson/engine/identity"
)

// Events replays from since, follows until until (zero: for ever); the channel
// is closed at the end.
func (e *Engine) Events(ctx context.Context, since, until time.Time, f map[string][]string) (<-chan apievents.Message, error) {
	for k := range f {
		if !slices.Contains(events.Keys, k) {
			return nil, invalid("invalid filter '%s'", k)
		}
	}
	return e.bus.Subscribe(ctx, identity.From(ctx), since, until, f), nil
}
