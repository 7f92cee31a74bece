package blockimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MinScratch is the smallest scratch disk.
const MinScratch = 16 << 20

// ext4 is how an empty disk is made: no space kept for root, and a journal, since a
// machine may be killed and its disk go on being used by the next. Its tables
// count as written, which they are in a sparse file: else the guest would write
// them all in the background.
var ext4 = []string{
	"-q", "-F", "-m", "0", "-O", "^resize_inode,^metadata_csum,^64bit", "-J", "size=4",
	"-U", "00000000-0000-0000-0000-000000000000",
	"-E", "lazy_itable_init=0,lazy_journal_init=1,assume_storage_prezeroed=1,nodiscard,root_owner=0:0",
}

// Scratch makes an empty writable disk of size bytes at path, which must not be
// there, and opens it for reading and writing.
func (s *Store) Scratch(ctx context.Context, path string, size int64) (*os.File, error) {
	if size < MinScratch {
		return nil, fmt.Errorf("a disk of %d bytes, less than %d: %w", size, MinScratch, errdefs.ErrInvalidArgument)
	}
	size &^= 4095
	empty, err := s.empty(ctx, size)
	if err != nil {
		return nil, fmt.Errorf("scratch disk: %w", err)
	}
	defer empty.Close()
	f, err := nameless(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err = copySparse(f, empty, size); err == nil {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	}
	f.Close()
	if errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("%s: %w", path, errdefs.ErrAlreadyExists)
	} else if err != nil {
		return nil, fmt.Errorf("scratch disk %s: %w", path, err)
	}
	return os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
}

// empty opens the prepared disk of a size. It is cheap to make again, so nothing
// is made of two that make the same at the same time.
func (s *Store) empty(ctx context.Context, size int64) (*os.File, error) {
	path := filepath.Join(s.opts.Dir, fmt.Sprintf("empty-%d.ext4", size))
	f, err := os.Open(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	tool, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		return nil, fmt.Errorf("mkfs.ext4 is not installed (Debian: e2fsprogs): %w", errdefs.ErrUnavailable)
	}
	tmp, err := nameless(s.opts.Dir)
	if err != nil {
		return nil, err
	}
	defer tmp.Close()
	if err := tmp.Truncate(size); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, tool, append(ext4, "/proc/self/fd/3")...)
	cmd.ExtraFiles = []*os.File{tmp}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.ext4: %w: %.300q", err, out)
	}
	if err := link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.Open(path)
}

// copySparse copies what of from is not a hole.
func copySparse(to, from *os.File, size int64) error {
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err == nil {
		return nil
	}
	if err := to.Truncate(size); err != nil {
		return err
	}
	fd := int(from.Fd())
	for at := int64(0); at < size; {
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		} else if err != nil {
			return err
		}
		if at, err = unix.Seek(fd, start, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, start), io.NewSectionReader(from, start, at-start)); err != nil {
			return err
		}
	}
	return nil
}
