package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// imageStore keeps the read-only images of root filesystems: EROFS, made once per
// set of layers and shared by all machines of the host.
type imageStore struct {
	dir string

	mu     sync.Mutex
	making map[string]*sync.Mutex
}

func openImageStore(dir string) (*imageStore, error) {
	return &imageStore{dir: dir, making: map[string]*sync.Mutex{}}, os.MkdirAll(dir, 0o700)
}

// Image opens the image of these layers, uppermost first, and makes it if need be.
func (s *imageStore) Image(ctx context.Context, layers []string, chain string) (*os.File, func(), error) {
	s.mu.Lock()
	l := s.making[chain]
	if l == nil {
		l = &sync.Mutex{}
		s.making[chain] = l
	}
	s.mu.Unlock()
	l.Lock()
	defer l.Unlock()
	path := filepath.Join(s.dir, chain+".erofs")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		if err = s.make(ctx, layers, path); err == nil {
			f, err = os.Open(path)
		}
	}
	return f, func() {}, err
}

func (s *imageStore) make(ctx context.Context, layers []string, path string) error {
	from := layers[0]
	if len(layers) > 1 {
		at, err := os.MkdirTemp(s.dir, "layers")
		if err != nil {
			return err
		}
		defer os.Remove(at)
		if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(layers, ":")); err != nil {
			return fmt.Errorf("layers: %w", err)
		}
		defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
		from = at
	}
	tmp := path + ".new"
	defer os.Remove(tmp)
	_ = os.Remove(tmp)
	if out, err := exec.CommandContext(ctx, "mkfs.erofs", "--quiet", tmp, from).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.erofs: %w: %s", err, out)
	}
	return os.Rename(tmp, path)
}

// newScratch makes an empty ext4 disk without a name.
func newScratch(ctx context.Context, path string, size int64) error {
	tmp := path + ".new"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	err = f.Truncate(size)
	_ = f.Close()
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^resize_inode,^metadata_csum", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=4", tmp).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return os.Rename(tmp, path)
}
