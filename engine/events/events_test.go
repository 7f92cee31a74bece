package events

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/identity"
)

func message(n int, action events.Action) events.Message {
	at := time.Unix(1000, int64(n))
	return events.Message{
		Type: events.ContainerEventType, Action: action, Scope: "local", Time: at.Unix(), TimeNano: at.UnixNano(),
		Actor: events.Actor{ID: fmt.Sprintf("id%d", n), Attributes: map[string]string{"name": fmt.Sprintf("n%d", n), "image": "debian:12", "k": "v"}},
	}
}

func ids(ch <-chan events.Message) (out []string) {
	for m := range ch {
		out = append(out, m.Actor.ID)
	}
	return out
}

func TestReplayAndFollow(t *testing.T) {
	b := New()
	for i := range 3 {
		b.Publish("", message(i, "create"))
	}
	past := b.Subscribe(t.Context(), identity.Engine, time.Unix(1000, 1), time.Unix(1000, 1), nil)
	if got := ids(past); !slices.Equal(got, []string{"id1"}) {
		t.Error(got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ch := b.Subscribe(ctx, identity.Engine, time.Unix(1000, 2), time.Time{}, nil)
	b.Publish("", message(3, "start"))
	if a, z := <-ch, <-ch; a.Actor.ID != "id2" || z.Actor.ID != "id3" {
		t.Error(a, z)
	}
	cancel()
	if _, open := <-ch; open {
		t.Error("it goes on after its context")
	}
	if n := b.Subscribers(); n != 0 {
		t.Errorf("%d subscribers", n)
	}
}

func TestRingKeepsTheNewest(t *testing.T) {
	b := New()
	for i := range keep + 10 {
		b.Publish("", message(i, "create"))
	}
	got := ids(b.Subscribe(t.Context(), identity.Engine, time.Unix(0, 1), time.Unix(2000, 0), nil))
	if len(got) != keep || got[0] != "id10" || got[keep-1] != fmt.Sprintf("id%d", keep+9) {
		t.Errorf("%d messages, %s to %s", len(got), got[0], got[len(got)-1])
	}
}

// Whoever does not listen is dropped; nobody waits for it.
func TestSlowSubscriber(t *testing.T) {
	b := New()
	slow := b.Subscribe(t.Context(), identity.Engine, time.Time{}, time.Time{}, nil)
	for i := range 3 * behind {
		b.Publish("", message(i, "create"))
	}
	n := 0
	for range slow {
		n++
	}
	if n >= 3*behind {
		t.Errorf("%d messages were kept for it", n)
	}
}

func TestFilters(t *testing.T) {
	m := message(1, "exec_create: sh -c x")
	for _, c := range []struct {
		f    map[string][]string
		want bool
	}{
		{nil, true},
		{map[string][]string{"type": {"container", "image"}}, true},
		{map[string][]string{"type": {"image"}}, false},
		{map[string][]string{"event": {"exec_create"}}, true},
		{map[string][]string{"event": {"exec_create: sh -c x"}}, true},
		{map[string][]string{"event": {"exec"}}, false},
		{map[string][]string{"container": {"n1"}}, true},
		{map[string][]string{"container": {"id1"}}, true},
		{map[string][]string{"container": {"other"}}, false},
		{map[string][]string{"image": {"debian:12"}}, true},
		{map[string][]string{"image": {"debian"}}, true},
		{map[string][]string{"image": {"busybox"}}, false},
		{map[string][]string{"label": {"k=v", "name"}}, true},
		{map[string][]string{"label": {"k=v", "no"}}, false},
		{map[string][]string{"label": {"k=w"}}, false},
		{map[string][]string{"scope": {"local"}}, true},
		{map[string][]string{"network": {"bridge"}}, false},
		{map[string][]string{"type": {"container"}, "event": {"die"}}, false},
	} {
		if got := Matcher(c.f)(m); got != c.want {
			t.Errorf("%v: %v", c.f, got)
		}
	}
}
