package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/store"
)

// A health check's life follows its container's run: it is due an interval after
// the start, then an interval after the end of each try, and ends with the run.
// There is one timer and at most one try at a time. The result of each try is
// written, so that an engine that takes over goes on where the last one was.

// Defaults of a health check, which are Docker's.
const (
	healthInterval      = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthTimeout       = 30 * time.Second
	healthRetries       = 3

	keepResults = 5    // that inspect shows
	maxOutput   = 4096 // bytes of one result
	outputWait  = time.Second
	probeFailed = -1              // exit code of a check that could not run, or took too long
	againPeriod = 1 * time.Second // until a check that told nothing is tried again
)

// labelRestartUnhealthy on a container says that it is restarted when it becomes
// unhealthy.
const labelRestartUnhealthy = ownPrefix + "restart-unhealthy"

// healthTest is the command of a container's health check, nil if it has none.
func healthTest(c *apicontainer.Config) []string {
	h := c.Healthcheck
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	switch h.Test[0] {
	case "CMD":
		return h.Test[1:]
	case "CMD-SHELL":
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(slices.Clone(shell), h.Test[1])
	}
	return nil // NONE
}

// interval is the time until the next try of a container whose status is st.
func interval(h *apicontainer.HealthConfig, st *container.Status, now time.Time) time.Duration {
	if st.Health == apicontainer.Starting && now.Sub(st.StartedAt) < h.StartPeriod {
		return cmp.Or(h.StartInterval, healthStartInterval)
	}
	return cmp.Or(h.Interval, healthInterval)
}

// watch begins the health check of a run that has just begun. The caller holds
// c.mu and saves the status.
func (e *Engine) watch(c *ctr) {
	c.st.Health, c.st.FailingStreak, c.results = "", 0, nil
	if healthTest(c.rec.Config) == nil {
		return
	}
	c.st.Health = apicontainer.Starting
	e.scheduleProbe(c, interval(c.rec.Config.Healthcheck, &c.st, e.now()))
}

