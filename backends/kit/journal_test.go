package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

func openJournal(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func add(t *testing.T, j *Journal, container string, kind backendpb.Event_Type) {
	t.Helper()
	if err := j.Add(&backendpb.Event{Type: kind, Process: &backendpb.ProcessRef{Container: container}}); err != nil {
		t.Fatal(err)
	}
}

func TestJournalSurvivesTornFrames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	j := openJournal(t, path)
	for i := range 10 {
		add(t, j, fmt.Sprint(i), backendpb.Event_STARTED)
	}
	_ = j.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := len(whole); cut >= 0; cut -= 7 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j := openJournal(t, path)
		before := j.last
		add(t, j, "new", backendpb.Event_STARTED)
		_ = j.Close()
		j = openJournal(t, path)
		s := j.Events(t.Context(), 0)
		for seq := uint64(1); seq <= before+1; seq++ {
			e, err := s.Recv()
			if err != nil || e.Seq != seq {
				t.Fatalf("cut at %d: got %v, %v, want number %d", cut, e, err, seq)
			}
		}
	}
}

func TestJournalReplayAndReset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	j := openJournal(t, path)
	add(t, j, "long", backendpb.Event_STARTED)
	if s, x := j.Told(&backendpb.ProcessRef{Container: "long"}); s == nil || x != nil {
		t.Error("what was told of a started process is wrong")
	}
	slow := j.Events(t.Context(), 1) // reads nothing until the end
	const n = 40_000
	for i := range n {
		c := fmt.Sprint(i)
		add(t, j, c, backendpb.Event_STARTED)
		add(t, j, c, backendpb.Event_EXITED)
		if err := j.Forget(&backendpb.ProcessRef{Container: c}); err != nil {
			t.Fatal(err)
		}
	}
	if len(j.entries) > maxEvents+1 {
		t.Errorf("%d events are kept", len(j.entries))
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() > 4<<20 {
		t.Errorf("the file has grown to %d bytes: %v", fi.Size(), err)
	}
	if e, err := slow.Recv(); err != nil || e.Type != backendpb.Event_RESET {
		t.Errorf("a subscriber that was too slow got %v, %v, want RESET", e, err)
	}
	_ = j.Close()
	j = openJournal(t, path)
	// What was forgotten is not replayed.
	s := j.Events(t.Context(), 0)
	if e, err := s.Recv(); err != nil || e.Process.GetContainer() != "long" {
		t.Errorf("replay starts with %v, %v", e, err)
	}
	add(t, j, "next", backendpb.Event_STARTED)
	if e, err := s.Recv(); err != nil || e.Seq != 2*n+2 {
		t.Errorf("replay goes on with %v, %v, want number %d", e, err, 2*n+2)
	}
	if s, x := j.Told(&backendpb.ProcessRef{Container: "long"}); s == nil || x != nil {
		t.Error("a process that was not forgotten is")
	}
	for range n / 4 {
		add(t, j, "long", backendpb.Event_OOM)
	}
	for after, want := range map[uint64]uint64{0: j.dropped, 5: j.dropped, 1 << 40: j.last} {
		s := j.Events(t.Context(), after)
		e, err := s.Recv()
		if err != nil || e.Type != backendpb.Event_RESET || e.Seq != want {
			t.Fatalf("after %d: got %v, %v, want RESET at %d", after, e, err, want)
		}
		for seq := e.Seq; seq < j.last; seq++ {
			if e, err = s.Recv(); err != nil || e.Seq != seq+1 {
				t.Fatalf("after %d: got %v, %v, want number %d", after, e, err, seq+1)
			}
		}
	}
}

func TestJournalForget(t *testing.T) {
	j := openJournal(t, filepath.Join(t.TempDir(), "events"))
	ref := &backendpb.ProcessRef{Container: "c"}
	before := j.Events(t.Context(), 0)
	add(t, j, "c", backendpb.Event_STARTED)
	if err := j.Forget(ref); err != nil {
		t.Fatal(err)
	}
	after := j.Events(t.Context(), 0)
	add(t, j, "c", backendpb.Event_STARTED)
	for _, c := range []struct {
		s interface {
			Recv() (*backendpb.Event, error)
		}
		want uint64
	}{{before, 1}, {before, 2}, {after, 2}} {
		if e, err := c.s.Recv(); err != nil || e.Seq != c.want {
			t.Errorf("got %v, %v, want number %d", e, err, c.want)
		}
	}
}

func TestJournalLive(t *testing.T) {
	j := openJournal(t, filepath.Join(t.TempDir(), "events"))
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan uint64)
	go func() {
		defer close(got)
		s := j.Events(ctx, 0)
		for {
			e, err := s.Recv()
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
			got <- e.Seq
		}
	}()
	for i := uint64(1); i <= 100; i++ {
		add(t, j, "x", backendpb.Event_OOM)
		if seq := <-got; seq != i {
			t.Fatalf("got number %d, want %d", seq, i)
		}
	}
	cancel()
	<-got
}
