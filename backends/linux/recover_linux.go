package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/platform_linux/runtime"
)

// recover carries on with what a backend before left. Damage to one container
// is logged and leaves that one out; it does not keep the others from us.
func (b *Backend) recover(ctx context.Context) error {
	list, err := b.runtime.Recover(ctx)
	if err != nil {
		return err
	}
	r := recovery{b: b, ctx: ctx, held: map[string]runtime.Held{}}
	for _, h := range list {
		r.held[h.Key] = h
	}
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
		if p.proc != nil {
			go p.watch(b)
		}
	}
	for _, p := range watched {
		if p.proc == nil {
			p.end(b, &backendpb.Exit{Code: 255, Unknown: true, At: time.Now().UnixNano(), Reason: "its parent process died"})
		}
	}
	return nil
}

type recovery struct {
	b    *Backend
	ctx  context.Context
	held map[string]runtime.Held
}

// take returns what the keeper holds under a key. The process now belongs to the
// caller, the files are to be closed.
func (r *recovery) take(key string) (h runtime.Held, done func()) {
	h = r.held[key]
	delete(r.held, key)
	return h, func() {
		for _, f := range h.Files {
			_ = f.Close()
		}
	}
}

// rest lets go of what no record claims.
func (r *recovery) rest() {
	for key := range r.held {
		h, done := r.take(key)
		err := r.b.runtime.Drop(key)
		if h.Process != nil {
			err = errors.Join(err, h.Process.Release())
		}
		if err != nil {
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
			// Killed while it was opened, or the keeper died with us. What
			// already is in it runs on; nothing may be added, since that would
			// be on the host's network.
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
	if !complete {
		// Nothing else was made yet, or nothing else is left.
		return nil, os.RemoveAll(dir)
	}
	spec, err := decodeSpec(rec)
	if err != nil {
		return nil, err
	}
	s := b.sandboxes[rec.GetSandbox()]
	if s == nil {
		return nil, fmt.Errorf("no sandbox %q: %w", rec.GetSandbox(), errdefs.ErrNotFound)
	}
	c, err := b.describeContainer(s, rec)
	if err != nil {
		return nil, err
	}
	close(c.made)
	c.use(b, spec)
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
	c.paused = c.init.phase == running && c.group.Frozen()
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
			if err := r.b.removeExec(p); err != nil {
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
	p.proc = h.Process
	toldStart, toldExit := r.b.journal.Told(p.ref())
	if toldStart != nil {
		p.started = toldStart.GetAt()
	}
	switch {
	case toldExit != nil:
		p.phase, p.exit = exited, proto.CloneOf(toldExit.GetExit())
		close(p.over)
		return true, nil
	case p.proc == nil && toldStart == nil, toldStart == nil && h.Files[stdoutFile] == nil:
		return false, nil // killed while it was created
	}
	if p.out, err = r.b.pumps.Open(kit.OutputConfig{
		Dir: p.dir, Terminal: p.io.GetTerminal(), Log: log, Recover: true, Stdout: h.Files[stdoutFile], Stderr: h.Files[stderrFile],
	}); err != nil {
		return true, err
	}
	if p.proc == nil {
		p.phase = running // and its end, which nobody saw, is about to be told
		return true, nil
	}
	if f := h.Files[kit.StdinName]; f != nil && p.io.GetStdin() && !p.io.GetTerminal() {
		if p.stdin, err = kit.RecoverStdin(p.io.GetStdinOnce(), f); err != nil {
			return true, err
		}
	}
	if err := p.connect(); err != nil {
		return true, err
	}
	if p.proc.Started() || toldStart != nil {
		p.phase = running
		if toldStart == nil {
			return true, p.tellStarted(r.b)
		}
	}
	return true, nil
}
