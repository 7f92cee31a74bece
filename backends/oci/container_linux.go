package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/backends/oci/monitor"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/platform_linux/cgroup"
)

// container is one container. What is not guarded by mu does not change once
// the container is in the map and ready.
type container struct {
	id      string
	sandbox *sandbox
	dir     string // below containers/
	group   *cgroup.Group
	// annotations are the spec's, which say what execs get too.
	annotations map[string]string
	// sharesPIDs says that it has no pid namespace of its own: its processes do
	// not end with the first one.
	sharesPIDs bool
	program    string // of the first process, as the spec names it
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

// Names of files of a container.
const (
	recordFile  = "record"
	startedFile = "started"
	logFile     = "runtime.log"
)

func (c *container) bundle() string { return filepath.Join(c.dir, "bundle") }
func (c *container) rootfs() string { return filepath.Join(c.dir, "bundle", "rootfs") }
func (c *container) log() string    { return filepath.Join(c.dir, logFile) }

// name is the container's id for the runtime. Its last character is in no id of
// ours, so that none is the beginning of another.
func (b *Backend) name(c *container) string {
	if b.dialect.abbreviates {
		return c.id + "+"
	}
	return c.id
}

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
	if err := b.make(c, r); err != nil {
		return nil, err
	}
	b.mu.Lock()
	c.ready = true
	b.mu.Unlock()
	return &backendpb.Status{Pid: b.shown(c.init)}, nil
}

func decodeSpec(r *backendpb.Container) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if err := json.Unmarshal(r.GetSpec(), spec); err != nil {
		return nil, fmt.Errorf("spec of container %s: %w: %w", r.GetId(), err, errdefs.ErrInvalidArgument)
	}
	if spec.Process == nil || len(spec.Process.Args) == 0 || spec.Linux == nil {
		return nil, fmt.Errorf("spec of container %s has no process or nothing for Linux: %w", r.GetId(), errdefs.ErrInvalidArgument)
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

// use takes what is needed later from the spec.
func (c *container) use(spec *specs.Spec) {
	c.sharesPIDs, c.annotations, c.program = !has(spec, specs.PIDNamespace, ""), spec.Annotations, spec.Process.Args[0]
}

// make makes all that a container consists of.
func (b *Backend) make(c *container, r *backendpb.Container) error {
	if err := unix.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := kit.WriteRecord(filepath.Join(c.dir, recordFile), r); err != nil {
		return err
	}
	spec, err := decodeSpec(r)
	if err != nil {
		return err
	}
	if err := b.refuse(spec, r); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	c.use(spec)
	_, warnings, err := b.cgroups.Create(c.group.Path(), spec.Linux.Resources)
	b.warn("container", c.id, warnings)
	if err != nil {
		return err
	}
	if err := c.mount(r.GetRootfs()); err != nil {
		return err
	}
	if err := b.configure(c, spec); err != nil {
		return err
	}
	p := c.init
	ends, err := p.openStreams(b, logConfig(r.GetLog()))
	defer ends.close()
	if err != nil {
		return err
	}
	if err := p.hold(b, ends); err != nil {
		return err
	}
	return b.callCreate(c, ends)
}

// callCreate has the runtime make the container. A program that cannot be executed
// is what Start will tell.
func (b *Backend) callCreate(c *container, ends pipeEnds) error {
	p := c.init
	pids := filepath.Join(c.dir, "pid")
	_ = os.Remove(c.log())
	group, err := b.joinUnified(c)
	if err != nil {
		return err
	}
	if group != nil {
		defer group.Close()
	}
	res, err := b.monitor.Run(p.key(), monitor.Command{
		Argv: b.argv(c.log(), "create", "--bundle", c.bundle(), "--pid-file", pids), Last: []string{b.name(c)},
		Env: environment(), PIDFile: pids,
		Console: p.io.GetTerminal(), Rows: p.io.GetRows(), Cols: p.io.GetCols(),
	}, ends.stdio(p.io.GetTerminal()), group)
	if err != nil {
		return fmt.Errorf("create container %s: %w", c.id, err)
	}
	if res.Status != 0 {
		f := b.failed(c.log(), "create", "")
		if not := f.notExecuted(c.program); not != nil {
			p.refused = not
			return nil
		}
		return fmt.Errorf("container %s: %w", c.id, f)
	}
	p.pid, p.pidfd, p.console = res.PID, res.Pidfd, res.Console
	return p.connect()
}

// joinUnified is the version 2 group to start the runtime in on hosts that have
// both versions: there runtimes join the version 1 groups only, and what is in no
// group of ours is killed with none.
func (b *Backend) joinUnified(c *container) (*os.File, error) {
	if !b.cgroups.Hybrid() {
		return nil, nil
	}
	return c.group.V2()
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
	if c.init.running() {
		c.init.kill()
	}
	// All of it at once: the runtime may have left helpers.
	if err := c.group.Kill(ctx); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	// The first process last: EXITED of the others comes before its own.
	list := c.all()
	for i := len(list) - 1; i >= 0; i-- {
		if err := list[i].destroy(ctx, b); err != nil {
			return err
		}
	}
	if err := b.callDelete(ctx, c); err != nil {
		return err
	}
	if err := c.group.Delete(ctx); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := c.unmount(); err != nil {
		return err
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

// callDelete has the runtime forget the container. One that it does not know, or
// does not want to delete although nothing of it lives, must not stay for ever.
func (b *Backend) callDelete(ctx context.Context, c *container) error {
	if _, err := os.Stat(c.bundle()); err != nil {
		return nil //nolint:nilerr // it never came so far
	}
	_, err := b.command(ctx, c.log(), "delete", "--force", b.name(c))
	if _, failed := errors.AsType[*failure](err); failed || errdefs.IsNotFound(err) {
		b.log.Debug("the runtime does not delete", "container", c.id, "err", err)
		return nil
	}
	return err
}
