// Package events distributes what happened to whoever listens: a bounded ring of
// the past and any number of subscribers, none of which can hold up the engine.
package events

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/identity"
)

const (
	keep   = 1024 // messages of the past
	behind = 4096 // messages that a subscriber may be behind before it is dropped
)

// Bus is the distributor. Its methods are safe for concurrent use.
type Bus struct {
	mu   sync.Mutex
	ring []scoped // oldest first once full, from next
	next int
	subs map[*sub]struct{}
}

// scoped is a message with the scope of what it is about; see package identity.
type scoped struct {
	events.Message
	scope string
}

// sub is one subscriber. Its queue grows up to behind; its goroutine moves the
// queue to its channel.
type sub struct {
	as    identity.Identity
	match func(events.Message) bool
	until time.Time
	queue []events.Message
	wake  chan struct{} // capacity 1
	lost  bool          // fell too far behind
}

// New makes a bus.
func New() *Bus { return &Bus{subs: map[*sub]struct{}{}} }

// Publish stores and distributes a message about what is in scope. It never blocks.
func (b *Bus) Publish(scope string, msg events.Message) {
	m := scoped{msg, scope}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ring) < keep {
		b.ring = append(b.ring, m)
	} else {
		b.ring[b.next] = m
		b.next = (b.next + 1) % keep
	}
	for s := range b.subs {
		s.add(m)
	}
}

func (s *sub) add(m scoped) {
	switch {
	case s.lost || !s.as.Sees(m.scope) || !s.match(m.Message):
		return
	case len(s.queue) >= behind:
		s.lost, s.queue = true, nil
	default:
		s.queue = append(s.queue, m.Message)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Subscribe replays what a client sees and matches f from since on (a zero since: nothing) and
// follows until until (zero: for ever), ctx ends, or the subscriber falls
// thousands of messages behind; then the channel is closed. An until in the past
// only replays.
func (b *Bus) Subscribe(ctx context.Context, as identity.Identity, since, until time.Time, f map[string][]string) <-chan events.Message {
	s := &sub{as: as, match: Matcher(f), until: until, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	if !since.IsZero() {
		for i := range b.ring {
			m := b.ring[(b.next+i)%len(b.ring)]
			at := time.Unix(0, m.TimeNano)
			if !at.Before(since) && (until.IsZero() || !at.After(until)) {
				s.add(m)
			}
		}
	}
	b.subs[s] = struct{}{}
	b.mu.Unlock()

	out := make(chan events.Message)
	go b.serve(ctx, s, out)
	return out
}

// Subscribers counts who listens.
func (b *Bus) Subscribers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs)
}

func (b *Bus) serve(ctx context.Context, s *sub, out chan<- events.Message) {
	defer close(out)
	defer func() {
		b.mu.Lock()
		delete(b.subs, s)
		b.mu.Unlock()
	}()
	var end <-chan time.Time
	if !s.until.IsZero() {
		t := time.NewTimer(time.Until(s.until))
		defer t.Stop()
		end = t.C
	}
	for {
		b.mu.Lock()
		queue, lost := s.queue, s.lost
		s.queue = nil
		b.mu.Unlock()
		for _, m := range queue {
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
		if lost {
			return
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-s.wake:
		case <-end:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Matcher is the predicate of an API filter: values of one key are
// alternatives, keys must all hold. An unknown key matches nothing.
func Matcher(f map[string][]string) func(events.Message) bool {
	if len(f) == 0 {
		return func(events.Message) bool { return true }
	}
	return func(m events.Message) bool {
		for k, vs := range f {
			if len(vs) == 0 {
				continue
			}
			test, ok := matchers[k]
			if !ok {
				test = func(m events.Message, v string) bool { return ofType(m, events.Type(k), v) }
			}
			if k == "label" {
				// Labels are the exception: all must hold.
				if slices.ContainsFunc(vs, func(v string) bool { return !test(m, v) }) {
					return false
				}
				continue
			}
			if !slices.ContainsFunc(vs, func(v string) bool { return test(m, v) }) {
				return false
			}
		}
		return true
	}
}

// Keys are the filter keys that have a meaning.
var Keys = []string{"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume"}

var matchers = map[string]func(events.Message, string) bool{
	"type":  func(m events.Message, v string) bool { return string(m.Type) == v },
	"scope": func(m events.Message, v string) bool { return m.Scope == v },
	// Actions with an argument ("exec_create: sh", "health_status: healthy")
	// match by the part before it, too.
	"event": func(m events.Message, v string) bool {
		head, _, _ := strings.Cut(string(m.Action), ":")
		return string(m.Action) == v || head == v
	},
	"label": func(m events.Message, v string) bool {
		k, want, has := strings.Cut(v, "=")
		got, ok := m.Actor.Attributes[k]
		return ok && (!has || got == want)
	},
	// A container's events name its image in an attribute.
	"image": func(m events.Message, v string) bool {
		id, ref := m.Actor.ID, m.Actor.Attributes["name"]
		if m.Type != events.ImageEventType {
			id, ref = "", m.Actor.Attributes["image"]
		}
		return v == id || v == ref || (ref != "" && strip(ref) == v)
	},
}

func ofType(m events.Message, t events.Type, v string) bool {
	if m.Type != t {
		// A network's or volume's events name the container in an attribute.
		a := m.Actor.Attributes[string(t)]
		return a != "" && a == v
	}
	return m.Actor.ID == v || strings.HasPrefix(m.Actor.ID, v) && v != "" || m.Actor.Attributes["name"] == v
}

// strip takes the tag off an image's name.
func strip(ref string) string {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarName(n)
}
