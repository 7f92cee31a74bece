package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
)

// Local keeps local volumes: directories <root>/<name>/_data.
type Local struct{ root string }

// NewLocal makes the driver; the root is made when first needed.
func NewLocal(root string) *Local { return &Local{root: root} }

// Path is a volume's directory, whether it exists or not.
func (l *Local) Path(name string) string { return filepath.Join(l.root, name, "_data") }

// Ensure makes a mount's source ready: a volume is made if missing, a bind's
// missing directory made if the client's syntax says so.
func (l *Local) Ensure(m *Mount) error {
	switch m.Type {
	case mount.TypeVolume:
		if m.Driver != "local" {
			return fmt.Errorf("error looking up volume plugin %s: plugin %q not found: %w", m.Driver, m.Driver, errdefs.ErrNotFound)
		}
		if len(m.DriverOpts) > 0 {
			return fmt.Errorf("options of the local volume driver are not supported: use a bind mount for %s: %w", m.Destination, errdefs.ErrNotImplemented)
		}
		if err := ValidName(m.Name); err != nil {
			return err
		}
		if err := l.makeRoot(); err != nil {
			return fmt.Errorf("create volume %s: %w", m.Name, err)
		}
		if err := os.MkdirAll(l.Path(m.Name), 0o755); err != nil {
			return fmt.Errorf("create volume %s: %w", m.Name, err)
		}
		m.Source = l.Path(m.Name)
	case mount.TypeBind:
		return l.ensureBind(m)
	}
	return nil
}

// makeRoot makes the directory of the volumes, which is closed to users of the
// host: a volume's name is easily guessed, and what is in it belongs to somebody.
func (l *Local) makeRoot() error {
	if st, err := os.Stat(l.root); err == nil && st.Mode().Perm() == rootMode {
		return nil
	}
	if err := os.MkdirAll(l.root, rootMode); err != nil {
		return err
	}
	return os.Chmod(l.root, rootMode)
}

// rootMode is of the directory of the volumes.
const rootMode = 0o710

func (l *Local) ensureBind(m *Mount) error {
	_, err := os.Stat(m.Source)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("invalid mount config for type \"bind\": stat %s: %w: %w", m.Source, err, errdefs.ErrInvalidArgument)
	case !m.MakeSource:
		return fmt.Errorf("invalid mount config for type \"bind\": bind source path does not exist: %s: %w", m.Source, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(m.Source, 0o755); err != nil {
		return fmt.Errorf("error while creating mount source path '%s': %w: %w", m.Source, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Remove deletes a volume and all that is in it. Idempotent.
func (l *Local) Remove(name string) error {
	if err := ValidName(name); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(l.root, name)); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}
