package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Exec is backend.Backend.
func (b *Backend) Exec(ctx context.Context, r *backendpb.ExecSpec) (err error) {
	ctx = context.WithoutCancel(ctx)
	c, err := b.container(r.GetContainer())
	if err != nil {
		return err
	}
	if err := checkID("exec", r.GetExec()); err != nil {
		return err
	}
	spec := &specs.Process{}
	if err := json.Unmarshal(r.GetProcess(), spec); err != nil {
		return fmt.Errorf("process of exec %s: %w: %w", r.GetExec(), err, errdefs.ErrInvalidArgument)
	}
	p := newProcess(c, r.GetExec(), r.GetIo())
	if err := c.add(p); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.removeExec(ctx, p))
		}
	}()
	return b.makeExec(ctx, p, r, spec)
}

// add takes an exec's id.
func (c *container) add(p *process) error {
	isRunning := c.init.running()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.execs[p.exec] != nil:
		return fmt.Errorf("exec %q exists in container %q: %w", p.exec, c.id, errdefs.ErrAlreadyExists)
	case !isRunning || c.ended:
		return fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	case c.paused:
		return fmt.Errorf("container %s is paused, unpause the container before exec: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.execs[p.exec] = p
	return nil
}

func (b *Backend) makeExec(ctx context.Context, p *process, r *backendpb.ExecSpec, spec *specs.Process) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	if err := writeRecord(filepath.Join(p.dir, recordFile), r); err != nil {
		return err
	}
	if err := p.openOutput(b, nil, false); err != nil {
		return err
	}
	p.terminal(spec)
	spec.ApparmorProfile, spec.SelinuxLabel = "", ""
	inner := proto.CloneOf(r)
	var err error
	if inner.Process, err = json.Marshal(spec); err != nil {
		return err
	}
	if err := p.c.machine.remote.Exec(ctx, inner); err != nil {
		return err
	}
	p.mu.Lock()
	p.inside = true
	size := p.size
	p.mu.Unlock()
	if size != nil {
		if err := p.c.machine.remote.Resize(ctx, size); err != nil {
			return err
		}
	}
	p.out.Run()
	return nil
}

// deleteExec deletes one exec. Unknown is success.
func (b *Backend) deleteExec(ctx context.Context, c *container, id string) error {
	p, err := c.process(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err := b.removeExec(ctx, p); err != nil {
		return err
	}
	return b.journal.Forget(p.ref())
}

func (b *Backend) removeExec(ctx context.Context, p *process) error {
	if err := p.c.machine.delete(ctx, p.ref()); err != nil {
		return err
	}
	p.destroy()
	for _, stream := range []string{"stdout", "stderr"} {
		_ = os.Remove(p.fifo(stream))
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.c.execs[p.exec] == p {
		delete(p.c.execs, p.exec)
	}
	return nil
}
