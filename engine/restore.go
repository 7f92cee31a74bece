package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/store"
)

// firstLaunch is how long a restore waits for backends; what is not up then is
// reconciled when it comes.
const firstLaunch = 10 * time.Second

// lostExit is the code of an exit that nobody saw.
const lostExit = 255

func unmarshal(b []byte, v any) error { return json.Unmarshal(b, v) }

// load reads all records. One that cannot be read costs that container only.
func (e *Engine) load() error {
	for _, key := range e.journal.Keys(keyRecord) {
		id := strings.TrimPrefix(key, keyRecord)
		c, err := e.loadOne(id)
		if err != nil {
			e.log.Error("cannot read a container's record; it is left alone", "container", id, "error", err)
			continue
		}
		e.loadHealth(c)
		if _, err := e.ctrs.Reserve(c.rec.Tenant, c.rec.Name, id); err != nil {
			return fmt.Errorf("journal: two containers are called %s: %w", c.rec.Name, errdefs.ErrDataLoss)
		}
		e.ctrs.Put(c.rec.Tenant, id, c)
	}
	e.loadVolumes()
	for _, key := range e.journal.Keys(keyExec) {
		b, err := e.journal.Get(key)
		if err != nil {
			return err
		}
		x := &execution{id: strings.TrimPrefix(key, keyExec), ended: make(chan struct{})}
		if unmarshal(b, &x.execRecord) != nil || len(x.Request.Cmd) == 0 {
			continue
		}
		if c, ok := e.ctrs.Get(x.Container); ok {
			x.ctr = c
			e.execs[x.id] = x
		}
	}
	for _, key := range e.journal.Keys(keyNetwork) {
		b, err := e.journal.Get(key)
		if err != nil {
			return err
		}
		var n network.Network
		if err := unmarshal(b, &n); err != nil || keyNetwork+n.ID != key {
			e.log.Error("cannot read a network's record; it is left alone", "network", strings.TrimPrefix(key, keyNetwork), "error", err)
			continue
		}
		e.cfg.Network.Load(n)
	}
	if b, err := e.journal.Get(keyBoot); err == nil {
		_ = unmarshal(b, &e.booted) // damaged: taken for another boot, which is safe
	}
	return nil
}

func (e *Engine) loadOne(id string) (*ctr, error) {
	c := &ctr{id: id, rec: &container.Record{}, st: container.Status{V: container.Version, State: container.Created}}
	b, err := e.journal.Get(keyRecord + id)
	if err != nil {
		return nil, err
	}
	if err := container.Decode(b, c.rec); err != nil {
		return nil, err
	}
	if c.rec.ID != id || c.rec.Config == nil || c.rec.Host == nil {
		return nil, fmt.Errorf("record is incomplete: %w", errdefs.ErrDataLoss)
	}
	if b, err = e.journal.Get(keyStatus + id); err == nil {
		err = container.Decode(b, &c.st)
	}
	return c, err
}

// Restore brings records, backends, networks and roots to agree: what runs is
// taken over, what ended meanwhile is recorded, what a crash left half done is
// finished or undone, and what no record claims is collected. Verbs that act
// wait for it.
func (e *Engine) Restore(ctx context.Context) error {
	began := e.now()
	reboot := e.cfg.BootID != "" && e.booted != e.cfg.BootID
	if reboot {
		if err := e.rebooted(); err != nil {
			return err
		}
	}
	if err := e.launchAll(); err != nil {
		return err
	}
	e.firstContact(ctx)
	if err := e.restoreNetwork(ctx); err != nil {
		return err
	}
	all := e.ctrs.All()
	close(e.ready)
	e.collect(ctx)
	e.spawn(func(context.Context) { e.keepQuotas() })
	for _, c := range all {
		e.resume(c, reboot)
	}
	if len(all) > 0 {
		e.log.Info("restored", "containers", len(all), "took", e.now().Sub(began).Round(time.Millisecond))
	}
	return ctx.Err()
}

// rebooted forgets what a reboot of the host has ended.
func (e *Engine) rebooted() error {
	if err := e.resetCursors(); err != nil {
		return err
	}
	for _, c := range e.ctrs.All() {
		e.lost(c, "the host was restarted")
	}
	op, err := put(keyBoot, e.cfg.BootID)
	if err != nil {
		return err
	}
	return e.journal.Apply(false, op)
}

// firstContact waits until every backend was tried.
func (e *Engine) firstContact(ctx context.Context) {
	e.backendMu.Lock()
	all := e.backends
	e.backendMu.Unlock()
	t := time.NewTimer(firstLaunch)
	defer t.Stop()
	for _, b := range all {
		select {
		case <-b.tried:
		case <-t.C:
			e.log.Warn("a backend takes long to start", "backend", b.bin.Name)
			return
		case <-ctx.Done():
			return
		}
	}
}

