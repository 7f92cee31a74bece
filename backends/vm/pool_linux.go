package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
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

// refillPause is how long the pool waits before it replaces what was taken.
const refillPause = time.Second

func poolKey(tenant string, shape vmm.Shape) string {
	return fmt.Sprintf("%s\x00%d %d %d", tenant, shape.Memory, shape.CPUs, shape.NICs)
}

// take returns a machine that is ready, nil if there is none, and has the pool
// filled again.
func (b *Backend) take(tenant string, shape vmm.Shape) *machine {
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
	if !b.pool.filling[key] && !b.pool.closed {
		b.pool.filling[key] = true
		// The one that was asked for comes first.
		time.AfterFunc(refillPause, func() { b.fill(key, tenant, shape) })
	}
	return found
}

func (b *Backend) discard(m *machine) {
	if err := m.destroy(context.Background()); err != nil {
		b.log.Error("a virtual machine cannot be removed", "machine", m.name, "err", err)
	}
}

// fill adds machines until there are enough, or one fails.
func (b *Backend) fill(key, tenant string, shape vmm.Shape) {
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
		m, err := b.spare(tenant, shape)
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
func (b *Backend) spare(tenant string, shape vmm.Shape) (_ *machine, err error) {
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
		err = b.practise(ctx, m)
	}
	if err != nil {
		b.discard(m)
		return nil, m.failed("prepare a virtual machine", err)
	}
	return m, nil
}

// practise has a machine practise with disks that are nobody's and leave its slots
// free again.
func (b *Backend) practise(ctx context.Context, m *machine) error {
	dir := filepath.Join(b.cfg.ImageDir, "practice")
	for _, name := range []string{"bin", "dev", "etc", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	d, err := b.openDisks(ctx, m.dir, []*backendpb.Mount{{Type: "bind", Source: dir}})
	if err != nil {
		return err
	}
	defer d.close()
	defer os.Remove(filepath.Join(m.dir, diskFile))
	if err := d.insert(m); err != nil {
		return err
	}
	if _, err := m.agent.Warm(ctx, &guestpb.WarmRequest{Image: "vda", Scratch: "vdb"}); err != nil {
		return native(err)
	}
	return errors.Join(m.ctl.ClearDisk(slotImage), m.ctl.ClearDisk(slotScratch))
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
