package vm

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
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// container is one container. What is not guarded by mu does not change once the
// container is in the map and ready.
type container struct {
	id       string
	sandbox  *sandbox
	machine  *machine
	dir      string // below containers/
	vmDir    string // its machine's
	stateDir string // Container.state_dir
	shares   []shared
	init     *process

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

// Create is backend.Backend. A cancelled context does not interrupt it.
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
	if err := b.make(ctx, c, r); err != nil {
		err = errors.Join(err, b.destroy(ctx, c), b.journal.Forget(&backendpb.ProcessRef{Container: c.id}))
		b.forget(c)
		return nil, err
	}
	b.mu.Lock()
	c.ready = true
	b.mu.Unlock()
	return &backendpb.Status{}, nil
}

// reserve takes a container's id.
func (b *Backend) reserve(r *backendpb.Container) (*container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sandboxes[r.GetSandbox()]
	switch {
	case s == nil || s.state == opening:
		return nil, fmt.Errorf("no sandbox %q: %w", r.GetSandbox(), errdefs.ErrNotFound)
	case s.state == closing:
		return nil, fmt.Errorf("sandbox %q is being closed: %w", s.id, errdefs.ErrFailedPrecondition)
	case b.containers[r.GetId()] != nil:
		return nil, fmt.Errorf("container %q exists: %w", r.GetId(), errdefs.ErrAlreadyExists)
	}
	for _, other := range b.containers {
		if other.sandbox == s {
			return nil, fmt.Errorf("sandbox %q has a container: a virtual machine holds one for now: %w", s.id, errdefs.ErrNotImplemented)
		}
	}
	c := b.describeContainer(s, r)
	b.containers[c.id] = c
	return c, nil
}

// describeContainer says where a container's parts are.
func (b *Backend) describeContainer(s *sandbox, r *backendpb.Container) *container {
	c := &container{
		id: r.GetId(), sandbox: s, dir: filepath.Join(b.cfg.StateDir, "containers", r.GetId()),
		vmDir: filepath.Join(b.cfg.StateDir, "vms", s.id), stateDir: r.GetStateDir(),
		execs: map[string]*process{}, made: make(chan struct{}),
	}
	c.init = newProcess(c, "", r.GetIo())
	return c
}

// make makes all that a container consists of. Machine and disks are made at the
// same time.
func (b *Backend) make(ctx context.Context, c *container, r *backendpb.Container) error {
	if err := unix.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := writeRecord(filepath.Join(c.dir, recordFile), r); err != nil {
		return err
	}
	began := time.Now()
	lap := func(what string) { b.log.Debug("create", "container", c.id, "done", what, "after", time.Since(began)) }
	pl, err := newPlan(r, c.sandbox.netns == nil && c.sandbox.rec.GetNetns() != "", b.nextShare)
	if err != nil {
		return err
	}
	pl.largest = b.largestDisk(r.GetStateDir())
	if err := c.keepShares(pl.shares.list); err != nil {
		return err
	}
	opened := make(chan error, 1)
	var ds *disks
	go func() {
		var err error
		ds, err = b.openDisks(ctx, r.GetStateDir(), r.GetRootfs())
		opened <- err
	}()
	m, err := b.machineFor(ctx, c.sandbox, pl)
	c.machine = m
	if m != nil {
		c.vmDir = m.dir
	}
	if err = errors.Join(err, <-opened); err != nil {
		ds.close()
		return err
	}
	defer ds.close()
	lap("machine")
	if err := ds.insert(m); err != nil {
		return m.failed("disks of container "+c.id, err)
	}
	lap("disks")
	if err := m.serve(pl.shares.list); err != nil {
		return err
	}
	pl.prepare.Shares = pl.shares.prepare()
	lap("shares")
	if _, err := m.agent.Prepare(ctx, pl.prepare); err != nil {
		return fmt.Errorf("container %s: %w", c.id, native(err))
	}
	lap("mounts")
	err = b.makeInside(ctx, c, r, pl)
	lap("container")
	return err
}

// makeInside makes the container in its machine.
func (b *Backend) makeInside(ctx context.Context, c *container, r *backendpb.Container, pl *plan) error {
	m, p := c.machine, c.init
	p.terminal(pl.spec.Process)
	blob, err := json.Marshal(pl.spec)
	if err != nil {
		return err
	}
	if err := p.openOutput(b, logConfig(r.GetLog()), false); err != nil {
		return err
	}
	if err := m.remote.Open(ctx, &backendpb.Sandbox{Id: r.GetSandbox(), Hostname: c.sandbox.rec.GetHostname()}); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	inner := proto.CloneOf(r)
	inner.Spec, inner.Rootfs, inner.Log, inner.StateDir = blob, guestRoot(c.id), nil, ""
	if _, err := m.remote.Create(ctx, inner); err != nil {
		return err
	}
	p.mu.Lock()
	p.inside = true
	p.mu.Unlock()
	p.out.Run()
	return nil
}

func logConfig(l *backendpb.Log) *logs.Config {
	if l == nil {
		return nil
	}
	return &logs.Config{Driver: l.GetDriver(), Path: l.GetPath(), Options: l.GetOptions(), Attrs: l.GetAttrs()}
}

