package kit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// WriteRecord makes a file that holds m. It is one write, so after a kill the
// file is complete, empty, or not there; an empty one is as good as none.
func WriteRecord(path string, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("record %s: %w", path, err)
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	n, err := unix.Write(fd, b)
	if err == nil && n < len(b) {
		err = unix.ENOSPC
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// ReadRecord reads what WriteRecord wrote; false if nothing was completed.
func ReadRecord(path string, m proto.Message) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
		return false, nil
	}
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err != nil {
		return false, fmt.Errorf("record %s: %w", path, err)
	}
	return true, nil
}

// ForgetEarlierBoot removes what is in the state directory under the given names
// if it was written before the host was last booted: nothing of it is true any
// more.
func ForgetEarlierBoot(dir string, names ...string) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("boot id: %w", err)
	}
	mark := filepath.Join(dir, "boot")
	if was, err := os.ReadFile(mark); err == nil && bytes.Equal(was, boot) {
		return nil
	}
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	if err := os.WriteFile(mark, boot, 0o600); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}
