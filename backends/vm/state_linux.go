package vm

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// State is backend.Backend.
func (b *Backend) State(_ context.Context, id string) (*backendpb.ContainerState, error) {
	c, err := b.container(id)
	if err != nil {
		return nil, err
	}
	return c.state(), nil
}

func (c *container) state() *backendpb.ContainerState {
	list := c.all()
	s := &backendpb.ContainerState{Init: list[0].state(), Sandbox: c.sandbox.id}
	for _, p := range list[1:] {
		s.Execs = append(s.Execs, p.state())
	}
	c.mu.Lock()
	s.Paused = c.paused
	c.mu.Unlock()
	return s
}

func (p *process) state() *backendpb.ProcessState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &backendpb.ProcessState{Process: p.ref(), StartedAt: p.started}
	switch p.phase {
	case running:
		s.Phase = backendpb.ProcessState_RUNNING
	case exited:
		s.Phase, s.Exit = backendpb.ProcessState_EXITED, p.exit
	}
	return s
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
		r.Containers = append(r.Containers, c.state())
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
	if err := c.machine.remote.Pause(ctx, id); err != nil {
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
	if err := c.machine.remote.Resume(ctx, id); err != nil {
		return fmt.Errorf("unpause container %s: %w", id, err)
	}
	c.paused = false
	return b.journal.Add(&backendpb.Event{Type: backendpb.Event_RESUMED, Process: c.init.ref()})
}

// Processes is backend.ProcessLister. The numbers are the guest's.
func (b *Backend) Processes(ctx context.Context, id string) (*backendpb.ProcessesReply, error) {
	c, err := b.live(id)
	if err != nil {
		return nil, err
	}
	return c.machine.remote.Processes(ctx, id)
}

// Update is backend.Backend. What a limit means beyond the machine's own size was
// decided when it was made.
func (b *Backend) Update(ctx context.Context, r *backendpb.UpdateRequest) error {
	c, err := b.container(r.GetContainer())
	if err != nil {
		return err
	}
	if err := c.machine.update(ctx, c.id, r.GetResources()); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

// Stats is backend.Backend: what the guest counts of the container, and what the
// whole machine costs this host beyond it.
func (b *Backend) Stats(ctx context.Context, id string) (*backendpb.StatsReply, error) {
	c, err := b.live(id)
	if err != nil {
		return nil, err
	}
	r, err := c.machine.remote.Stats(ctx, id)
	if err != nil {
		return nil, err
	}
	all, err := c.machine.group.Stats()
	if err != nil {
		return nil, fmt.Errorf("stats of container %s: %w: %w", id, err, errdefs.ErrUnavailable)
	}
	r.OverheadMemory = less(all.Memory.Usage, r.GetMemory().GetUsage())
	r.OverheadCpu = less(all.CPU.Total, r.GetCpu().GetTotal())
	return r, nil
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

func newUUID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
