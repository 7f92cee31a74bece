package linux

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/platform_linux/rootfs"
)

// root opens a container's filesystem, through its process if it has one.
func (b *Backend) root(t *backendpb.FilesTarget, write bool) (*rootfs.Root, error) {
	if c, err := b.container(t.GetContainer()); err == nil {
		c.init.mu.Lock()
		alive := c.init.proc != nil && c.init.phase != exited && c.init.phase != failed
		c.init.mu.Unlock()
		if alive {
			r, err := rootfs.OpenLive(c.init.proc.PID())
			select {
			case <-c.init.proc.Done():
				// The number may be another's by now.
				if err == nil {
					_ = r.Close()
				}
			default:
				return r, err
			}
		}
	}
	return rootfs.OpenDetached(mounts(t.GetRootfs()), mounts(t.GetMounts()), write)
}

func mounts(list []*backendpb.Mount) []rootfs.Mount {
	out := make([]rootfs.Mount, 0, len(list))
	for _, m := range list {
		out = append(out, rootfs.Mount{Type: m.GetType(), Source: m.GetSource(), Target: m.GetTarget(), Options: m.GetOptions()})
	}
	return out
}

// StatPath is backend.Files.
func (b *Backend) StatPath(_ context.Context, r *backendpb.PathRequest) (*backendpb.PathStat, error) {
	root, err := b.root(r.GetTarget(), false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	s, err := root.Stat(r.GetPath())
	if err != nil {
		return nil, err
	}
	return &backendpb.PathStat{Name: s.Name, Size: s.Size, Mode: uint32(s.Mode), Mtime: s.Mtime.UnixNano(), LinkTarget: s.LinkTarget}, nil
}

// ReadArchive is backend.Files.
func (b *Backend) ReadArchive(_ context.Context, r *backendpb.PathRequest) (io.ReadCloser, error) {
	root, err := b.root(r.GetTarget(), false)
	if err != nil {
		return nil, err
	}
	archive, err := root.ReadArchive(r.GetPath())
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &rootArchive{archive, root}, nil
}

// rootArchive closes the root after the archive.
type rootArchive struct {
	io.ReadCloser
	root *rootfs.Root
}

func (a *rootArchive) Close() error { return errors.Join(a.ReadCloser.Close(), a.root.Close()) }

// WriteArchive is backend.Files.
func (b *Backend) WriteArchive(_ context.Context, t *backendpb.WriteTarget, tar io.Reader) error {
	root, err := b.root(t.GetTarget(), true)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	// Devices made so can be opened only as the container's device rules allow.
	o := rootfs.WriteOptions{NoOverwriteDirNonDir: t.GetNoOverwriteDirNonDir(), Devices: true}
	if t.GetCopyUidGid() {
		o.Chown = b.user(t.GetTarget().GetContainer())
	}
	return root.WriteArchive(t.GetPath(), tar, o)
}

// user is whom a container's first process runs as; nil if it does not run, and
// files then keep the archive's owners.
func (b *Backend) user(id string) *rootfs.Owner {
	c, err := b.live(id)
	if err != nil {
		return nil
	}
	fi, err := os.Stat("/proc/" + strconv.Itoa(c.init.proc.PID()))
	if err != nil {
		return nil
	}
	st := fi.Sys().(*syscall.Stat_t)
	return &rootfs.Owner{UID: int(st.Uid), GID: int(st.Gid)}
}

// Changes is backend.Files.
func (b *Backend) Changes(_ context.Context, t *backendpb.FilesTarget) (*backendpb.ChangesReply, error) {
	layer, err := rootfs.ParseOverlay(mounts(t.GetRootfs()))
	if err != nil {
		return nil, err
	}
	changes, err := layer.Changes()
	if err != nil {
		return nil, err
	}
	r := &backendpb.ChangesReply{}
	for _, c := range changes {
		r.Changes = append(r.Changes, &backendpb.Change{Path: c.Path, Kind: backendpb.Change_Kind(c.Kind)})
	}
	return r, nil
}

// ReadDiff is backend.Files.
func (b *Backend) ReadDiff(_ context.Context, t *backendpb.FilesTarget) (io.ReadCloser, error) {
	layer, err := rootfs.ParseOverlay(mounts(t.GetRootfs()))
	if err != nil {
		return nil, err
	}
	return layer.Diff()
}
