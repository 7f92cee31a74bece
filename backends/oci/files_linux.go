package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/platform_linux/mount"
	"github.com/caisson-engine/caisson/platform_linux/rootfs"
)

// mount puts the root filesystem where the runtime finds it.
func (c *container) mount(list []*backendpb.Mount) error {
	if err := os.MkdirAll(c.rootfs(), 0o711); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if len(list) != 1 || strings.Trim(list[0].GetTarget(), "/") != "" {
		return fmt.Errorf("container %s: a root of %d mounts is not supported: %w", c.id, len(list), errdefs.ErrNotImplemented)
	}
	m := list[0]
	o := mount.Parse(m.GetOptions())
	fail := func(err error) error { return fmt.Errorf("root filesystem of container %s: %w", c.id, err) }
	var fd int
	var err error
	if o.Bind || m.GetType() == "bind" {
		fd, err = mount.Tree(unix.AT_FDCWD, m.GetSource(), &o)
	} else {
		fd, err = mount.FS(m.GetType(), m.GetSource(), &o)
	}
	if errors.Is(err, mount.ErrTooLong) {
		if err := mount.AttachOverlay(m.GetSource(), c.rootfs(), &o); err != nil {
			return fail(err)
		}
		return nil
	}
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, c.rootfs(), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fail(err)
	}
	return nil
}

// unmount takes it away, however often it was mounted.
func (c *container) unmount() error {
	for {
		switch err := unix.Unmount(c.rootfs(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // not mounted
		default:
			return fmt.Errorf("root filesystem of container %s: %w", c.id, err)
		}
	}
}

// copyUp fills an empty volume with what the image has at its destination.
func (c *container) copyUp(volume, at string) error {
	if names, err := readSome(volume); err != nil || len(names) > 0 {
		return nil //nolint:nilerr // not a directory, or not empty
	}
	image, err := rootfs.OpenDetached([]rootfs.Mount{{Type: "bind", Source: c.rootfs()}}, nil, false)
	if err != nil {
		return err
	}
	defer func() { _ = image.Close() }()
	archive, err := image.ReadArchive(at)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer archive.Close()
	to, err := rootfs.OpenDetached([]rootfs.Mount{{Type: "bind", Source: volume}}, nil, true)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	in := tar.NewReader(archive)
	top, err := in.Next()
	if err != nil || top.Typeflag != tar.TypeDir {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(below(in, w)) }()
	err = to.WriteArchive("/", r, rootfs.WriteOptions{Devices: true})
	_ = r.Close() // ends the writer
	if err != nil {
		return err
	}
	// The directory itself, last: writing into it changed its times.
	if err := os.Chown(volume, top.Uid, top.Gid); err != nil {
		return err
	}
	if err := os.Chmod(volume, top.FileInfo().Mode()); err != nil {
		return err
	}
	return os.Chtimes(volume, top.ModTime, top.ModTime)
}

func readSome(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// below writes a tar again without the first part of its names.
func below(in *tar.Reader, w io.Writer) error {
	out := tar.NewWriter(w)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		_, h.Name, _ = strings.Cut(h.Name, "/")
		if h.Typeflag == tar.TypeLink {
			_, h.Linkname, _ = strings.Cut(h.Linkname, "/")
		}
		if h.Name == "" {
			continue
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

// root opens a container's filesystem: through its process where that is a
// process of this host, through what is mounted for the runtime if it lives
// otherwise, and else as described.
func (b *Backend) root(t *backendpb.FilesTarget, write bool) (*rootfs.Root, error) {
	root := mounts(t.GetRootfs())
	c, err := b.container(t.GetContainer())
	if err == nil && c.init.aliveOrCreated() {
		if !b.dialect.ownKernel {
			r, err := rootfs.OpenLive(c.init.pid)
			if c.init.aliveOrCreated() {
				return r, err
			}
			if err == nil {
				_ = r.Close() // the number may be another's by now
			}
		}
		root = []rootfs.Mount{{Type: "bind", Source: c.rootfs()}}
	}
	return rootfs.OpenDetached(root, mounts(t.GetMounts()), write)
}

// aliveOrCreated tells whether the process that the runtime made is there.
func (p *process) aliveOrCreated() bool {
	p.mu.Lock()
	over := p.phase == exited || p.phase == failed
	p.mu.Unlock()
	return !over && p.signal(0) == nil
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
	archive, err := root.ReadArchive(path.Clean(r.GetPath()))
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
	o := rootfs.WriteOptions{NoOverwriteDirNonDir: t.GetNoOverwriteDirNonDir(), Devices: !b.dialect.ownKernel}
	if t.GetCopyUidGid() {
		o.Chown = b.user(t.GetTarget().GetContainer())
	}
	return root.WriteArchive(t.GetPath(), tar, o)
}

// user is whom a container's first process runs as; nil if that cannot be seen,
// and files then keep the archive's owners.
func (b *Backend) user(id string) *rootfs.Owner {
	c, err := b.live(id)
	if err != nil || b.dialect.ownKernel {
		return nil
	}
	fi, err := os.Stat("/proc/" + strconv.Itoa(c.init.pid))
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
