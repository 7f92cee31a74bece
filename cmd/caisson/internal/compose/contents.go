package compose

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/client"
)

// writeContents puts the service's contents on the tmpfs and returns how they
// are mounted. A file keeps its inode: a container that has it mounted sees what
// is new in it.
func (p *Project) writeContents(s *Service) ([]client.Mount, error) {
	var mounts []client.Mount
	for _, c := range s.Contents {
		if c.Missing != "" {
			return nil, fmt.Errorf("services.%s: %s: %w", s.Name, c.Missing, errdefs.ErrFailedPrecondition)
		}
		dir, err := p.contentsDir()
		if err != nil {
			return nil, fmt.Errorf("services.%s: %s: %w", s.Name, c.Target, err)
		}
		dir = filepath.Join(dir, s.Name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		sum := sha256.Sum256([]byte(c.Target))
		path := filepath.Join(dir, hex.EncodeToString(sum[:8]))
		if err := c.write(path); err != nil {
			return nil, fmt.Errorf("services.%s: %s: %w", s.Name, c.Target, err)
		}
		mounts = append(mounts, client.Mount{Type: "bind", Source: path, Target: c.Target, ReadOnly: true, BindOptions: &client.BindOptions{}})
	}
	return mounts, nil
}

func (c *Content) write(path string) error {
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, c.Data) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(c.Data)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if c.UID != os.Getuid() || c.GID != os.Getgid() {
		if err := os.Chown(path, c.UID, c.GID); err != nil && (c.UID != 0 || c.GID != 0) {
			return err // a user's own files cannot be root's; they can be read as they are
		}
	}
	return os.Chmod(path, os.FileMode(c.Mode&0o777))
}

// contentsDir is the project's directory on a tmpfs, which only this user reads.
func (p *Project) contentsDir() (string, error) {
	for _, base := range tmpfsDirs() {
		if !onTmpfs(base) {
			continue
		}
		dir := filepath.Join(base, fmt.Sprintf("caisson-compose-%d", os.Getuid()))
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
		// In a directory that everybody may write to, the name may be another's.
		if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() || fi.Mode().Perm() != 0o700 || !owned(fi) {
			return "", fmt.Errorf("%s is not a directory of this user's alone: remove it: %w", dir, errdefs.ErrFailedPrecondition)
		}
		return filepath.Join(dir, p.Name), nil
	}
	return "", fmt.Errorf("this host has no tmpfs to keep it on, and it is not written to a disk: use a file: %w", errdefs.ErrFailedPrecondition)
}

// removeContents takes the project's contents away.
func (p *Project) removeContents() error {
	if dir, err := p.contentsDir(); err == nil { // else nothing was written
		return os.RemoveAll(dir)
	}
	return nil
}
