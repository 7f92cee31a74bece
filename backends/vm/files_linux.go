package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

// Files of a container are reached through its guest. If it has none, a machine is
// made that runs nothing: what a guest wrote on a disk is a guest's to read.

// visit is access to a container's files.
type visit struct {
	backend.Files
	target *backendpb.FilesTarget // in the guest's words
	leave  func()
}

// visit finds a container's machine, or makes one that lasts until leave.
func (b *Backend) visit(ctx context.Context, t *backendpb.FilesTarget) (*visit, error) {
	if c := b.owner(t); c != nil {
		select {
		case <-c.machine.done:
		default:
			return &visit{c.machine.remote, translate(t, c.id, c.shares), func() {}}, nil
		}
	}
	return b.visitor(ctx, t)
}

// owner is the container whose files are meant, if it has a machine that stays. Without an id
// what is meant is the filesystem below what is mounted on it; the state directory
// tells whose.
func (b *Backend) owner(t *backendpb.FilesTarget) *container {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.containers {
		if c.ready && c.machine != nil && c.sandbox.state != closing && (c.id == t.GetContainer() || t.GetContainer() == "" && t.GetStateDir() != "" && c.stateDir == t.GetStateDir()) {
			return c
		}
	}
	return nil
}

// visitor makes a machine for the files of a container that has none.
func (b *Backend) visitor(ctx context.Context, t *backendpb.FilesTarget) (_ *visit, err error) {
	if err := b.host.usable(); err != nil {
		return nil, err
	}
	id := cmp.Or(t.GetContainer(), "files")
	s := &sandbox{id: b.serialName("files"), rec: &backendpb.Sandbox{Hostname: "files"}}
	s.cgroup = b.cfg.CgroupParent + "/" + s.id
	ctx = context.WithoutCancel(ctx)
	pl := &plan{largest: b.largestDisk(t.GetStateDir()), prepare: &guestpb.PrepareRequest{Container: id, Image: "vda", Scratch: "vdb"}}
	pl.shares = shares{container: id, next: b.nextShare}
	for _, mt := range t.GetMounts() {
		if _, err := pl.shares.add(mt.GetSource(), slices.Contains(mt.GetOptions(), "ro"), true); err != nil {
			return nil, fmt.Errorf("mount %s at %s: %w: %w", mt.GetSource(), mt.GetTarget(), err, errdefs.ErrInvalidArgument)
		}
	}
	pl.prepare.Shares = pl.shares.prepare()
	d, err := b.openDisks(ctx, t.GetStateDir(), t.GetRootfs())
	if err != nil {
		return nil, err
	}
	defer d.close()
	m, err := b.newMachine(ctx, s, pl)
	if err != nil {
		return nil, err
	}
	leave := sync.OnceFunc(func() {
		if err := m.close(context.Background()); err != nil {
			b.log.Error("a virtual machine cannot be removed", "machine", m.name, "err", err)
		}
	})
	if err := d.insert(m); err != nil {
		leave()
		return nil, m.failed("disks of container "+id, err)
	}
	if err := m.serve(pl.shares.list); err != nil {
		leave()
		return nil, err
	}
	if _, err := m.agent.Prepare(ctx, pl.prepare); err != nil {
		leave()
		return nil, native(err)
	}
	return &visit{m.remote, translate(t, id, pl.shares.list), leave}, nil
}

// translate is a target in the words of the guest that has the container's disks and
// shares.
func translate(t *backendpb.FilesTarget, id string, shares []shared) *backendpb.FilesTarget {
	t = proto.CloneOf(t)
	t.Level, t.Rootfs, t.Mounts, t.StateDir = "", guestRoot(id), inside(t.GetMounts(), id, shares), ""
	return t
}

// Usage is backend.Measurer. A guest knows what was written; where none answers it
// is what the disk takes here, which is a little more.
func (b *Backend) Usage(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.UsageReply, error) {
	if c := b.owner(t); c != nil {
		select {
		case <-c.machine.done:
		default:
			if r, err := c.machine.agent.Usage(ctx, &guestpb.UsageRequest{Container: c.id}); err == nil {
				return &backendpb.UsageReply{Bytes: r.GetBytes()}, nil
			}
		}
	}
	var st unix.Stat_t
	err := unix.Stat(filepath.Join(t.GetStateDir(), diskFile), &st)
	if errors.Is(err, unix.ENOENT) {
		return &backendpb.UsageReply{}, nil
	} else if err != nil {
		return nil, fmt.Errorf("writable disk of container %s: %w", t.GetContainer(), err)
	}
	return &backendpb.UsageReply{Bytes: st.Blocks * 512}, nil
}

// StatPath is backend.Files.
func (b *Backend) StatPath(ctx context.Context, r *backendpb.PathRequest) (*backendpb.PathStat, error) {
	v, err := b.visit(ctx, r.GetTarget())
	if err != nil {
		return nil, err
	}
	defer v.leave()
	return v.StatPath(ctx, &backendpb.PathRequest{Target: v.target, Path: r.GetPath()})
}

// ReadArchive is backend.Files.
func (b *Backend) ReadArchive(ctx context.Context, r *backendpb.PathRequest) (io.ReadCloser, error) {
	return b.archive(ctx, r.GetTarget(), func(v *visit) (io.ReadCloser, error) {
		return v.ReadArchive(ctx, &backendpb.PathRequest{Target: v.target, Path: r.GetPath()})
	})
}

// ReadDiff is backend.Files.
func (b *Backend) ReadDiff(ctx context.Context, t *backendpb.FilesTarget) (io.ReadCloser, error) {
	return b.archive(ctx, t, func(v *visit) (io.ReadCloser, error) { return v.ReadDiff(ctx, v.target) })
}

func (b *Backend) archive(ctx context.Context, t *backendpb.FilesTarget, open func(*visit) (io.ReadCloser, error)) (io.ReadCloser, error) {
	v, err := b.visit(ctx, t)
	if err != nil {
		return nil, err
	}
	r, err := open(v)
	if err != nil {
		v.leave()
		return nil, err
	}
	return &visited{r, v.leave}, nil
}

// visited is an archive that ends its visit.
type visited struct {
	io.ReadCloser
	leave func()
}

func (a *visited) Close() error {
	defer a.leave()
	return a.ReadCloser.Close()
}

// WriteArchive is backend.Files.
func (b *Backend) WriteArchive(ctx context.Context, t *backendpb.WriteTarget, tar io.Reader) error {
	v, err := b.visit(ctx, t.GetTarget())
	if err != nil {
		return err
	}
	defer v.leave()
	inner := proto.CloneOf(t)
	inner.Target = v.target
	return v.WriteArchive(ctx, inner, tar)
}

// Changes is backend.Files.
func (b *Backend) Changes(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.ChangesReply, error) {
	v, err := b.visit(ctx, t)
	if err != nil {
		return nil, err
	}
	defer v.leave()
	return v.Changes(ctx, v.target)
}
