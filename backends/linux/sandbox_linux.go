package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// sandbox is a network namespace and a place in the tree of control groups.
type sandbox struct {
	id    string
	netns *os.File // nil: the host's
	// cgroup is the group above its containers'; ours if the sandbox has limits.
	cgroup string
	limits bool
	state  sandboxState // guarded by Backend.mu
}

type sandboxState int

const (
	opening sandboxState = iota
	open                 // containers can be created in it
	closing
)

// key is the name under which the keeper holds the sandbox's files; a container
// cannot have such a one.
func (s *sandbox) key() string { return "sandbox:" + s.id }

const netnsFile = "netns"

// Open is backend.Backend.
func (b *Backend) Open(_ context.Context, r *backendpb.Sandbox) (err error) {
	if err := checkID("sandbox", r.GetId()); err != nil {
		return err
	}
	if r.GetLevel() != "" && r.GetLevel() != LevelProcess {
		return fmt.Errorf("the linux backend offers level %q, not %q: %w", LevelProcess, r.GetLevel(), errdefs.ErrInvalidArgument)
	}
	s, limits, err := b.describe(r)
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
	if err := kit.WriteRecord(b.sandboxRecord(s.id), r); err != nil {
		return err
	}
	if s.limits {
		_, warnings, err := b.cgroups.Create(s.cgroup, limits)
		b.warn("sandbox", s.id, warnings)
		if err != nil {
			return err
		}
	}
	if r.GetNetns() != "" {
		f, err := os.Open(r.GetNetns())
		if err != nil {
			return fmt.Errorf("network namespace of sandbox %s: %w (%w)", s.id, err, errdefs.ErrInvalidArgument)
		}
		s.netns = f
		if err := b.runtime.Hold(s.key(), netnsFile, f); err != nil {
			return err
		}
	}
	return nil
}

// describe checks a sandbox and says where it will be.
func (b *Backend) describe(r *backendpb.Sandbox) (*sandbox, *specs.LinuxResources, error) {
	parent := r.GetCgroupParent()
	if parent == "" {
		parent = b.cfg.CgroupParent
	}
	if !path.IsAbs(parent) {
		parent = "/" + parent
	}
	s := &sandbox{id: r.GetId(), cgroup: path.Clean(parent)}
	if len(r.GetResources()) == 0 {
		return s, nil, nil
	}
	limits := &specs.LinuxResources{}
	if err := json.Unmarshal(r.GetResources(), limits); err != nil {
		return nil, nil, fmt.Errorf("resources of sandbox %s: %w: %w", s.id, err, errdefs.ErrInvalidArgument)
	}
	s.cgroup, s.limits = path.Join(s.cgroup, s.id), true
	return s, limits, nil
}

func (b *Backend) sandboxRecord(id string) string {
	return filepath.Join(b.cfg.StateDir, "sandboxes", id)
}

func (b *Backend) warn(what, id string, warnings []string) {
	for _, w := range warnings {
		b.log.Warn(w, what, id)
	}
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
	b.mu.Unlock()
	var errs []error
	for _, c := range inside {
		errs = append(errs, b.deleteContainer(ctx, c))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if s.netns != nil {
		if err := b.runtime.Drop(s.key()); err != nil {
			return err
		}
	}
	if s.limits {
		g, err := b.cgroups.Load(s.cgroup)
		if err == nil {
			err = g.Delete(ctx)
		}
		if err != nil {
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
