package fake

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// fileLimit bounds what one fake container's files may hold, in bytes.
const fileLimit = 64 << 20

// tree is a container's filesystem: what was written into it, by absolute clean
// path. The root and /tmp always exist.
type tree map[string]*file

type file struct {
	Header tar.Header
	Data   []byte
}

func (t tree) get(name string) (*file, error) {
	if f, ok := t[name]; ok {
		return f, nil
	}
	if name == "/" || name == "/tmp" {
		return &file{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}, nil
	}
	return nil, fmt.Errorf("no such file in the container: %s: %w", name, errdefs.ErrNotFound)
}

// below lists the entries at and below name, sorted.
func (t tree) below(name string) []string {
	var names []string
	for n := range t {
		if n == name || strings.HasPrefix(n, strings.TrimSuffix(name, "/")+"/") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// files begins a verb on files. end is never nil; on success mu is held and end
// releases it.
func (b *Backend) files(ctx context.Context, verb string, t *backendpb.FilesTarget) (c *ctr, end func(), err error) {
	after, err := b.begin(ctx, verb)
	if err := errors.Join(err, b.without(backend.CapFiles)); err != nil {
		return nil, after, err
	}
	b.mu.Lock()
	c, err = b.container(t.GetContainer())
	if err != nil {
		b.mu.Unlock()
		return nil, after, err
	}
	return c, func() { b.mu.Unlock(); after() }, nil
}

// StatPath tells of one entry.
func (b *Backend) StatPath(ctx context.Context, r *backendpb.PathRequest) (*backendpb.PathStat, error) {
	c, end, err := b.files(ctx, "StatPath", r.GetTarget())
	defer end()
	if err != nil {
		return nil, err
	}
	f, err := c.Files.get(path.Clean("/" + r.GetPath()))
	if err != nil {
		return nil, err
	}
	fi := f.Header.FileInfo()
	return &backendpb.PathStat{
		Name: path.Base(f.Header.Name), Size: fi.Size(), Mode: uint32(fi.Mode()),
		Mtime: fi.ModTime().UnixNano(), LinkTarget: f.Header.Linkname,
	}, nil
}

// ReadArchive gives back what WriteArchive took.
func (b *Backend) ReadArchive(ctx context.Context, r *backendpb.PathRequest) (io.ReadCloser, error) {
	c, end, err := b.files(ctx, "ReadArchive", r.GetTarget())
	defer end()
	if err != nil {
		return nil, err
	}
	name := path.Clean("/" + r.GetPath())
	top, err := c.Files.get(name)
	if err != nil {
		return nil, err
	}
	base := path.Base(name)
	if name == "/" {
		base = "."
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := put(w, base, top); err != nil {
		return nil, err
	}
	for _, n := range c.Files.below(name) {
		if n == name {
			continue
		}
		if err := put(w, path.Join(base, strings.TrimPrefix(n, name)), c.Files[n]); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(&buf), w.Close()
}

func put(w *tar.Writer, name string, f *file) error {
	h := f.Header
	h.Name = name
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.Write(f.Data)
	return err
}

// WriteArchive keeps the entries.
func (b *Backend) WriteArchive(ctx context.Context, t *backendpb.WriteTarget, in io.Reader) error {
	entries := tree{}
	r := tar.NewReader(io.LimitReader(in, fileLimit))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		h.Name = path.Join(path.Clean("/"+t.GetPath()), path.Clean("/"+h.Name))
		h.ModTime = h.ModTime.Truncate(time.Second)
		h.AccessTime, h.ChangeTime, h.PAXRecords, h.Format = time.Time{}, time.Time{}, nil, 0
		entries[h.Name] = &file{Header: *h, Data: data}
	}
	c, end, err := b.files(ctx, "WriteArchive", t.GetTarget())
	defer end()
	if err != nil {
		return err
	}
	dir, err := c.Files.get(path.Clean("/" + t.GetPath()))
	if err != nil {
		return err
	}
	if dir.Header.Typeflag != tar.TypeDir {
		return fmt.Errorf("%s is not a directory: %w", t.GetPath(), errdefs.ErrInvalidArgument)
	}
	for n, f := range entries {
		old, err := c.Files.get(n)
		if err == nil && t.GetNoOverwriteDirNonDir() &&
			(old.Header.Typeflag == tar.TypeDir) != (f.Header.Typeflag == tar.TypeDir) {
			return fmt.Errorf("cannot overwrite %s, one is a directory: %w", n, errdefs.ErrInvalidArgument)
		}
	}
	for n, f := range entries {
		c.Files[n] = f
	}
	return b.save()
}

// Changes says that all there is was added.
func (b *Backend) Changes(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.ChangesReply, error) {
	c, end, err := b.files(ctx, "Changes", t)
	defer end()
	if err != nil {
		return nil, err
	}
	reply := &backendpb.ChangesReply{}
	for _, n := range c.Files.below("/") {
		reply.Changes = append(reply.Changes, &backendpb.Change{Path: n, Kind: backendpb.Change_ADDED})
	}
	return reply, nil
}

// ReadDiff is all there is.
func (b *Backend) ReadDiff(ctx context.Context, t *backendpb.FilesTarget) (io.ReadCloser, error) {
	c, end, err := b.files(ctx, "ReadDiff", t)
	defer end()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, n := range c.Files.below("/") {
		if err := put(w, strings.TrimPrefix(n, "/"), c.Files[n]); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(&buf), w.Close()
}
