package compose

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// tmpfsDirs are where a tmpfs may be that this user writes to.
func tmpfsDirs() []string {
	if os.Getuid() == 0 {
		return []string{"/run", "/dev/shm"}
	}
	return []string{os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm"}
}

// onTmpfs says whether what is written to a directory stays in memory.
func onTmpfs(dir string) bool {
	var st unix.Statfs_t
	return dir != "" && unix.Statfs(dir, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}

// owned says whether a file is this user's.
func owned(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
