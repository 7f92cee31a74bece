package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Local keeps local volumes: directories <root>/<name>/_data.
type Local struct{ root string }

// NewLocal makes the driver; the root is made when first needed.
func NewLocal(root string) *Local { return &Local{root: root} }

// Path is a volume's directory, whether it exists or not.
func (l *Local) Path(name string) string { return filepath.Join(l.root, name, "_data") }

// Names lists the volumes that have a directory.
func (l *Local) Names() []string {
	entries, _ := os.ReadDir(l.root) // none was made yet
	var out []string
	for _, e := range entries {
		if _, err := os.Stat(l.Path(e.Name())); err == nil && ValidName(e.Name()) == nil {
			out = append(out, e.Name())
		}
	}
	return out
}

// Make makes a volume's directory. Idempotent.
func (l *Local) Make(name string) error {
	if err := ValidName(name); err != nil {
		return err
	}
	err := l.makeRoot()
	if err == nil {
		err = os.MkdirAll(l.Path(name), 0o755)
	}
	if err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
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

// MakeSource makes a bind's missing directory where the client's syntax says so.
func MakeSource(m *Mount) error {
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

// Remove deletes a volume and all that is in it. Idempotent. Of one that is a
// mount only the empty directory below it goes, never what was mounted there.
func (l *Local) Remove(name string, mounted bool) error {
	if err := ValidName(name); err != nil {
		return err
	}
	dir := filepath.Join(l.root, name)
	var err error
	if mounted {
		for _, d := range []string{l.Path(name), dir} {
			if e := os.Remove(d); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	} else {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}