// restoreNetwork tells the network which attachments are in use. Those of a
// backend that is not there yet are kept: their containers may run.
func (e *Engine) restoreNetwork(ctx context.Context) error {
	var live []*network.Attachment
	for _, c := range e.ctrs.All() {
		if _, st := c.view(); st.Network != nil && (st.State.Alive() || st.State == container.Starting) {
			live = append(live, st.Network)
		}
	}
	if err := e.cfg.Network.Restore(ctx, live, e.namespaceOf); err != nil {
		return fmt.Errorf("restore networks: %w", err)
	}
	return nil
}

// resume carries on with a container after a restore.
func (e *Engine) resume(c *ctr, reboot bool) {
	rec, st := c.view()
	if st.State.Alive() {
		e.spawn(func(ctx context.Context) { e.rewatch(ctx, c) })
	}
	switch {
	case st.State.Alive() && st.StopBy != 0:
		e.spawn(func(ctx context.Context) { e.finishStop(ctx, c, st.StopBy) })
	case st.State == container.Exited && (st.Again || reboot && alwaysAfterBoot(rec)):
		e.spawn(func(ctx context.Context) {
			e.settle(ctx, c)
			if _, err := e.Start(ctx, c.id); err != nil {
				e.log.Warn("cannot start a container again", "container", c.id, "error", err)
			}
		})
	case st.State == container.Starting:
		// Its backend is not there. Reconcile decides when it comes.
	case !st.State.Alive():
		e.spawn(func(ctx context.Context) { e.settle(ctx, c) })
	}
}

// alwaysAfterBoot: a client's stop holds for "always" until the host restarts.
func alwaysAfterBoot(rec *container.Record) bool {
	return rec.Host.RestartPolicy.Name == apicontainer.RestartPolicyAlways
}

// lost records that a container's end was not seen.
func (e *Engine) lost(c *ctr, why string) {
	c.mu.Lock()
	if c.st.State == container.Starting {
		move := container.Abort
		switch {
		case e.wantsRestart(c, exitNotStarted):
			move = container.Backoff
		case c.st.HasRun():
			move = container.Exit
		}
		_ = c.st.Move(move)
		c.st.Error, c.st.ExitCode = "the start was interrupted: "+why, exitNotStarted
		e.noted(c, e.save(c, false))
		c.mu.Unlock()
		return
	}
	alive := c.st.State.Alive()
	c.mu.Unlock()
	if alive {
		e.exited(c, &backendpb.Exit{Code: lostExit, Unknown: true, At: e.now().UnixNano(), Reason: why})
	}
}

