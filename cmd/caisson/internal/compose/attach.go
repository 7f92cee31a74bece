package compose

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caisson-engine/caisson/engine/client"
)

// AttachOptions say how long Attach stays.
type AttachOptions struct {
	AbortOnExit    bool // stop all when one container ends
	AbortOnFailure bool // the same, but only for an exit code other than 0
	// ExitFrom is the service whose exit code counts; "" is the first to end.
	ExitFrom string
	Timeout  *int
}

// Attach starts the services with their output shown, until none of their
// containers runs any more or ctx ends, which stops them. It returns the exit
// code that the options ask for.
func (r *Runner) Attach(ctx context.Context, p *Printer, services []*Service, o AttachOptions) (int, error) {
	shown := map[string]bool{}
	for _, s := range services {
		shown[s.Name] = !s.Silent
	}
	all, err := r.Containers(ctx)
	if err != nil {
		return 0, err
	}
	a := &attached{Runner: r, p: p, o: o, shown: shown, ends: map[string]bool{}, since: map[string]time.Time{}, code: -1}
	for _, c := range all {
		if shown[c.Service] {
			p.Add(c.Short(r.Project.Name))
		}
		if _, ours := shown[c.Service]; ours && !c.OneOff && !c.Running() {
			a.ends[c.ID] = false
			d, err := r.inspect(ctx, c.ID)
			if err != nil {
				return 0, err
			}
			a.since[c.ID] = d.State.FinishedAt
		}
	}
	// Streams go on while the containers are being stopped.
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	for _, c := range all {
		if !c.OneOff && c.Running() && shown[c.Service] {
			a.follow(streams, c, client.LogsOptions{Tail: "0"})
		}
	}
	ready, watched := make(chan struct{}), make(chan error, 1)
	over, done := context.WithCancel(ctx)
	defer done()
	go func() {
		watched <- r.Events(over, "", func() { close(ready) }, func(e Event) error { return a.event(streams, e) })
	}()
	select {
	case <-ready:
	case err := <-watched:
		return 0, err
	}
	if err = r.Start(ctx, services); err == nil {
		if err = a.allStarted(ctx); err == nil {
			err = <-watched
		}
	}
	interrupted := ctx.Err() != nil
	done()
	switch {
	case errors.Is(err, errAllEnded):
		err = nil
	case errors.Is(err, errAborted):
		p.Note("Aborting on container exit...")
		err = r.Stop(context.WithoutCancel(ctx), nil, o.Timeout)
	case interrupted:
		p.Note("Gracefully stopping... (press Ctrl+C again to force)")
		err = r.Stop(context.WithoutCancel(ctx), nil, o.Timeout)
	}
	a.wait()
	return a.exitCode(ctx, interrupted), err
}

var (
	errAllEnded = errors.New("no container runs any more")
	errAborted  = errors.New("a container ended")
)

// attached is one Attach at work.
type attached struct {
	*Runner
	p     *Printer
	o     AttachOptions
	shown map[string]bool

	streams sync.WaitGroup

	mu      sync.Mutex
	started bool                 // all that was to be started was
	ends    map[string]bool      // of the containers that were to be started: whether the end was shown
	since   map[string]time.Time // when a container last ended: its output before that is old
	code    int                  // of the first container to end, -1 before
}

// follow shows a container's output from now on.
func (a *attached) follow(ctx context.Context, c *Container, o client.LogsOptions) {
	o.Follow = true
	a.streams.Go(func() {
		if err := a.show(ctx, a.p, c, o); err != nil && ctx.Err() == nil {
			a.warn("%s: its output is not shown any more: %v", c.Name, err)
		}
	})
}

// event follows containers that start, and says when the last one ended.
func (a *attached) event(streams context.Context, e Event) error {
	c := &e.Container
	shown, ours := a.shown[c.Service]
	if !ours || c.OneOff {
		return nil
	}
	switch {
	case e.Action == "start" && shown:
		// Its first output may be older than the event.
		a.mu.Lock()
		since := a.since[c.ID]
		a.mu.Unlock()
		a.follow(streams, c, client.LogsOptions{Tail: "all", Since: stamp(since)})
	case e.Action == "die":
		a.p.Note("%s exited with code %d", c.Short(a.Project.Name), e.ExitCode)
		a.mu.Lock()
		if a.code < 0 && (a.o.ExitFrom == "" || a.o.ExitFrom == c.Service) {
			a.code = e.ExitCode
		}
		a.ends[c.ID], a.since[c.ID] = true, e.Time
		started := a.started
		a.mu.Unlock()
		if a.o.AbortOnExit || a.o.AbortOnFailure && e.ExitCode != 0 {
			return errAborted
		}
		if started {
			return a.ended(streams)
		}
	}
	return nil
}

// ended fails with errAllEnded when nothing of the services runs, and all ends
// were shown: an end may be known before its event is here.
func (a *attached) ended(ctx context.Context) error {
	all, err := a.Containers(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range all {
		shown, begun := a.ends[c.ID]
		if _, ours := a.shown[c.Service]; ours && !c.OneOff && (c.Running() || begun && !shown) {
			return nil
		}
	}
	return errAllEnded
}

// allStarted lets the end of the last container be the end of all.
func (a *attached) allStarted(ctx context.Context) error {
	a.mu.Lock()
	a.started = true
	a.mu.Unlock()
	return a.ended(ctx)
}

// wait gives the streams of containers that ended a moment to be shown whole.
func (a *attached) wait() {
	shown := make(chan struct{})
	go func() { a.streams.Wait(); close(shown) }()
	select {
	case <-shown:
	case <-time.After(2 * time.Second):
	}
}

func (a *attached) exitCode(ctx context.Context, interrupted bool) int {
	switch {
	case a.o.ExitFrom != "":
		list, err := a.Of(context.WithoutCancel(ctx), []string{a.o.ExitFrom}, false)
		if err == nil && len(list) > 0 {
			if d, err := a.inspect(context.WithoutCancel(ctx), list[0].ID); err == nil {
				return d.State.ExitCode
			}
		}
		return 1
	case interrupted:
		return 130
	case (a.o.AbortOnExit || a.o.AbortOnFailure) && a.code > 0:
		return a.code
	}
	return 0
}

// stamp is a time as the API takes it, "" for none.
func stamp(t time.Time) string {
	if t.Unix() <= 0 {
		return ""
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}