// rewatch goes on with the health check of a container that an earlier engine
// started. What that one's last try has left ends first.
func (e *Engine) rewatch(ctx context.Context, c *ctr) {
	if healthTest(c.rec.Config) == nil {
		return
	}
	for _, x := range e.probesOf(c.id) {
		e.endProbe(ctx, x)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.st.Health == "" || !c.st.State.Alive() || c.probe != nil {
		return
	}
	last := c.st.StartedAt
	if n := len(c.results); n > 0 {
		last = c.results[n-1].End
	}
	e.scheduleProbe(c, max(0, last.Add(interval(c.rec.Config.Healthcheck, &c.st, e.now())).Sub(e.now())))
}

// scheduleProbe sets the timer. The caller holds c.mu.
func (e *Engine) scheduleProbe(c *ctr, in time.Duration) {
	run := c.st.StartedAt
	c.probe = time.AfterFunc(in, func() {
		e.spawn(func(ctx context.Context) { e.try(ctx, c, run) })
	})
}

// unwatch ends the health check of a run that has ended: what does not run is not
// healthy. The caller holds c.mu and saves the status.
func (c *ctr) unwatch() {
	if c.probe != nil {
		c.probe.Stop()
		c.probe = nil
	}
	if c.st.Health != "" {
		c.st.Health = apicontainer.Unhealthy
	}
}

// try runs the check once, for a run that began at a moment, and judges it.
func (e *Engine) try(ctx context.Context, c *ctr, run time.Time) {
	rec, st := c.view()
	if !st.State.Alive() || !st.StartedAt.Equal(run) {
		return
	}
	var result *apicontainer.HealthcheckResult
	if st.State != container.Paused {
		result = e.runProbe(ctx, c, rec)
	}
	if ctx.Err() != nil {
		return // the next engine goes on
	}
	c.mu.Lock()
	if !c.st.State.Alive() || !c.st.StartedAt.Equal(run) {
		c.mu.Unlock()
		return
	}
	h := rec.Config.Healthcheck
	if result == nil || c.st.State == container.Paused {
		e.scheduleProbe(c, againPeriod) // what is frozen is not tried, nor blamed
		c.mu.Unlock()
		return
	}
	was := c.st.Health
	c.results = append(c.results[max(0, len(c.results)-keepResults+1):len(c.results):len(c.results)], result)
	judge(h, &c.st, result)
	op, err := put(keyHealth+c.id, c.results)
	if err == nil {
		err = e.save(c, false, op)
	}
	e.noted(c, err)
	now := c.st.Health
	e.scheduleProbe(c, interval(h, &c.st, e.now()))
	c.mu.Unlock()
	e.cfg.Crash("health.recorded")
	if now == was {
		return
	}
	e.emit(rec, events.Action(string(events.ActionHealthStatus)+": "+string(now)))
	if restart, _ := strconv.ParseBool(rec.Config.Labels[labelRestartUnhealthy]); restart && now == apicontainer.Unhealthy {
		e.spawn(func(ctx context.Context) { e.heal(ctx, c, run) })
	}
}

// judge draws the consequence of one result. Failures during the start period do
// not count while the container has not been healthy.
func judge(h *apicontainer.HealthConfig, st *container.Status, r *apicontainer.HealthcheckResult) {
	if r.ExitCode == 0 {
		st.Health, st.FailingStreak = apicontainer.Healthy, 0
		return
	}
	if st.Health == apicontainer.Starting && r.Start.Sub(st.StartedAt) < h.StartPeriod {
		return
	}
	if st.FailingStreak++; st.FailingStreak >= cmp.Or(h.Retries, healthRetries) {
		st.Health = apicontainer.Unhealthy
	}
}

// heal restarts a container that has become unhealthy, unless somebody stops it.
func (e *Engine) heal(ctx context.Context, c *ctr, run time.Time) {
	rec, st := c.view()
	if st.State != container.Running || !st.StartedAt.Equal(run) || st.StopBy != 0 {
		return
	}
	e.log.Info("restarting a container that is unhealthy", "container", c.id, "name", rec.Name)
	if _, err := e.stop(ctx, c, StopOptions{}, true); err != nil {
		e.log.Warn("cannot stop a container that is unhealthy", "container", c.id, "error", err)
		return
	}
	c.op.Lock()
	defer c.op.Unlock()
	if _, st := c.view(); st.State != container.Exited || !st.Again {
		return
	}
	if err := e.start(ctx, c, func(st *container.Status) { st.Stopped = false; st.Restarts++ }); err != nil {
		e.log.Warn("cannot start a container that was unhealthy", "container", c.id, "error", err)
		return
	}
	e.emit(rec, events.ActionRestart)
}

// errProbeLost is of a check whose end its backend did not see.
var errProbeLost = errors.New("the end of the check was not seen")

// runProbe runs a container's check to its end, or to its timeout. nil if that
// told nothing of the container: the backend was not there.
func (e *Engine) runProbe(ctx context.Context, c *ctr, rec *container.Record) *apicontainer.HealthcheckResult {
	r := &apicontainer.HealthcheckResult{Start: e.now()}
	timeout := cmp.Or(rec.Config.Healthcheck.Timeout, healthTimeout)
	var out capped
	code, err := e.probeOnce(ctx, c, rec, timeout, &out)
	if errors.Is(err, errProbeLost) || errdefs.IsUnavailable(err) {
		return nil
	}
	r.End, r.ExitCode, r.Output = e.now(), code, out.text()
	if err != nil {
		r.Output = reason(err)
		if rest := out.text(); rest != "" {
			r.Output += ": " + rest
		}
	}
	return r
}

func (e *Engine) probeOnce(ctx context.Context, c *ctr, rec *container.Record, timeout time.Duration, out *capped) (int, error) {
	late := time.NewTimer(timeout)
	defer late.Stop()
	x := &execution{id: newID(), ctr: c, ended: make(chan struct{}), execRecord: execRecord{
		Container: c.id, Probe: true, Phase: execRunning,
		Request: apicontainer.ExecCreateRequest{Cmd: healthTest(rec.Config), AttachStdout: true, AttachStderr: true},
	}}
	e.execMu.Lock()
	e.execs[x.id] = x
	e.saveExec(x) // before it is made: whoever takes over must know of it
	e.execMu.Unlock()
	defer e.forgetProbe(x)
	open := &backendpb.AttachOpen{Process: &backendpb.ProcessRef{Container: c.id, Exec: x.id}, Stdout: true, Stderr: true}
	streams, err := e.runExec(ctx, x, rec, open, ExecStartOptions{})
	if err != nil {
		if _, ok := errors.AsType[*backend.ExecError](err); !ok {
			e.endProbe(ctx, x) // it may run although nobody could say so
		}
		return probeFailed, e.execFailed(x, err)
	}
	defer close(x.served)
	read, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	p := &pump{o: AttachOptions{Stdout: out, Stderr: out}, streams: streams, again: func(ctx context.Context) (backend.Streams, error) {
		return e.reattach(ctx, rec.Decision.Backend, open)
	}}
	go func() {
		defer close(done)
		_, _ = p.run(read) // what was read is the output
		_ = p.current().Close()
	}()
	select {
	case <-x.ended:
		// Who still holds its output open is not waited for.
		t := time.NewTimer(outputWait)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
		}
		e.execMu.Lock()
		defer e.execMu.Unlock()
		if x.lost {
			return probeFailed, errProbeLost
		}
		return x.ExitCode, nil
	case <-late.C:
		e.endProbe(ctx, x)
		return probeFailed, fmt.Errorf("Health check exceeded timeout (%v)", timeout) //nolint:staticcheck // Docker's words
	case <-ctx.Done():
		return probeFailed, ctx.Err()
	}
}

