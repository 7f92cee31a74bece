//go:build unix

package logs

import (
	"os"
	"syscall"
)

// fileNumber tells files of one filesystem apart, as long as they are open.
func fileNumber(f *os.File) (uint64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Ino, nil
}

// openShared opens a file that others may rename or delete meanwhile.
func openShared(path string, flags int, mode os.FileMode) (*os.File, error) {
	return os.OpenFile(path, flags|syscall.O_NOFOLLOW, mode)
}
