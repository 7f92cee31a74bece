package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/platform_linux/cgroup"
	"github.com/caisson-engine/caisson/platform_linux/runtime"
)

// container is one container. What is not guarded by mu does not change once
// the container is in the map and ready.
type container struct {
	id      string
	sandbox *sandbox
	dir     string // below containers/
	group   *cgroup.Group
	seccomp *specs.LinuxSeccomp
	// annotations are the spec's, which say what execs get too.
	annotations map[string]string
	// sharesPIDs says that it has no pid namespace of its own: its processes do
	// not end with the first one.
	sharesPIDs bool
	init       *process

	made     chan struct{} // closed when Create has ended, well or not
	ready    bool          // guarded by Backend.mu: Create has ended well
	deleting chan struct{} // guarded by Backend.mu: closed when a deletion has ended, nil if there is none

	mu     sync.Mutex
	execs  map[string]*process
	paused bool
	ended  bool // no more execs: the first process has ended, or deletion began
}

func (c *container) process(exec string) (*process, error) {
	if exec == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.execs[exec]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no exec %q in container %q: %w", exec, c.id, errdefs.ErrNotFound)
}

// all are the processes of the container, execs in order of their ids.
func (c *container) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := []*process{c.init}
	for _, id := range sortedKeys(c.execs) {
		list = append(list, c.execs[id])
	}
	return list
}

const recordFile = "record"

// Create is backend.Backend. A cancelled context does not interrupt it: what it
// makes is complete or gone when it returns.
func (b *Backend) Create(ctx context.Context, r *backendpb.Container) (_ *backendpb.Status, err error) {
	ctx = context.WithoutCancel(ctx)
	if err := checkID("container", r.GetId()); err != nil {
		return nil, err
	}
	c, err := b.reserve(r)
	if err != nil {
		return nil, err
	}
	defer close(c.made)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.destroy(ctx, c))
			b.forget(c)
		}
	}()
	if err := b.make(ctx, c, r); err != nil {
		return nil, err
	}
	b.mu.Lock()
	c.ready = true
	b.mu.Unlock()
	return &backendpb.Status{Pid: int64(c.init.proc.PID())}, nil
}

// leastPids is the smallest limit on processes: caisson-init has this many
// threads, which count, until it becomes the program.
const leastPids = 6

func decodeSpec(r *backendpb.Container) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if err := json.Unmarshal(r.GetSpec(), spec); err != nil {
		return nil, fmt.Errorf("spec of container %s: %w: %w", r.GetId(), err, errdefs.ErrInvalidArgument)
	}
	if spec.Process == nil {
		return nil, fmt.Errorf("spec of container %s has no process: %w", r.GetId(), errdefs.ErrInvalidArgument)
	}
	if l := spec.Linux; l != nil && l.Resources != nil && l.Resources.Pids != nil && l.Resources.Pids.Limit != nil {
		if n := *l.Resources.Pids.Limit; n > 0 && n < leastPids {
			return nil, fmt.Errorf("a limit of %d processes is too small to start a container in: give at least %d: %w", n, leastPids, errdefs.ErrInvalidArgument)
		}
	}
	return spec, nil
}

// reserve takes the container's id.
func (b *Backend) reserve(r *backendpb.Container) (*container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sandboxes[r.GetSandbox()]
	if s == nil || s.state != open {
		return nil, fmt.Errorf("no sandbox %q: %w", r.GetSandbox(), errdefs.ErrNotFound)
	}
	if b.containers[r.GetId()] != nil {
		return nil, fmt.Errorf("container %q exists: %w", r.GetId(), errdefs.ErrAlreadyExists)
	}
	c, err := b.describeContainer(s, r)
	if err != nil {
		return nil, err
	}
	b.containers[c.id] = c
	return c, nil
}

// describeContainer says where a container's parts are.
func (b *Backend) describeContainer(s *sandbox, r *backendpb.Container) (*container, error) {
	c := &container{
		id: r.GetId(), sandbox: s, dir: filepath.Join(b.cfg.StateDir, "containers", r.GetId()),
		execs: map[string]*process{}, made: make(chan struct{}),
	}
	c.init = newProcess(c, "", r.GetIo())
	var err error
	c.group, err = b.cgroups.Load(path.Join(s.cgroup, c.id))
	return c, err
}

func ownPIDs(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace && n.Path == ""
	})
}

// use takes what is needed later from the spec.
func (c *container) use(b *Backend, spec *specs.Spec) {
	c.sharesPIDs, c.annotations = !ownPIDs(spec), spec.Annotations
	if spec.Linux != nil {
		c.seccomp = b.shared(spec.Linux.Seccomp)
	}
}

