package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/backends/oci/monitor"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Names of files of an exec.
const (
	processFile = "process.json"
	insideFile  = "inside" // its number inside the sandbox
)

// Exec is backend.Backend. It prepares streams and files; runtimes know no exec
// that waits, so all else is Start's.
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
	if len(spec.Args) == 0 {
		return fmt.Errorf("process of exec %s has no program: %w", r.GetExec(), errdefs.ErrInvalidArgument)
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
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	if err := kit.WriteRecord(filepath.Join(p.dir, recordFile), r); err != nil {
		return err
	}
	if err := b.resolve(c, spec); err != nil {
		return err
	}
	if err := p.writeSpec(spec); err != nil {
		return err
	}
	ends, err := p.openStreams(b, nil)
	defer ends.close()
	if err != nil {
		return err
	}
	if err := p.hold(b, ends); err != nil {
		return err
	}
	p.set(created)
	return nil
}

func (p *process) writeSpec(spec *specs.Process) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, processFile), text, 0o600); err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	return nil
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
	p.phase = starting // not to be started before it is complete
	c.execs[p.exec] = p
	return nil
}

// callExec has the runtime run a prepared exec.
func (b *Backend) callExec(p *process) error {
	c := p.c
	spec := &specs.Process{}
	text, err := os.ReadFile(filepath.Join(p.dir, processFile))
	if err == nil {
		err = json.Unmarshal(text, spec)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	p.terminal(spec) // with the size it has by now
	if err := p.writeSpec(spec); err != nil {
		return err
	}
	ends, err := b.farEnds(p)
	defer ends.close()
	if err != nil {
		return err
	}
	group, err := b.joinUnified(c)
	if err != nil {
		return err
	}
	if group != nil {
		defer group.Close()
	}
	log, pids := filepath.Join(p.dir, logFile), filepath.Join(p.dir, "pid")
	args := []string{"--detach", "--process", filepath.Join(p.dir, processFile), "--pid-file", pids}
	if b.dialect.ownKernel {
		args = append(args, "--internal-pid-file", filepath.Join(p.dir, insideFile))
	}
	p.mu.Lock()
	rows, cols := p.rows, p.cols
	p.mu.Unlock()
	res, err := b.monitor.Run(p.key(), monitor.Command{
		Argv: b.argv(log, "exec", args...), Last: []string{b.name(c)}, Env: environment(), PIDFile: pids,
		Console: p.io.GetTerminal(), Rows: rows, Cols: cols,
	}, ends.stdio(p.io.GetTerminal()), group)
	if err != nil {
		return err
	}
	if res.Status != 0 {
		return executed(b.failed(log, "exec", ""), spec.Args[0])
	}
	p.mu.Lock()
	p.pid, p.pidfd, p.console = res.PID, res.Pidfd, res.Console
	p.mu.Unlock()
	if p.stdin != nil {
		// The process has it: when it closes its end, writers must notice.
		if err := b.monitor.Drop(p.key(), farFile); err != nil {
			return err
		}
	}
	return p.connect()
}

// farEnds are the process's ends of a prepared exec's streams.
func (b *Backend) farEnds(p *process) (ends pipeEnds, err error) {
	if p.io.GetTerminal() {
		return ends, nil
	}
	if ends.stdout, ends.stderr, err = p.out.Pipes(); err != nil {
		return ends, err
	}
	if p.stdin != nil {
		ends.stdin, err = b.monitor.File(p.key(), farFile)
	}
	return ends, err
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
	if err := p.destroy(ctx, b); err != nil {
		return err
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
