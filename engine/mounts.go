package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/volume"
	"github.com/caisson-engine/caisson/images"
)

// What a backend mounts for a container is a path of the host. Where there is
// none yet, the engine has the host mount it while the container has its sandbox:
// a volume with options at its own directory, for all that use it; an image, or a
// part of a volume, below the exec root for the one container.

// mountDir is where what a container alone has is mounted; i is the mount's index.
func (e *Engine) mountDir(id string, i int) string {
	return filepath.Join(e.cfg.ExecRoot, "mounts", id, strconv.Itoa(i))
}

// planVolume decides what a mount of a volume is. It touches nothing.
func (e *Engine) planVolume(m *volume.Mount) error {
	if m.Driver != "local" {
		return fmt.Errorf("error looking up volume plugin %s: plugin %q not found: %w", m.Driver, m.Driver, errdefs.ErrNotFound)
	}
	if err := volume.ValidName(m.Name); err != nil {
		return err
	}
	e.vols.mu.Lock()
	if v := e.vols.m[volumeKey{m.Tenant, m.Name}]; v != nil {
		m.DriverOpts = v.rec.Options // that of the mount are for a new one
	}
	e.vols.mu.Unlock()
	if _, err := e.readOptions(m.DriverOpts); err != nil {
		return err
	}
	m.Source = e.local(m.Tenant).Path(m.Name)
	return e.canMount(m.Subpath != "", "a part of a volume")
}

// canMount says that this host can mount something, if that is wanted.
func (e *Engine) canMount(wanted bool, what string) error {
	if wanted && e.cfg.Mounts == nil {
		return fmt.Errorf("%s cannot be mounted on this host: %w", what, errdefs.ErrNotImplemented)
	}
	return nil
}

// planImage finds the image of a mount among those that the client sees.
func (e *Engine) planImage(ctx context.Context, m *volume.Mount, key string) error {
	img, err := e.cfg.Images.Get(ctx, m.Name, nil)
	if err != nil {
		return err
	}
	m.Source, m.Image = img.ID.String(), key
	return e.canMount(true, "an image")
}

// makeMounts makes the volumes, directories and image layers that a container
// needs.
func (e *Engine) makeMounts(ctx context.Context, rec *container.Record) error {
	for i := range rec.Mounts {
		m := &rec.Mounts[i]
		switch m.Type {
		case mount.TypeVolume:
			if _, err := e.volumeOf(m, rec.ID); err != nil {
				return err
			}
		case mount.TypeBind:
			if err := volume.MakeSource(m); err != nil {
				return err
			}
		case mount.TypeImage:
			img, err := e.cfg.Images.Get(ctx, m.Source, nil)
			if err == nil {
				_, err = e.cfg.Images.Prepare(ctx, m.Image, img, nil)
			}
			if err != nil {
				return fmt.Errorf("mount image %s: %w", m.Name, err)
			}
		}
	}
	return nil
}

// volumeOf is the volume of a mount, made if it is not there.
func (e *Engine) volumeOf(m *volume.Mount, claim string) (*vol, error) {
	d, err := e.readOptions(m.DriverOpts)
	if err != nil {
		return nil, err
	}
	rec := volumeRecord{Name: m.Name, Tenant: m.Tenant, Labels: m.Labels, Options: m.DriverOpts}
	if m.Anonymous {
		rec.Labels = map[string]string{labelAnonymous: ""}
		for k, v := range m.Labels {
			rec.Labels[k] = v
		}
	}
	return e.makeVolume(rec, d, claim)
}

