package gc

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
)

// However often it is asked while it works, the worker runs once more, and
// never twice at a time.
func TestWorker(t *testing.T) {
	var runs, now atomic.Int32
	started, release := make(chan struct{}), make(chan struct{})
	w := New("test", func(context.Context) error {
		if now.Add(1) > 1 {
			t.Error("two at a time")
		}
		defer now.Add(-1)
		if runs.Add(1) == 1 {
			close(started)
			<-release
		}
		return errors.New("fails, and goes on")
	}, slog.New(slog.DiscardHandler))
	w.Schedule()
	<-started
	for range 100 {
		w.Schedule()
	}
	close(release)
	if err := w.Now(context.Background()); err == nil {
		t.Error("no error")
	}
	w.Close()
	if n := runs.Load(); n < 2 || n > 3 {
		t.Errorf("%d runs", n)
	}
	w.Schedule()
	if n := runs.Load(); n > 3 {
		t.Error("ran after Close")
	}
}
