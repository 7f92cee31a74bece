package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// State is backend.Backend.
func (b *Backend) State(_ context.Context, id string) (*backendpb.ContainerState, error) {
	c, err := b.container(id)
	if err != nil {
		return nil, err
	}
	return b.state(c), nil
}

func (b *Backend) state(c *container) *backendpb.ContainerState {
	list := c.all()
	s := &backendpb.ContainerState{Init: b.processState(list[0]), Sandbox: c.sandbox.id, Paused: c.isPaused()}
	for _, p := range list[1:] {
		s.Execs = append(s.Execs, b.processState(p))
	}
	return s
}

func (b *Backend) processState(p *process) *backendpb.ProcessState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &backendpb.ProcessState{Process: p.ref(), StartedAt: p.started}
	switch p.phase {
	case running:
		s.Phase = backendpb.ProcessState_RUNNING
	case exited:
		s.Phase, s.Exit = backendpb.ProcessState_EXITED, p.exit
	}
	if p.phase != exited && p.phase != failed {
		s.Pid = b.shown(p)
	}
	return s
}

func (c *container) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// List is backend.Backend.
func (b *Backend) List(context.Context) (*backendpb.ListReply, error) {
	b.mu.Lock()
	var list []*container
	for _, id := range sortedKeys(b.containers) {
		if c := b.containers[id]; c.ready {
			list = append(list, c)
		}
	}
	r := &backendpb.ListReply{}
	for _, id := range sortedKeys(b.sandboxes) {
		if b.sandboxes[id].state != opening {
			r.Sandboxes = append(r.Sandboxes, id)
		}
	}
	b.mu.Unlock()
	for _, c := range list {
		r.Containers = append(r.Containers, b.state(c))
	}
	return r, nil
}

// live finds a container whose first process runs.
func (b *Backend) live(id string) (*container, error) {
	c, err := b.container(id)
	if err != nil {
		return nil, err
	}
	if !c.init.running() {
		return nil, fmt.Errorf("container %s is not running: %w", id, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// freeze stops all that runs in a container. A kernel of its own is asked to:
// stopped from outside it takes its own processes for dead.
func (b *Backend) freeze(ctx context.Context, c *container) error {
	if !b.dialect.ownKernel {
		return c.group.Freeze(ctx)
	}
	_, err := b.command(ctx, c.log(), "pause", b.name(c))
	return err
}

func (b *Backend) thaw(ctx context.Context, c *container) error {
	if !b.dialect.ownKernel {
		return c.group.Thaw()
	}
	_, err := b.command(ctx, c.log(), "resume", b.name(c))
	return err
}

// frozen tells whether a container was frozen last.
func (b *Backend) frozen(ctx context.Context, c *container) bool {
	if !b.dialect.ownKernel {
		return c.group.Frozen()
	}
	status, err := b.status(ctx, c)
	return err == nil && status == "paused"
}

// status asks the runtime.
func (b *Backend) status(ctx context.Context, c *container) (string, error) {
	out, err := b.command(ctx, c.log(), "state", b.name(c))
	if err != nil {
		return "", err
	}
	var state struct{ Status string }
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		return "", fmt.Errorf("state of container %s: %w", c.id, err)
	}
	return state.Status, nil
}

// Pause is backend.Pauser.
func (b *Backend) Pause(ctx context.Context, id string) error {
	c, err := b.live(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused {
		return fmt.Errorf("container %s is already paused: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err := b.freeze(ctx, c); err != nil {
		return fmt.Errorf("pause container %s: %w", id, err)
	}
	c.paused = true
	return b.journal.Add(&backendpb.Event{Type: backendpb.Event_PAUSED, Process: c.init.ref()})
}

// Resume is backend.Pauser.
func (b *Backend) Resume(ctx context.Context, id string) error {
	c, err := b.live(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		return fmt.Errorf("container %s is not paused: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err := b.thaw(ctx, c); err != nil {
		return fmt.Errorf("unpause container %s: %w", id, err)
	}
	c.paused = false
	return b.journal.Add(&backendpb.Event{Type: backendpb.Event_RESUMED, Process: c.init.ref()})
}

// Processes is backend.ProcessLister.
func (b *Backend) Processes(_ context.Context, id string) (*backendpb.ProcessesReply, error) {
	if b.dialect.ownKernel {
		return nil, fmt.Errorf("processes under %s are not this host's: %w", b.cfg.Runtime.Name, errdefs.ErrNotImplemented)
	}
	c, err := b.live(id)
	if err != nil {
		return nil, err
	}
	pids, err := c.group.Pids()
	if err != nil {
		return nil, err
	}
	r := &backendpb.ProcessesReply{}
	for _, pid := range pids {
		r.Processes = append(r.Processes, &backendpb.ProcessInfo{Pid: int64(pid)})
	}
	return r, nil
}

// Update is backend.Backend.
func (b *Backend) Update(_ context.Context, r *backendpb.UpdateRequest) error {
	c, err := b.container(r.GetContainer())
	if err != nil {
		return err
	}
	limits := &specs.LinuxResources{}
	if err := json.Unmarshal(r.GetResources(), limits); err != nil {
		return fmt.Errorf("resources for container %s: %w: %w", c.id, err, errdefs.ErrInvalidArgument)
	}
	warnings, err := c.group.Update(limits)
	b.warn("container", c.id, warnings)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

// Stats is backend.Backend: what the container costs this host, all that the
// runtime keeps for it included.
func (b *Backend) Stats(_ context.Context, id string) (*backendpb.StatsReply, error) {
	c, err := b.live(id)
	if err != nil {
		return nil, err
	}
	s, err := c.group.Stats()
	if err != nil {
		return nil, err
	}
	r := &backendpb.StatsReply{
		At: time.Now().UnixNano(),
		Cpu: &backendpb.CPUStats{
			Total: s.CPU.Total, User: s.CPU.User, System: s.CPU.System, PerCpu: s.CPU.PerCPU,
			Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: s.CPU.ThrottledTime,
		},
		Memory: &backendpb.MemoryStats{
			Usage: s.Memory.Usage, MaxUsage: s.Memory.MaxUsage, Limit: s.Memory.Limit, Failcnt: s.Memory.FailCount, Stats: s.Memory.Stats,
		},
		Pids: s.Pids, PidsLimit: s.PidsLimit,
	}
	for _, io := range s.IO {
		r.BlockIo = append(r.BlockIo, &backendpb.BlockIO{Major: io.Major, Minor: io.Minor, Op: io.Op, Bytes: io.Bytes, Ios: io.IOs})
	}
	// The process may end meanwhile; then there is no network to tell of.
	r.Networks, _ = kit.NetworkStats(c.init.pid)
	return r, nil
}

// signalAll signals every process of a container whose processes are the host's.
func (c *container) signalAll(sig syscall.Signal) error {
	pids, err := c.group.Pids()
	for _, pid := range pids {
		if e := unix.Kill(pid, sig); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("signal process %d of container %s: %w", pid, c.id, e))
		}
	}
	return err
}
