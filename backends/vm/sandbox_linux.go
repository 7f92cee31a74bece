package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// sandbox is a network and, once a container is created in it, a machine.
type sandbox struct {
	id     string
	rec    *backendpb.Sandbox
	netns  *os.File // nil: no network; held by the machine's shim too
	net    *network // what the guest shall have of it
	cgroup string
	limits *specs.LinuxResources // of the whole sandbox; nil if none
	state  sandboxState          // guarded by Backend.mu

	making  sync.Mutex // one machine
	machine *machine   // guarded by Backend.mu
}

type sandboxState int

const (
	opening sandboxState = iota
	open                 // containers can be created in it
	closing
)

// Open is backend.Backend. The namespace is only looked at: the machine is made
// with the first container.
func (b *Backend) Open(_ context.Context, r *backendpb.Sandbox) (err error) {
	if err := checkID("sandbox", r.GetId()); err != nil {
		return err
	}
	if r.GetLevel() != "" && r.GetLevel() != LevelVM {
		return fmt.Errorf("the vm backend offers level %q, not %q: %w", LevelVM, r.GetLevel(), errdefs.ErrInvalidArgument)
	}
	if err := b.host.usable(); err != nil {
		return err
	}
	s, err := b.describe(r)
	if err != nil {
		return err
	}
	b.mu.Lock()
	if b.sandboxes[s.id] != nil {
		b.mu.Unlock()
		return fmt.Errorf("sandbox %q exists: %w", s.id, errdefs.ErrAlreadyExists)
	}
	b.sandboxes[s.id] = s
	b.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, b.closeSandbox(context.Background(), s))
			return
		}
		b.mu.Lock()
		s.state = open
		b.mu.Unlock()
	}()
	if err := writeRecord(b.sandboxRecord(s.id), r); err != nil {
		return err
	}
	if r.GetNetns() != "" {
		if s.netns, err = os.Open(r.GetNetns()); err != nil {
			return fmt.Errorf("network namespace of sandbox %s: %w (%w)", s.id, err, errdefs.ErrInvalidArgument)
		}
		if s.net, err = readNetwork(s.netns); err != nil {
			return fmt.Errorf("network of sandbox %s: %w", s.id, err)
		}
	}
	return nil
}

// describe checks a sandbox and says where it will be.
func (b *Backend) describe(r *backendpb.Sandbox) (*sandbox, error) {
	parent := r.GetCgroupParent()
	if parent == "" {
		parent = b.cfg.CgroupParent
	}
	if !path.IsAbs(parent) {
		parent = "/" + parent
	}
	s := &sandbox{id: r.GetId(), rec: r, cgroup: path.Join(path.Clean(parent), r.GetId())}
	if len(r.GetResources()) > 0 {
		s.limits = &specs.LinuxResources{}
		if err := json.Unmarshal(r.GetResources(), s.limits); err != nil {
			return nil, fmt.Errorf("resources of sandbox %s: %w: %w", s.id, err, errdefs.ErrInvalidArgument)
		}
	}
	return s, nil
}

func (b *Backend) sandboxRecord(id string) string {
	return filepath.Join(b.cfg.StateDir, "sandboxes", id)
}

// Close is backend.Backend.
func (b *Backend) Close(ctx context.Context, id string) error {
	b.mu.Lock()
	s := b.sandboxes[id]
	b.mu.Unlock()
	if s == nil {
		return nil
	}
	return b.closeSandbox(context.WithoutCancel(ctx), s)
}

func (b *Backend) closeSandbox(ctx context.Context, s *sandbox) error {
	b.mu.Lock()
	s.state = closing
	var inside []*container
	for _, c := range b.containers {
		if c.sandbox == s {
			inside = append(inside, c)
		}
	}
	brief := s.machine
	b.mu.Unlock()
	began := time.Now()
	defer func() { b.log.Debug("closed", "sandbox", s.id, "after", time.Since(began)) }()
	if brief != nil && brief.brief {
		// Nothing in it is worth an orderly end.
		if err := brief.destroy(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for _, c := range inside {
		errs = append(errs, b.deleteContainer(ctx, c))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.making.Lock()
	defer s.making.Unlock()
	b.mu.Lock()
	m := s.machine
	b.mu.Unlock()
	if m != nil {
		if err := m.close(ctx); err != nil {
			return err
		}
	}
	if err := os.Remove(b.sandboxRecord(s.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sandbox %s: %w", s.id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sandboxes[s.id] == s {
		delete(b.sandboxes, s.id)
		if s.netns != nil {
			_ = s.netns.Close()
		}
	}
	return nil
}
