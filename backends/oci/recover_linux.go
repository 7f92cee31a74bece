package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/backends/oci/monitor"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
)

// recover carries on with what a backend before left. Damage to one container
// is logged and leaves that one out; it does not keep the others from us.
func (b *Backend) recover(ctx context.Context) error {
	held, err := b.monitor.List()
	if err != nil {
		return err
	}
	r := recovery{b: b, ctx: ctx, held: held}
	defer r.rest()
	if err := r.sandboxes(); err != nil {
		return err
	}
	ids, err := names(filepath.Join(b.cfg.StateDir, "containers"))
	if err != nil {
		return err
	}
	var watched []*process
	for _, id := range ids {
		ps, err := r.container(id)
		if err != nil {
			b.log.Error("a container cannot be taken over", "container", id, "err", err)
		}
		watched = append(watched, ps...)
	}
	// Only now: the end of a first process looks at its execs.
	for _, p := range watched {
		go p.watch(b)
	}
	return nil
}

type recovery struct {
	b    *Backend
	ctx  context.Context
	held map[string]*monitor.Held
}

// take returns what the monitor holds under a key. What is left of its files
// after use is closed by done.
func (r *recovery) take(key string) (h *monitor.Held, done func()) {
	h = r.held[key]
	delete(r.held, key)
	if h == nil {
		h = &monitor.Held{Files: map[string]*os.File{}}
	}
	return h, h.Close
}

// rest lets go of what no record claims.
func (r *recovery) rest() {
	for key := range r.held {
		_, done := r.take(key)
		if err := r.b.monitor.Drop(key); err != nil {
			r.b.log.Warn("something of a container that is gone is left", "key", key, "err", err)
		}
		done()
	}
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, nil
}

func (r *recovery) sandboxes() error {
	ids, err := names(filepath.Join(r.b.cfg.StateDir, "sandboxes"))
	if err != nil {
		return err
	}
	for _, id := range ids {
		rec := &backendpb.Sandbox{}
		complete, err := kit.ReadRecord(r.b.sandboxRecord(id), rec)
		if err != nil {
			return err
		}
		if !complete || rec.GetId() != id {
			if err := os.Remove(r.b.sandboxRecord(id)); err != nil {
				return err
			}
			continue
		}
		s, _, err := r.b.describe(rec)
		if err != nil {
			return err
		}
		h, done := r.take(s.key())
		s.netns = h.Files[netnsFile]
		delete(h.Files, netnsFile)
		done()
		s.state = open
		if rec.GetNetns() != "" && s.netns == nil {
			// Killed while it was opened, or the monitor died with us. What
			// already is in it runs on; nothing may be added, since that would
			// be on another network.
			s.state = closing
		}
		r.b.sandboxes[id] = s
	}
	return nil
}

// container takes one over and returns the processes whose end is to be waited
// for.
func (r *recovery) container(id string) ([]*process, error) {
	b := r.b
	dir := filepath.Join(b.cfg.StateDir, "containers", id)
	rec := &backendpb.Container{}
	complete, err := kit.ReadRecord(filepath.Join(dir, recordFile), rec)
	if err != nil {
		return nil, err
	}
	s := b.sandboxes[rec.GetSandbox()]
	if complete && s == nil {
		return nil, fmt.Errorf("no sandbox %q: %w", rec.GetSandbox(), errdefs.ErrNotFound)
	}
	if !complete {
		// Nothing else was made yet, or nothing else is left.
		return nil, os.RemoveAll(dir)
	}
	c, err := b.describeContainer(s, rec)
	if err != nil {
		return nil, err
	}
	close(c.made)
	spec, err := decodeSpec(rec)
	if err != nil {
		// It was being created, and was about to be refused.
		return nil, b.destroy(r.ctx, c)
	}
	c.use(spec)
	known, err := r.process(c.init, logConfig(rec.GetLog()))
	if err != nil {
		return nil, err
	}
	if !known {
		// It was being created, and nobody was told of it.
		return nil, b.destroy(r.ctx, c)
	}
	execs, err := r.execs(c)
	if err != nil {
		return nil, err
	}
	c.paused = c.init.phase == running && b.frozen(r.ctx, c)
	c.ended = c.init.phase == exited
	c.ready = true
	b.containers[id] = c
	return slices.DeleteFunc(append(execs, c.init), func(p *process) bool { return p.phase != running }), nil
}

