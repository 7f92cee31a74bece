//go:build !windows

package copy

import (
	"io/fs"
	"syscall"
)

// fileID tells whether two names are of one file.
type fileID struct{ dev, ino uint64 }

// multiple returns the identity of a file that has several names.
func multiple(fi fs.FileInfo) (fileID, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || fi.IsDir() || st.Nlink < 2 {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), st.Ino}, true //nolint:unconvert // its type differs between systems
}

func portableMode(mode int64, _ fs.FileInfo) int64 { return mode }
