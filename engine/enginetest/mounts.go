package enginetest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/volume"
)

// Mounts mounts nothing and remembers what is mounted in a file beside each
// directory, as the kernel would over the end of an engine.
type Mounts struct{}

func note(dir string) string { return dir + ".mounted" }

// Mount makes the directory and its note.
func (Mounts) Mount(dir string, d volume.Device) error {
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(note(dir), []byte(d.Type+" "+d.Source), 0o600))
}

// Part does the same.
func (m Mounts) Part(root, path, dir string) error {
	return m.Mount(dir, volume.Device{Type: "part", Source: filepath.Join(root, path)})
}

// Unmount removes the note.
func (Mounts) Unmount(dir string) error {
	if err := os.Remove(note(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Mounted is what is mounted at a directory, "" for nothing.
func (Mounts) Mounted(dir string) string {
	b, _ := os.ReadFile(note(dir)) // none is nothing
	return string(b)
}

// Pack is a tar of a directory.
func (Mounts) Pack(dir string) (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		w.CloseWithError(errors.Join(t.AddFS(os.DirFS(dir)), t.Close()))
	}()
	return r, nil
}

// Unpack only reads.
func (Mounts) Unpack(_ string, archive io.Reader, _ bool) error {
	for t := tar.NewReader(archive); ; {
		if _, err := t.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
}