// endProbe kills a check and waits a moment for its end.
func (e *Engine) endProbe(ctx context.Context, x *execution) {
	rec, _ := x.ctr.view()
	err := e.call(ctx, rec.Decision.Backend, func(p BackendProcess) error {
		return p.Signal(ctx, &backendpb.SignalRequest{Process: &backendpb.ProcessRef{Container: x.Container, Exec: x.id}, Signal: sigKill.name})
	})
	if err == nil {
		x.awaitEnd(ctx)
	}
	if e.endExec(x, 137) {
		e.deleteExec(ctx, rec, x) // it was made and never ran, or its end was not told
	}
	e.forgetProbe(x)
}

// forgetProbe drops a check that has ended: nobody can ask for it. One that is
// cut off with the engine stays, for the next.
func (e *Engine) forgetProbe(x *execution) {
	e.execMu.Lock()
	defer e.execMu.Unlock()
	if x.Phase != execEnded {
		return
	}
	delete(e.execs, x.id)
	e.noted(x.ctr, e.journal.Apply(false, store.Op{Key: keyExec + x.id}))
}

// probesOf are the checks of a container that have not ended.
func (e *Engine) probesOf(id string) (out []*execution) {
	e.execMu.Lock()
	defer e.execMu.Unlock()
	for _, x := range e.execs {
		if x.Container == id && x.Probe && x.Phase != execEnded {
			out = append(out, x)
		}
	}
	return out
}

// capped keeps the beginning of what is written.
type capped struct {
	mu   sync.Mutex
	b    []byte
	more bool
}

func (o *capped) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := min(len(p), maxOutput-len(o.b))
	o.b, o.more = append(o.b, p[:n]...), o.more || n < len(p)
	return len(p), nil
}

func (o *capped) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more {
		return string(o.b) + "..."
	}
	return string(o.b)
}

// health is what inspect tells, nil without a check.
func (c *ctr) health() *apicontainer.Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.st.Health == "" {
		return nil
	}
	return &apicontainer.Health{Status: c.st.Health, FailingStreak: c.st.FailingStreak, Log: slices.Clone(c.results)}
}

// loadHealth reads the last results.
func (e *Engine) loadHealth(c *ctr) {
	if b, err := e.journal.Get(keyHealth + c.id); err == nil {
		_ = unmarshal(b, &c.results) // damaged: as if there were none
	}
}
