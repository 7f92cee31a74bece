package engine

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/images"
)

// files is a container's filesystem as its backend gives it, alive or not.
type files struct {
	backend.Files
	target *backendpb.FilesTarget
	rec    *container.Record
	state  container.State
}

// filesOf finds a container and the backend that can reach its filesystem.
func (e *Engine) filesOf(ctx context.Context, ref string) (*files, error) {
	c, err := e.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	rec, st := c.view()
	if st.State == container.Removing || st.State == container.Dead {
		return nil, fmt.Errorf("container %s is being removed: %w", rec.Name, errdefs.ErrConflict)
	}
	fb, err := capable[backend.Files](e, ctx, rec.Decision.Backend, backend.CapFiles)
	if err != nil {
		return nil, err
	}
	root, err := e.cfg.Images.Mounts(ctx, rec.ID)
	if err != nil {
		return nil, err
	}
	f := &files{Files: fb, rec: rec, state: st.State, target: e.filesTarget(rec, root)}
	for _, m := range rec.Mounts {
		// What is mounted only while it runs is not there for one that does not.
		if m.Type == mount.TypeBind || m.Type == mount.TypeVolume && m.Subpath == "" && m.DriverOpts["type"] == "" {
			f.target.Mounts = append(f.target.Mounts, &backendpb.Mount{Type: "bind", Source: m.Source, Target: m.Destination, Options: access(m.ReadOnly)})
		}
	}
	return f, nil
}

// filesTarget names a container's root filesystem.
func (e *Engine) filesTarget(rec *container.Record, root []images.Mount) *backendpb.FilesTarget {
	return &backendpb.FilesTarget{Container: rec.ID, Level: rec.Decision.Level, Rootfs: pbMounts(root), StateDir: e.dir(rec.ID)}
}

func access(readOnly bool) []string {
	if readOnly {
		return []string{"ro"}
	}
	return nil
}

// pbMounts is a root filesystem in the contract's form.
func pbMounts(mounts []images.Mount) []*backendpb.Mount {
	out := make([]*backendpb.Mount, len(mounts))
	for i, m := range mounts {
		out[i] = &backendpb.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return out
}

func (f *files) path(p string) *backendpb.PathRequest {
	return &backendpb.PathRequest{Target: f.target, Path: p}
}

// missing words the error of a path that is not there as Docker does.
func (f *files) missing(p string, err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("Could not find the file %s in container %s: %w", p, f.rec.Name, errdefs.ErrNotFound) //nolint:staticcheck // Docker's words
	}
	return err
}

func checkPath(p string) error {
	if p == "" || strings.ContainsRune(p, 0) {
		return fmt.Errorf("path %q is not a path: %w", p, errdefs.ErrInvalidArgument)
	}
	return nil
}

// StatPath describes one path of a container's filesystem.
func (e *Engine) StatPath(ctx context.Context, ref, path string) (apicontainer.PathStat, error) {
	if err := checkPath(path); err != nil {
		return apicontainer.PathStat{}, err
	}
	f, err := e.filesOf(ctx, ref)
	if err != nil {
		return apicontainer.PathStat{}, err
	}
	return f.stat(ctx, path)
}

func (f *files) stat(ctx context.Context, path string) (apicontainer.PathStat, error) {
	s, err := f.StatPath(ctx, f.path(path))
	if err != nil {
		return apicontainer.PathStat{}, f.missing(path, err)
	}
	return apicontainer.PathStat{
		Name: s.GetName(), Size: s.GetSize(), Mode: fs.FileMode(s.GetMode()),
		Mtime: time.Unix(0, s.GetMtime()), LinkTarget: s.GetLinkTarget(),
	}, nil
}

// ReadArchive returns a tar of a path and what the path is. The caller closes it.
func (e *Engine) ReadArchive(ctx context.Context, ref, path string) (io.ReadCloser, apicontainer.PathStat, error) {
	if err := checkPath(path); err != nil {
		return nil, apicontainer.PathStat{}, err
	}
	f, err := e.filesOf(ctx, ref)
	if err != nil {
		return nil, apicontainer.PathStat{}, err
	}
	st, err := f.stat(ctx, path)
	if err != nil {
		return nil, st, err
	}
	rc, err := f.ReadArchive(ctx, f.path(path))
	if err != nil {
		return nil, st, f.missing(path, err)
	}
	e.emit(f.rec, events.ActionArchivePath)
	return rc, st, nil
}

// WriteArchive unpacks a tar into an existing directory of a container.
func (e *Engine) WriteArchive(ctx context.Context, ref, path string, noOverwriteDirNonDir, copyUIDGID bool, tar io.Reader) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if _, err := e.enter(ctx, ref); err != nil {
		return err
	}
	f, err := e.filesOf(ctx, ref)
	if err != nil {
		return err
	}
	if f.rec.Host.ReadonlyRootfs && !f.inVolume(path) {
		return fmt.Errorf("container rootfs is marked read-only: %w", errdefs.ErrPermissionDenied)
	}
	err = f.WriteArchive(ctx, &backendpb.WriteTarget{
		Target: f.target, Path: path, NoOverwriteDirNonDir: noOverwriteDirNonDir, CopyUidGid: copyUIDGID,
	}, tar)
	if err != nil {
		return f.missing(path, err)
	}
	e.emit(f.rec, events.ActionExtractToDir)
	return nil
}

// inVolume says that a path lies in a mount that the container may write.
func (f *files) inVolume(p string) bool {
	for _, m := range f.rec.Mounts {
		if d := strings.TrimSuffix(m.Destination, "/"); !m.ReadOnly && (p == d || strings.HasPrefix(p, d+"/")) {
			return true
		}
	}
	return false
}

// Export returns a tar of a container's whole filesystem, without its volumes.
// The caller closes it.
func (e *Engine) Export(ctx context.Context, ref string) (io.ReadCloser, error) {
	f, err := e.filesOf(ctx, ref)
	if err != nil {
		return nil, err
	}
	if f.state.Alive() {
		// The live root has proc, sys and the volumes mounted: read what lies
		// below them, as of a container that does not run.
		f.target.Container = ""
	}
	f.target.Mounts = nil
	rc, err := f.ReadArchive(ctx, f.path("/"))
	if err != nil {
		return nil, err
	}
	e.emit(f.rec, events.ActionExport)
	return rc, nil
}

// Changes lists what differs from the image.
func (e *Engine) Changes(ctx context.Context, ref string) ([]apicontainer.FilesystemChange, error) {
	f, err := e.filesOf(ctx, ref)
	if err != nil {
		return nil, err
	}
	r, err := f.Changes(ctx, f.target)
	if err != nil {
		return nil, err
	}
	out := make([]apicontainer.FilesystemChange, len(r.GetChanges()))
	for i, c := range r.GetChanges() {
		out[i] = apicontainer.FilesystemChange{Path: c.GetPath(), Kind: apicontainer.ChangeType(c.GetKind())}
	}
	return out, nil
}