func (r *recovery) execs(c *container) ([]*process, error) {
	ids, err := names(filepath.Join(c.dir, "execs"))
	if err != nil {
		return nil, err
	}
	var list []*process
	for _, id := range ids {
		rec := &backendpb.ExecSpec{}
		p := newProcess(c, id, nil)
		complete, err := kit.ReadRecord(filepath.Join(p.dir, recordFile), rec)
		if err != nil {
			return nil, err
		}
		known := false
		if complete {
			p = newProcess(c, id, rec.GetIo())
			if known, err = r.process(p, nil); err != nil {
				return nil, err
			}
		}
		if !known {
			if err := r.b.removeExec(r.ctx, p); err != nil {
				return nil, err
			}
			continue
		}
		c.execs[id] = p
		list = append(list, p)
	}
	return list, nil
}

// process finds out how far a process came and connects to it; false if it was
// never completed.
func (r *recovery) process(p *process, log *logs.Config) (known bool, err error) {
	h, done := r.take(p.key())
	defer done()
	p.pid, p.pidfd, p.console = h.PID, h.Files[monitor.FilePidfd], h.Files[monitor.FileConsole]
	delete(h.Files, monitor.FilePidfd)
	delete(h.Files, monitor.FileConsole)
	toldStart, toldExit := r.b.journal.Told(p.ref())
	if toldStart != nil {
		p.started = toldStart.GetAt()
	}
	if toldExit != nil {
		p.phase, p.exit = exited, proto.CloneOf(toldExit.GetExit())
		close(p.over)
		return true, nil
	}
	begun := toldStart != nil
	switch {
	case begun:
	case p.exec == "":
		if h.PID == 0 {
			return false, nil // killed while it was created
		}
		if begun, err = r.begun(p, h); err != nil {
			return false, err
		}
	case h.PID != 0:
		begun = true
	case h.Files[stdoutFile] == nil || !preparedExec(p):
		return false, nil
	}
	if p.out, err = r.b.pumps.Open(kit.OutputConfig{
		Dir: p.dir, Terminal: p.io.GetTerminal(), Log: log, Recover: true, Stdout: h.Files[stdoutFile], Stderr: h.Files[stderrFile],
	}); err != nil {
		return true, err
	}
	if f := h.Files[kit.StdinName]; f != nil && p.io.GetStdin() && !p.io.GetTerminal() {
		if p.stdin, err = kit.RecoverStdin(p.io.GetStdinOnce(), f); err != nil {
			return true, err
		}
	}
	if h.PID != 0 && (!p.io.GetTerminal() || p.console != nil) {
		if err := p.connect(); err != nil {
			return true, err
		}
	}
	if begun {
		p.phase = running
		if toldStart == nil {
			return true, p.tellStarted(r.b)
		}
	}
	return true, nil
}

// preparedExec tells whether Exec came to its end.
func preparedExec(p *process) bool {
	text, err := os.ReadFile(filepath.Join(p.dir, processFile))
	return err == nil && json.Valid(text)
}

// begun tells whether a container's program was run, if nobody said so: we may
// have been killed between the runtime's start and telling it. Only the runtime
// knows then, as long as the process lives.
func (r *recovery) begun(p *process, h *monitor.Held) (bool, error) {
	mark := filepath.Join(p.dir, startedFile)
	if _, err := os.Stat(mark); err != nil {
		return false, nil //nolint:nilerr // the runtime was not asked to start it
	}
	if h.Exit != nil {
		return true, nil
	}
	status, err := r.b.status(r.ctx, p.c)
	if f, ok := errors.AsType[*failure](err); ok {
		r.b.log.Warn("the runtime does not know a container", "container", p.c.id, "err", f)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if status == "created" {
		return false, os.Remove(mark)
	}
	return true, nil
}
