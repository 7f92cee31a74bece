package engine

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/store"
)

// ctr is one container in memory. It has no goroutine of its own.
type ctr struct {
	id string

	// op is held by whoever takes the container from one state to another with
	// acts on the host in between: a start, what follows an exit, a removal, a
	// rename or an update. It is taken before mu.
	op sync.Mutex

	// mu guards what follows. It is held for moments, over no act but a write
	// to the journal.
	mu  sync.Mutex
	rec *container.Record // replaced as a whole, never changed
	st  container.Status

	waiters []*waiter
	due     []*waiter        // the run they wait for has ended
	waiting []*pendingAttach // attached before the backend has the process
	live    bool             // the backend has the process: attach to it
	streams int              // attachments not yet at their end
	drained chan struct{}    // closed when streams is 0; nil if nobody waits
	early   *backendpb.Exit  // exit that came before the start's answer
	timer   *time.Timer      // of the back-off
	delay   time.Duration    // last back-off

	probe   *time.Timer                       // of the next try of the health check
	results []*apicontainer.HealthcheckResult // of the last ones; never changed in place
}

// view is a consistent copy of a container's record and status.
func (c *ctr) view() (*container.Record, container.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec, c.st
}

// awaitStart waits while the container is being started. Its program may speak
// before the start is recorded: who heard it and acts on it acts on what runs.
func (c *ctr) awaitStart() {
	if _, st := c.view(); st.State == container.Starting {
		c.op.Lock()
		defer c.op.Unlock()
	}
}

// find resolves a client's reference among the containers that the client sees.
func (e *Engine) find(ctx context.Context, ref string) (*ctr, error) {
	return e.ctrs.Find(identity.From(ctx), ref)
}

// enter is find for verbs that run something in a container or go on with it. A
// tenant may look at, stop and remove one that the policy has come to forbid,
// but not use it.
func (e *Engine) enter(ctx context.Context, ref string) (*ctr, error) {
	c, err := e.find(ctx, ref)
	if err != nil || identity.From(ctx).Admin {
		return c, err
	}
	rec, _ := c.view()
	return c, e.violation(rec)
}

// dir is the container's directory: log, hostname, hosts, resolv.conf.
func (e *Engine) dir(id string) string { return filepath.Join(e.cfg.DataRoot, "containers", id) }

// save writes the status with whatever else belongs to the same moment. The
// caller holds c.mu. An error leaves memory as the caller made it: the caller
// decides whether that can stand.
func (e *Engine) save(c *ctr, sync bool, more ...store.Op) error {
	op, err := put(keyStatus+c.id, &c.st)
	if err != nil {
		return err
	}
	return e.journal.Apply(sync, append(more, op)...)
}

// change moves the status by f and saves it; if that fails nothing changed.
func (e *Engine) change(c *ctr, f func(*container.Status) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.st
	if err := f(&c.st); err != nil {
		c.st = old
		return err
	}
	if err := e.save(c, false); err != nil {
		c.st = old
		return err
	}
	return nil
}

// note is change for what cannot be refused because it has happened: the
// memory holds it even if the journal cannot be written.
func (e *Engine) note(c *ctr, f func(*container.Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.st)
	e.noted(c, e.save(c, false))
}

// noted logs a journal error that nobody can be told.
func (e *Engine) noted(c *ctr, err error) {
	if err != nil {
		e.log.Error("cannot write the journal; a restart of the engine will not know", "container", c.id, "error", err)
	}
}

// emit publishes an event of a container, with the attributes that Docker
// gives: image, name, labels, and the verb's own in pairs.
func (e *Engine) emit(rec *container.Record, action events.Action, pairs ...string) {
	attrs := make(map[string]string, len(rec.Config.Labels)+2+len(pairs)/2)
	maps.Copy(attrs, rec.Config.Labels)
	attrs["image"] = rec.ImageRef
	attrs["name"] = rec.Name
	for i := 0; i+1 < len(pairs); i += 2 {
		attrs[pairs[i]] = pairs[i+1]
	}
	e.publish(rec.Tenant, events.ContainerEventType, action, rec.ID, attrs)
}

// publish tells those who see what is in scope.
func (e *Engine) publish(scope string, t events.Type, action events.Action, id string, attrs map[string]string) {
	now := e.now()
	e.bus.Publish(scope, events.Message{
		Type: t, Action: action, Scope: "local",
		Actor: events.Actor{ID: id, Attributes: attrs},
		Time:  now.Unix(), TimeNano: now.UnixNano(),
	})
}

// notRunning is the error of a verb that needs a running container.
func notRunning(c *ctr) error {
	return fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrConflict)
}

// attachedStream counts an attachment; the caller holds c.mu.
func (c *ctr) attachedStream() { c.streams++ }

// leftStream counts it off.
func (c *ctr) leftStream() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams--; c.streams == 0 && c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
}

// drainTime is how long the end of a container waits for clients to take the
// last output.
const drainTime = 10 * time.Second

// drain waits until every attachment has got all output.
func (c *ctr) drain(ctx context.Context) {
	c.mu.Lock()
	if c.streams == 0 {
		c.mu.Unlock()
		return
	}
	if c.drained == nil {
		c.drained = make(chan struct{})
	}
	ch := c.drained
	c.mu.Unlock()
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-ch:
	case <-t.C:
	case <-ctx.Done():
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
