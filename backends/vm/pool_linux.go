package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
	"github.com/caisson-engine/caisson/vmshim/host"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// pool keeps machines ready: clones that run, have practised a container's start,
// and belong to nobody yet. A machine taken from it is one of its own only after
// Setup, as any clone; it never had a container of anybody's.
//
// It is filled when a machine is asked for, with machines of the same tenant and
// shape, and empties itself after Options.PoolAge without such a wish: a host that
// runs none keeps none.
type pool struct {
	mu      sync.Mutex
	ready   []*spare // oldest first
	filling map[string]bool
	closed  bool
}

// spare is one machine that is ready.
type spare struct {
	key   string
	m     *machine
	timer *time.Timer
}

// practices is how often a machine starts a container before it is ready. Emulated
// code gets faster up to the third time.
const practices = 3

// refillPause is how long the pool waits before it replaces what was taken.
const refillPause = time.Second

func poolKey(tenant string, shape vmm.Shape) string {
	return fmt.Sprintf("%s\x00%d %d %d", tenant, shape.Memory, shape.CPUs, shape.NICs)
}

// take returns a machine that is ready, nil if there is none, and has the pool
// filled again.
func (b *Backend) take(tenant string, shape vmm.Shape, pl *plan) *machine {
	if b.cfg.Options.Pool == 0 || !b.cfg.Options.Templates {
		return nil
	}
	if b.cfg.Options.ShareTemplates {
		tenant = ""
	}
	key := poolKey(tenant, shape)
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	var found *machine
	for i := 0; i < len(b.pool.ready) && found == nil; i++ {
		s := b.pool.ready[i]
		if s.key != key {
			continue
		}
		b.pool.ready = slices.Delete(b.pool.ready, i, i+1)
		i--
		s.timer.Stop()
		select {
		case <-s.m.done: // it ended while it waited
			go b.discard(s.m)
		default:
			found = s.m
		}
	}
	if !b.pool.filling[key] && !b.pool.closed && pl.spec != nil {
		b.pool.filling[key] = true
		spec := practiceSpec(pl.spec)
		// The one that was asked for comes first.
		time.AfterFunc(refillPause, func() { b.fill(key, tenant, shape, spec) })
	}
	return found
}

func (b *Backend) discard(m *machine) {
	if err := m.destroy(context.Background()); err != nil {
		b.log.Error("a virtual machine cannot be removed", "machine", m.name, "err", err)
	}
}

// fill adds machines until there are enough, or one fails.
func (b *Backend) fill(key, tenant string, shape vmm.Shape, spec []byte) {
	defer func() {
		b.pool.mu.Lock()
		delete(b.pool.filling, key)
		b.pool.mu.Unlock()
	}()
	for {
		b.pool.mu.Lock()
		mine := 0
		for _, s := range b.pool.ready {
			if s.key == key {
				mine++
			}
		}
		enough := mine >= b.cfg.Options.Pool || b.pool.closed
		b.pool.mu.Unlock()
		if enough {
			return
		}
		m, err := b.spare(tenant, shape, spec)
		if err != nil {
			b.log.Warn("no virtual machine can be kept ready", "err", err)
		}
		if m == nil {
			return
		}
		b.keep(key, m)
	}
}

// keep puts a machine into the pool, and the oldest of others out if there are too
// many.
func (b *Backend) keep(key string, m *machine) {
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	if b.pool.closed {
		go b.discard(m)
		return
	}
	s := &spare{key: key, m: m}
	s.timer = time.AfterFunc(b.cfg.Options.PoolAge, func() {
		b.pool.mu.Lock()
		i := slices.Index(b.pool.ready, s)
		if i >= 0 {
			b.pool.ready = slices.Delete(b.pool.ready, i, i+1)
		}
		b.pool.mu.Unlock()
		if i >= 0 {
			b.discard(m)
		}
	})
	b.pool.ready = append(b.pool.ready, s)
	b.log.Debug("ready", "machine", m.name)
	for len(b.pool.ready) > b.cfg.Options.Pool {
		old := b.pool.ready[0]
		b.pool.ready = b.pool.ready[1:]
		old.timer.Stop()
		go b.discard(old.m)
	}
}

// spare makes one; nil if there is no template yet.
func (b *Backend) spare(tenant string, shape vmm.Shape, spec []byte) (_ *machine, err error) {
	ctx := context.Background()
	tmpl, release := b.template(tenant, shape)
	defer release()
	if tmpl == nil {
		return nil, nil
	}
	name := b.serialName("pool")
	m, err := b.start(ctx, order{
		name: name, cgroup: path.Join(b.cfg.CgroupParent, name), shape: shape, template: tmpl, fileSize: b.cfg.Options.Disk,
	})
	if err != nil {
		return nil, err
	}
	if err = m.ctl.Running(); err == nil {
		err = m.practise(ctx, spec)
	}
	if err != nil {
		b.discard(m)
		return nil, m.failed("prepare a virtual machine", err)
	}
	return m, nil
}

// practiceSpec is a container's, without anything of its tenant: another program,
// no environment, only the kernel's filesystems.
func practiceSpec(s *specs.Spec) []byte {
	t := &specs.Spec{Version: s.Version, Root: s.Root, Hostname: "practice", Linux: s.Linux}
	t.Process = &specs.Process{Args: []string{"/bin/caisson-init"}, Env: []string{"PATH=/bin"}, Cwd: "/"}
	if s.Process != nil {
		t.Process.Capabilities, t.Process.NoNewPrivileges = s.Process.Capabilities, s.Process.NoNewPrivileges
	}
	for _, m := range s.Mounts {
		if !isBind(m) {
			t.Mounts = append(t.Mounts, m)
		}
	}
	b, err := json.Marshal(t)
	if err != nil {
		return nil
	}
	return b
}

// practise runs a container of nobody's a few times.
func (m *machine) practise(ctx context.Context, spec []byte) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	const id = guestpb.WarmContainer
	if _, err := m.agent.Warm(ctx, &guestpb.Empty{}); err != nil {
		return native(err)
	}
	if err := m.remote.Open(ctx, &backendpb.Sandbox{Id: id}); err != nil {
		return err
	}
	for _, stream := range []string{"stdout", "stderr"} {
		if err := makeFIFO(path.Join(m.dir, outputDir, host.FIFO(id, "", stream)), m.uid); err != nil {
			return err
		}
	}
	events, err := m.remote.Events(ctx, 0)
	if err != nil {
		return err
	}
	c := &backendpb.Container{Id: id, Sandbox: id, Spec: spec, Rootfs: guestRoot(id), Io: &backendpb.IO{}}
	ref := &backendpb.ProcessRef{Container: id}
	for range practices {
		if _, err := m.remote.Create(ctx, proto.CloneOf(c)); err != nil {
			return err
		}
		if _, err := m.remote.Start(ctx, ref); err != nil {
			return err
		}
		for {
			e, err := events.Recv()
			if err != nil {
				return err
			}
			if e.GetType() == backendpb.Event_EXITED {
				break
			}
		}
		if err := m.remote.Delete(ctx, ref); err != nil {
			return err
		}
	}
	_, err = m.agent.Warm(ctx, &guestpb.Empty{})
	return err
}

// closePool ends what is ready.
func (b *Backend) closePool() {
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	b.pool.closed = true
	for _, s := range b.pool.ready {
		s.timer.Stop()
	}
	b.pool.ready = nil // endTransient ends them
}