// make makes all that a container consists of.
func (b *Backend) make(ctx context.Context, c *container, r *backendpb.Container) error {
	if err := unix.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := kit.WriteRecord(filepath.Join(c.dir, recordFile), r); err != nil {
		return err
	}
	// The kernel makes the group's directories while we read the spec.
	grouped := make(chan error, 1)
	go func() {
		_, _, err := b.cgroups.Create(c.group.Path(), nil)
		grouped <- err
	}()
	p := c.init
	spec, err := decodeSpec(r)
	var ends pipeEnds
	defer func() { ends.close() }()
	if err == nil {
		ends, err = p.openStreams(b, logConfig(r.GetLog()))
	}
	// In any case: what is being made can only then be taken back.
	if err = errors.Join(err, <-grouped); err != nil {
		return err
	}
	c.use(b, spec)
	if spec.Linux != nil {
		warnings, err := c.group.Update(spec.Linux.Resources)
		b.warn("container", c.id, warnings)
		if err != nil {
			return err
		}
	}
	p.terminal(spec.Process)
	o := runtime.CreateOptions{
		Key: p.key(), Spec: spec, Stdin: ends.stdin, Stdout: ends.stdout, Stderr: ends.stderr,
		CgroupProcs: c.group.TaskFiles(), Reaper: r.GetInit(),
	}
	for _, m := range r.GetRootfs() {
		o.Rootfs = append(o.Rootfs, runtime.Mount{Type: m.GetType(), Source: m.GetSource(), Target: m.GetTarget(), Options: m.GetOptions()})
	}
	if c.sandbox.netns != nil && joinsSandboxNet(spec) {
		o.Netns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.sandbox.netns.Fd())
	}
	if o.CgroupV2, err = c.group.V2(); err != nil {
		return err
	}
	if o.CgroupV2 != nil {
		defer o.CgroupV2.Close()
	}
	if p.proc, err = b.runtime.Create(ctx, o); err != nil {
		return err
	}
	if err := p.hold(b, ends); err != nil {
		return err
	}
	return p.connect()
}

// joinsSandboxNet tells whether the spec wants the sandbox's network: an entry
// without a path. No entry is the host's.
func joinsSandboxNet(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && n.Path == ""
	})
}

func logConfig(l *backendpb.Log) *logs.Config {
	if l == nil {
		return nil
	}
	return &logs.Config{Driver: l.GetDriver(), Path: l.GetPath(), Options: l.GetOptions(), Attrs: l.GetAttrs()}
}

// Delete is backend.Backend.
func (b *Backend) Delete(ctx context.Context, ref *backendpb.ProcessRef) error {
	ctx = context.WithoutCancel(ctx)
	b.mu.Lock()
	c := b.containers[ref.GetContainer()]
	b.mu.Unlock()
	if c == nil {
		return nil
	}
	if ref.GetExec() == "" {
		return b.deleteContainer(ctx, c)
	}
	return b.deleteExec(c, ref.GetExec())
}

// deleteContainer deletes once; others wait for it. It waits for Create.
func (b *Backend) deleteContainer(ctx context.Context, c *container) error {
	<-c.made
	b.mu.Lock()
	for c.deleting != nil {
		wait := c.deleting
		b.mu.Unlock()
		<-wait
		b.mu.Lock()
		if b.containers[c.id] != c {
			b.mu.Unlock()
			return nil
		}
	}
	if b.containers[c.id] != c {
		b.mu.Unlock()
		return nil
	}
	c.deleting = make(chan struct{})
	b.mu.Unlock()
	err := b.destroy(ctx, c)
	if err == nil {
		err = b.journal.Forget(&backendpb.ProcessRef{Container: c.id})
	}
	if err == nil {
		b.forget(c)
	}
	b.mu.Lock()
	close(c.deleting)
	c.deleting = nil
	b.mu.Unlock()
	return err
}

func (b *Backend) forget(c *container) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.containers[c.id] == c {
		delete(b.containers, c.id)
	}
}

// destroy takes back all that make made, in reverse. It can be repeated.
func (b *Backend) destroy(ctx context.Context, c *container) error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	if c.init.running() || c.sharesPIDs {
		if err := c.group.Kill(ctx); err != nil {
			return fmt.Errorf("container %s: %w", c.id, err)
		}
	}
	// The first process last: EXITED of the others comes before its own.
	list := c.all()
	slices.Reverse(list)
	for _, p := range list {
		if err := p.destroy(b); err != nil {
			return err
		}
	}
	if err := c.group.Delete(ctx); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := removeDir(c.dir); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}
