package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
)

// recover carries on with what a backend before left: machines whose shims answer
// live on, what was never completed is undone, and of what ended meanwhile the
// exit is told. Damage to one is logged and leaves that one out.
func (b *Backend) recover(ctx context.Context) error {
	if err := b.recoverSandboxes(ctx); err != nil {
		return err
	}
	ids, err := names(filepath.Join(b.cfg.StateDir, "containers"))
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := b.recoverContainer(ctx, id); err != nil {
			b.log.Error("a container cannot be taken over", "container", id, "err", err)
		}
	}
	for _, s := range b.sandboxes {
		if s.machine != nil {
			go b.watch(s, s.machine)
		} else {
			b.lost(s)
		}
	}
	return nil
}

func (b *Backend) recoverSandboxes(ctx context.Context) error {
	ids, err := names(filepath.Join(b.cfg.StateDir, "sandboxes"))
	if err != nil {
		return err
	}
	for _, id := range ids {
		rec := &backendpb.Sandbox{}
		complete, err := readRecord(b.sandboxRecord(id), rec)
		if err != nil {
			return err
		}
		if !complete || rec.GetId() != id {
			if err := os.Remove(b.sandboxRecord(id)); err != nil {
				return err
			}
			continue
		}
		s, err := b.describe(rec)
		if err != nil {
			return err
		}
		// A namespace that was only ours is lost; a machine has its own hold.
		s.state = open
		b.sandboxes[id] = s
	}
	machines, err := names(filepath.Join(b.cfg.StateDir, "vms"))
	if err != nil {
		return err
	}
	for _, name := range machines {
		m, err := b.recoverMachine(ctx, name)
		if err != nil {
			b.log.Error("a virtual machine cannot be taken over", "machine", name, "err", err)
		}
		if m == nil {
			continue
		}
		if s := b.sandboxes[m.sandbox]; s != nil && s.machine == nil {
			s.machine = m
		} else if err := m.destroy(ctx); err != nil {
			b.log.Error("a virtual machine cannot be removed", "machine", name, "err", err)
		}
	}
	return nil
}

// recoverContainer takes one over.
func (b *Backend) recoverContainer(ctx context.Context, id string) error {
	dir := filepath.Join(b.cfg.StateDir, "containers", id)
	rec := &backendpb.Container{}
	complete, err := readRecord(filepath.Join(dir, recordFile), rec)
	if err != nil {
		return err
	}
	if !complete {
		return os.RemoveAll(dir) // nothing else was made yet, or nothing else is left
	}
	s := b.sandboxes[rec.GetSandbox()]
	if s == nil {
		return fmt.Errorf("no sandbox %q: %w", rec.GetSandbox(), errdefs.ErrNotFound)
	}
	c := b.describeContainer(s, rec)
	close(c.made)
	if err := c.recoverShares(); err != nil {
		return err
	}
	if c.machine = s.machine; c.machine != nil {
		c.vmDir = c.machine.dir
	}
	var st *backendpb.ContainerState
	if c.machine != nil {
		if st, err = c.machine.remote.State(ctx, id); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	known, err := b.recoverProcess(c.init, st.GetInit(), logConfig(rec.GetLog()))
	if err != nil {
		return err
	}
	if !known {
		// It was being created, and nobody was told of it. Its machine is of no use.
		if s.machine != nil {
			err = s.machine.destroy(ctx)
			s.machine = nil
		}
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err := b.recoverExecs(ctx, c, st); err != nil {
		return err
	}
	c.paused = st.GetPaused()
	c.ended = c.init.phase == exited
	c.ready = true
	b.containers[id] = c
	return nil
}

func (b *Backend) recoverExecs(ctx context.Context, c *container, st *backendpb.ContainerState) error {
	ids, err := names(filepath.Join(c.dir, "execs"))
	if err != nil {
		return err
	}
	for _, id := range ids {
		rec := &backendpb.ExecSpec{}
		p := newProcess(c, id, nil)
		complete, err := readRecord(filepath.Join(p.dir, recordFile), rec)
		if err != nil {
			return err
		}
		known := false
		if complete {
			p = newProcess(c, id, rec.GetIo())
			var told *backendpb.ProcessState
			for _, e := range st.GetExecs() {
				if e.GetProcess().GetExec() == id {
					told = e
				}
			}
			if known, err = b.recoverProcess(p, told, nil); err != nil {
				return err
			}
		}
		if !known {
			if c.machine != nil {
				if err := c.machine.delete(ctx, p.ref()); err != nil {
					return err
				}
			}
			for _, stream := range []string{"stdout", "stderr"} {
				_ = os.Remove(p.fifo(stream))
			}
			if err := os.RemoveAll(p.dir); err != nil {
				return err
			}
			continue
		}
		c.execs[id] = p
	}
	return nil
}

// recoverProcess finds out how far a process came and connects to it; false if it
// was never completed. told is what its shim says, nil if that does not know it or
// is gone.
func (b *Backend) recoverProcess(p *process, told *backendpb.ProcessState, log *logs.Config) (known bool, err error) {
	toldStart, toldExit := b.journal.Told(p.ref())
	if toldStart != nil {
		p.started = toldStart.GetAt()
	}
	switch {
	case toldExit != nil:
		p.phase, p.exit, p.inside = exited, proto.CloneOf(toldExit.GetExit()), told != nil
		close(p.over)
		return true, nil
	case told == nil && toldStart == nil:
		return false, nil
	case told == nil && p.c.machine == nil:
		p.phase = running // and its end, which nobody saw, is about to be told
		if _, e := os.Stat(p.fifo("stdout")); e == nil {
			return true, p.openOutput(b, log, true)
		}
		return true, p.openSpool(b, log)
	}
	p.inside = told != nil
	if err := p.openOutput(b, log, true); err != nil {
		return true, err
	}
	p.out.Run()
	if toldStart != nil {
		p.phase = running
	}
	// A start that was not told comes with the shim's events, as does an exit.
	return true, nil
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}
