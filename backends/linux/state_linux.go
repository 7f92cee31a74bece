package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
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
	if p.proc != nil && p.phase != exited && p.phase != failed {
		s.Pid = int64(p.proc.PID())
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
	if err := c.group.Freeze(ctx); err != nil {
		return fmt.Errorf("pause container %s: %w", id, err)
	}
	c.paused = true
	return b.journal.Add(&backendpb.Event{Type: backendpb.Event_PAUSED, Process: c.init.ref()})
}

// Resume is backend.Pauser.
func (b *Backend) Resume(_ context.Context, id string) error {
	c, err := b.live(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		return fmt.Errorf("container %s is not paused: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err := c.group.Thaw(); err != nil {
		return fmt.Errorf("unpause container %s: %w", id, err)
	}
	c.paused = false
	return b.journal.Add(&backendpb.Event{Type: backendpb.Event_RESUMED, Process: c.init.ref()})
}

// Processes is backend.ProcessLister.
func (b *Backend) Processes(_ context.Context, id string) (*backendpb.ProcessesReply, error) {
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
		r.Processes = append(r.Processes, describeProcess(pid))
	}
	return r, nil
}

// describeProcess is what ps tells; what cannot be read of a process that is
// leaving is left out.
func describeProcess(pid int) *backendpb.ProcessInfo {
	p := &backendpb.ProcessInfo{Pid: int64(pid)}
	dir := "/proc/" + strconv.Itoa(pid)
	if fi, err := os.Stat(dir); err == nil {
		p.Uid = fi.Sys().(*syscall.Stat_t).Uid
	}
	line, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p
	}
	name, rest, _ := strings.Cut(string(line), ") ")
	f := strings.Fields(rest)
	if len(f) < 20 {
		return p
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
	const tick = int64(time.Second) / 100 // USER_HZ
	p.Ppid, p.Cpu = number(1), uint64((number(11)+number(12))*tick)
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) == nil {
		p.StartedAt = time.Now().UnixNano() - now.Nano() + number(19)*tick
	}
	if args, err := os.ReadFile(dir + "/cmdline"); err == nil && len(args) > 0 {
		p.Command = strings.TrimSpace(strings.ReplaceAll(string(args[:min(len(args), 4096)]), "\x00", " "))
	} else if _, comm, ok := strings.Cut(name, "("); ok {
		p.Command = "[" + comm + "]"
	}
	return p
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

// Stats is backend.Backend.
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
	r.Networks, _ = kit.NetworkStats(c.init.proc.PID())
	return r, nil
}

const sigkill = unix.SIGKILL

// signalAll signals every process of the container.
func (c *container) signalAll(ctx context.Context, sig syscall.Signal) error {
	if sig == sigkill {
		return c.group.Kill(ctx)
	}
	pids, err := c.group.Pids()
	for _, pid := range pids {
		if e := unix.Kill(pid, sig); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("signal process %d of container %s: %w", pid, c.id, e))
		}
	}
	return err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