// machineFor is a sandbox's machine, made if there is none.
func (b *Backend) machineFor(ctx context.Context, s *sandbox, pl *plan) (*machine, error) {
	s.making.Lock()
	defer s.making.Unlock()
	b.mu.Lock()
	m := s.machine
	b.mu.Unlock()
	if m != nil {
		select {
		case <-m.done:
			return nil, fmt.Errorf("the virtual machine of sandbox %s has ended: %w", s.id, errdefs.ErrFailedPrecondition)
		default:
			return nil, fmt.Errorf("the virtual machine of sandbox %s had a container before: %w", s.id, errdefs.ErrNotImplemented)
		}
	}
	m, err := b.newMachine(ctx, s, pl)
	if err != nil {
		return nil, err
	}
	m.brief = s.rec.GetAnnotations()[annotationBrief] == "true" && !pl.shares.writable()
	b.mu.Lock()
	s.machine = m
	b.mu.Unlock()
	go b.watch(s, m)
	return m, nil
}

// newMachine makes a sandbox its machine, and makes it one of its own.
func (b *Backend) newMachine(ctx context.Context, s *sandbox, pl *plan) (_ *machine, err error) {
	if s.rec.GetNetns() != "" && s.netns == nil {
		return nil, fmt.Errorf("the network of sandbox %s was lost with an earlier backend: %w", s.id, errdefs.ErrFailedPrecondition)
	}
	began := time.Now()
	lap := func(what string) { b.log.Debug("machine", "sandbox", s.id, "done", what, "after", time.Since(began)) }
	shape, err := b.host.shape(pl.memory, pl.cpus)
	if err != nil {
		return nil, err
	}
	if s.net != nil {
		shape.NICs = max(shape.NICs, len(s.net.links))
	}
	m, err := b.machineOf(ctx, s, pl, shape)
	if err != nil {
		return nil, err
	}
	b.log.Debug("machine", "sandbox", s.id, "clone", m.clone, "pooled", m.runs)
	lap("launched")
	defer func() {
		if err != nil {
			err = errors.Join(err, m.destroy(ctx))
		}
	}()
	if err := m.hold(pl.host); err != nil {
		return nil, fmt.Errorf("limits of a virtual machine: %w", err)
	}
	if !m.runs {
		if err := m.ctl.Running(); err != nil {
			return nil, m.failed("start a virtual machine", err)
		}
	}
	lap("running")
	bootID, err := newUUID()
	if err != nil {
		return nil, err
	}
	// Only now: the jail makes the taps. The guest is told of its network while it
	// comes to be.
	joined := make(chan error, 1)
	go func() { joined <- m.join(ctx, s) }()
	_, err = m.agent.Setup(ctx, s.setup(bootID))
	if err != nil {
		err = m.failed("set a virtual machine up", native(err))
	}
	if e := <-joined; e != nil {
		err = errors.Join(err, fmt.Errorf("network of sandbox %s: %w", s.id, e))
	}
	lap("set up")
	return m, err
}

// machineOf takes a machine from the pool, or starts one.
func (b *Backend) machineOf(ctx context.Context, s *sandbox, pl *plan, shape vmm.Shape) (*machine, error) {
	tenant := s.rec.GetAnnotations()[annotationTenant]
	// What is ready has a place in the tree of cgroups and room for disks of the
	// usual size.
	if path.Dir(s.cgroup) == path.Clean("/"+b.cfg.CgroupParent) && s.limits == nil && pl.largest <= b.cfg.Options.Disk {
		if m := b.take(tenant, shape); m != nil {
			if err := m.give(s); err != nil {
				return nil, errors.Join(err, m.destroy(ctx))
			}
			return m, nil
		}
	}
	tmpl, release := b.template(tenant, shape)
	defer release()
	return b.start(ctx, order{
		name: s.id, cgroup: s.cgroup, limits: s.limits, shape: shape, netns: s.netns, template: tmpl, fileSize: pl.largest,
	})
}

// annotationTenant says whose a sandbox is: templates are not shared between
// tenants.
const annotationTenant = "caisson.tenant"

// annotationBrief is "true" for a sandbox whose container goes with its program's
// end: its disk need not be written back.
const annotationBrief = "caisson.brief"

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
	return b.deleteExec(ctx, c, ref.GetExec())
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

// destroy takes back all that make made. It can be repeated. The machine is the
// sandbox's.
func (b *Backend) destroy(ctx context.Context, c *container) error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	list := c.all()
	slices.Reverse(list)
	if m := c.machine; m != nil {
		if err := m.delete(ctx, &backendpb.ProcessRef{Container: c.id}); err != nil {
			return fmt.Errorf("container %s: %w", c.id, err)
		}
	}
	for _, p := range list {
		p.destroy()
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

// delete deletes a process in its machine, or the machine if it does not answer:
// whoever asks for the deletion wants the process gone.
func (m *machine) delete(ctx context.Context, ref *backendpb.ProcessRef) error {
	select {
	case <-m.done:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if err := m.remote.Delete(ctx, ref); err != nil {
		m.b.log.Warn("a virtual machine is killed, since it does not delete", "machine", m.name, "process", ref, "err", err)
		m.kill()
	}
	return nil
}
