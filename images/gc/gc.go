// Package gc runs maintenance of the image store, garbage collection above
// all: one at a time, in the background or while a caller waits, never more
// often than asked.
package gc

import (
	"context"
	"log/slog"
	"sync"
)

// Worker runs one chore. Its methods are safe for concurrent use.
type Worker struct {
	chore func(context.Context) error
	name  string
	log   *slog.Logger

	mu      sync.Mutex // held while working
	pending chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// New starts a worker for chore, which name describes in the log.
func New(name string, chore func(context.Context) error, log *slog.Logger) *Worker {
	ctx, stop := context.WithCancel(context.Background())
	w := &Worker{chore: chore, name: name, log: log, pending: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	go w.run(ctx)
	return w
}

func (w *Worker) run(ctx context.Context) {
	defer close(w.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.pending:
		}
		if err := w.Now(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn(w.name+" failed and will be tried again after the next change", "error", err)
		}
	}
}

// Schedule asks for a run that starts after now.
func (w *Worker) Schedule() {
	select {
	case w.pending <- struct{}{}:
	default:
	}
}

// Now runs the chore and waits for its end.
func (w *Worker) Now(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.chore(ctx)
}

// Close waits for a run under way; none starts afterwards.
func (w *Worker) Close() {
	w.stop()
	<-w.done
}
