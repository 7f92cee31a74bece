package linux

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removeDir removes the directory of a container or exec: most have a record and
// nothing else, which is worth not looking what there is.
func removeDir(dir string) error {
	_ = unix.Unlink(filepath.Join(dir, recordFile))
	if err := unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return os.RemoveAll(dir)
}