// reconcile compares the records of a backend's containers with what it has,
// when it was launched and whenever events were lost. Containers that a verb is
// acting on are left to the verb.
func (e *Engine) reconcile(ctx context.Context, b *isolator, proc BackendProcess) error {
	reply, err := proc.List(ctx)
	if err != nil {
		return err
	}
	has := map[string]*backendpb.ContainerState{}
	for _, s := range reply.GetContainers() {
		has[s.GetInit().GetProcess().GetContainer()] = s
	}
	for _, c := range e.ctrs.All() {
		if rec, _ := c.view(); rec.Decision.Backend != b.bin.Name || !c.op.TryLock() {
			continue
		}
		e.agree(c, has[c.id])
		c.op.Unlock()
	}
	// Nothing claims these: their removal was interrupted after the record went.
	sandboxes := append([]string(nil), reply.GetSandboxes()...)
	for id, s := range has {
		if s.GetSandbox() == "" {
			sandboxes = append(sandboxes, id)
		}
	}
	for _, id := range sandboxes {
		if c, ok := e.ctrs.Get(id); ok {
			if _, st := c.view(); st.Held {
				continue
			}
		}
		e.log.Info("closing a sandbox that no record claims", "backend", b.bin.Name, "sandbox", id)
		if err := proc.Close(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// agree brings one record to what its backend says; s is nil if the backend
// does not know it. The caller holds c.op.
func (e *Engine) agree(c *ctr, s *backendpb.ContainerState) {
	_, st := c.view()
	init := s.GetInit()
	phase := init.GetPhase()
	switch {
	case s == nil, phase == backendpb.ProcessState_CREATED:
		e.lost(c, "the backend does not know the container")
	case phase == backendpb.ProcessState_EXITED:
		if st.State == container.Starting {
			e.began(c, 0, time.Unix(0, init.GetStartedAt()))
		}
		e.exited(c, init.GetExit())
	case st.State == container.Starting:
		e.began(c, init.GetPid(), time.Unix(0, init.GetStartedAt()))
	}
	_, st = c.view()
	c.setLive(st.State.Alive())
	if st.State.Alive() {
		e.note(c, func(st *container.Status) {
			st.Pid = init.GetPid()
			if s.GetPaused() {
				_ = st.Move(container.Pause)
			} else {
				_ = st.Move(container.Unpause)
			}
		})
	} else if st.Held || st.State == container.Removing {
		e.spawn(func(ctx context.Context) { e.settle(ctx, c) })
	}
	e.agreeExecs(c, s)
}

// agreeExecs does the same for a container's execs.
func (e *Engine) agreeExecs(c *ctr, s *backendpb.ContainerState) {
	has := map[string]*backendpb.ProcessState{}
	for _, x := range s.GetExecs() {
		has[x.GetProcess().GetExec()] = x
	}
	ids := e.execIDs(c.id)
	for _, x := range e.probesOf(c.id) {
		ids = append(ids, x.id)
	}
	for _, id := range ids {
		switch x := has[id]; {
		case x == nil:
			e.execExited(id, &backendpb.Exit{Code: lostExit, Unknown: true})
		case x.GetPhase() == backendpb.ProcessState_EXITED:
			e.execExited(id, x.GetExit())
		}
	}
}

// collect removes what no record claims: roots, directories, intents.
func (e *Engine) collect(ctx context.Context) {
	for _, key := range e.journal.Keys(keyCreate) {
		id := strings.TrimPrefix(key, keyCreate)
		if _, ok := e.ctrs.Get(id); ok {
			continue // a create that began after the restore
		}
		var intent creation
		if b, err := e.journal.Get(key); err == nil {
			_ = unmarshal(b, &intent) // damaged: its volumes stay, the rest goes
		}
		e.unmake(id, intent)
	}
	e.collectRoots(ctx)
	e.collectDirs()
	e.collectMounts()
	e.restoreVolumes(ctx)
	e.redoUpdates(ctx)
	var ops []store.Op
	for _, key := range e.journal.Keys(keyExec) {
		if _, err := e.exec(e.ctx, strings.TrimPrefix(key, keyExec)); err != nil {
			ops = append(ops, store.Op{Key: key})
		}
	}
	for _, prefix := range []string{keyStatus, keyHealth} {
		for _, key := range e.journal.Keys(prefix) {
			if _, err := e.journal.Get(keyRecord + strings.TrimPrefix(key, prefix)); err != nil {
				ops = append(ops, store.Op{Key: key})
			}
		}
	}
	if err := e.journal.Apply(false, ops...); err != nil {
		e.log.Error("cannot write the journal", "error", err)
	}
}

// claimed says whether a container exists or is being made. Records that could
// not be read count: what they own is left alone.
func (e *Engine) claimed(id string) bool {
	if _, ok := e.ctrs.Get(id); ok {
		return true
	}
	for _, key := range []string{keyCreate, keyRecord} {
		if _, err := e.journal.Get(key + id); err == nil {
			return true
		}
	}
	return false
}

func (e *Engine) collectRoots(ctx context.Context) {
	roots, err := e.cfg.Images.Roots(ctx)
	if err != nil {
		e.log.Error("cannot list root filesystems", "error", err)
		return
	}
	for _, id := range roots {
		if owner, _, _ := strings.Cut(id, "."); e.claimed(owner) {
			continue
		}
		e.log.Info("collecting a root filesystem that no record claims", "key", id)
		if err := e.cfg.Images.Release(ctx, id); err != nil {
			e.log.Error("cannot collect a root filesystem", "key", id, "error", err)
		}
	}
}

func (e *Engine) collectDirs() {
	entries, err := os.ReadDir(filepath.Dir(e.dir("x")))
	if err != nil {
		return // there was never a container
	}
	for _, en := range entries {
		if e.claimed(en.Name()) {
			continue
		}
		if err := os.RemoveAll(e.dir(en.Name())); err != nil {
			e.log.Error("cannot collect a container's directory", "container", en.Name(), "error", err)
		}
	}
}

// redoUpdates applies limits whose update was interrupted: the record has them,
// the backend may not.
func (e *Engine) redoUpdates(ctx context.Context) {
	var wg sync.WaitGroup
	for _, key := range e.journal.Keys(keyUpdate) {
		c, ok := e.ctrs.Get(strings.TrimPrefix(key, keyUpdate))
		if ok {
			wg.Go(func() { e.redoUpdate(ctx, c) })
		}
	}
	wg.Wait()
}

func (e *Engine) redoUpdate(ctx context.Context, c *ctr) {
	c.op.Lock()
	defer c.op.Unlock()
	rec, st := c.view()
	if st.State.Alive() {
		if err := e.reapplyLimits(ctx, rec); err != nil {
			e.log.Error("cannot finish an update of limits", "container", c.id, "error", err)
			return
		}
	}
	e.noted(c, e.journal.Apply(false, store.Op{Key: keyUpdate + c.id}))
}