// mountAll brings a container's mounts to where a backend finds them, and returns
// them so. What it did when it fails unmountAll takes back.
func (e *Engine) mountAll(ctx context.Context, rec *container.Record) ([]volume.Mount, error) {
	out := slices.Clone(rec.Mounts)
	for i := range out {
		m := &out[i] // the record is shared, this is not
		var err error
		if m.Subpath != "" || m.Type == mount.TypeImage {
			// Closed to users of the host, as what is mounted there is where it comes from.
			if err = os.MkdirAll(filepath.Join(e.cfg.ExecRoot, "mounts"), 0o710); err != nil {
				return nil, fmt.Errorf("mount %s: %w", m.Destination, err)
			}
		}
		switch m.Type {
		case mount.TypeBind:
			err = volume.MakeSource(m)
		case mount.TypeVolume:
			err = e.mountVolumeFor(rec, m)
		case mount.TypeImage:
			err = e.mountImage(ctx, m, e.mountDir(rec.ID, i))
		}
		if err == nil && m.Subpath != "" {
			dir := e.mountDir(rec.ID, i)
			if m.Type == mount.TypeImage {
				dir = filepath.Join(filepath.Dir(dir), strconv.Itoa(i)+".part")
			}
			err = e.cfg.Mounts.Part(m.Source, m.Subpath, dir)
			m.Source = dir
		}
		if errdefs.IsNotFound(err) {
			err = fmt.Errorf("%s: %w", reason(err), errdefs.ErrInvalidArgument) // the container is there
		}
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return out, nil
}

func (e *Engine) mountVolumeFor(rec *container.Record, m *volume.Mount) error {
	v, err := e.volumeOf(m, "")
	if err != nil {
		return err
	}
	if err := e.mountVolume(v); err != nil {
		return err
	}
	e.emitVolume(v, events.ActionMount, "container", rec.ID, "destination", m.Destination,
		"read/write", strconv.FormatBool(!m.ReadOnly), "propagation", string(m.Propagation))
	return nil
}

// mountVolume mounts a volume that has options, unless it is.
func (e *Engine) mountVolume(v *vol) error {
	if !v.device.Mounted() {
		return nil
	}
	v.act.Lock()
	defer v.act.Unlock()
	dir := e.local(v.rec.Tenant).Path(v.rec.Name)
	if err := e.cfg.Mounts.Mount(dir, v.device); err != nil {
		return fmt.Errorf("error while mounting volume '%s': failed to mount local volume: %w", dir, err)
	}
	return nil
}

// unmountVolume is its reverse, unless a container other than one has it.
func (e *Engine) unmountVolume(v *vol, but string) error {
	if !v.device.Mounted() {
		return nil
	}
	v.act.Lock()
	defer v.act.Unlock()
	e.vols.mu.Lock()
	claimed := len(v.claims) > 0
	e.vols.mu.Unlock()
	if claimed {
		return nil // it is being read or filled, which unmounts it then
	}
	for _, id := range e.volumeUsers()[v.rec.key()] {
		if c, ok := e.ctrs.Get(id); ok && id != but {
			if _, st := c.view(); st.Held {
				return nil
			}
		}
	}
	return e.cfg.Mounts.Unmount(e.local(v.rec.Tenant).Path(v.rec.Name))
}

func (e *Engine) mountImage(ctx context.Context, m *volume.Mount, dir string) error {
	layers, err := e.cfg.Images.Mounts(ctx, m.Image)
	if err == nil && len(layers) != 1 {
		err = fmt.Errorf("its layers cannot be mounted here: %w", errdefs.ErrNotImplemented)
	}
	if err == nil {
		err = e.cfg.Mounts.Mount(dir, layersDevice(layers[0]))
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", m.Name, err)
	}
	m.Source = dir
	return nil
}

// layersDevice is what an image's layers are a mount of, for reading only.
func layersDevice(l images.Mount) volume.Device {
	d := volume.Device{Type: l.Type, Source: l.Source, Bind: l.Type == "bind", Options: []string{"ro"}}
	for _, o := range l.Options {
		if o != "rw" && o != "rbind" && o != "bind" {
			d.Options = append(d.Options, o)
		}
	}
	return d
}

// unmountAll takes back what mountAll did. It may be repeated.
func (e *Engine) unmountAll(rec *container.Record) error {
	var errs []error
	for i, m := range rec.Mounts {
		if m.Type != mount.TypeVolume {
			continue
		}
		if m.Subpath != "" {
			errs = append(errs, e.clear(e.mountDir(rec.ID, i)))
		}
		e.vols.mu.Lock()
		v := e.vols.m[volumeKey{m.Tenant, m.Name}]
		e.vols.mu.Unlock()
		if v != nil {
			errs = append(errs, e.unmountVolume(v, rec.ID))
			e.emitVolume(v, events.ActionUnmount, "container", rec.ID)
		}
	}
	return errors.Join(append(errs, e.clearAll(rec.ID))...)
}

// clearAll unmounts everything that a container alone has. A part is mounted
// after the whole, and its name sorts behind it.
func (e *Engine) clearAll(id string) error {
	dir := filepath.Dir(e.mountDir(id, 0))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, en := range slices.Backward(entries) {
		errs = append(errs, e.clear(filepath.Join(dir, en.Name())))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

// clear unmounts one directory and removes it, and nothing that is in it.
func (e *Engine) clear(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) || e.cfg.Mounts == nil {
		return nil
	}
	if err := e.cfg.Mounts.Unmount(dir); err != nil {
		return err
	}
	return os.Remove(dir)
}

// collectMounts unmounts what is there for containers that are not.
func (e *Engine) collectMounts() {
	entries, _ := os.ReadDir(filepath.Join(e.cfg.ExecRoot, "mounts")) // there was never one
	for _, en := range entries {
		if c, ok := e.ctrs.Get(en.Name()); ok {
			if _, st := c.view(); st.Held {
				continue
			}
		}
		if err := e.clearAll(en.Name()); err != nil {
			e.log.Error("cannot unmount what a container had", "container", en.Name(), "error", err)
		}
	}
}
