package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// writeRecord makes a file that holds m. It is one write, so after a kill the
// file is complete, empty, or not there; an empty one is as good as none.
func writeRecord(path string, m proto.Message) error {
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

// readRecord reads what writeRecord wrote; false if nothing was completed.
func readRecord(path string, m proto.Message) (bool, error) {
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
