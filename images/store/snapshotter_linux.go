package store

import (
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"golang.org/x/sys/unix"
)

// UpperdirLabel is where a snapshot tells its own layer's directory.
const UpperdirLabel = "containerd.io/snapshot/overlay.upperdir"

// DefaultSnapshotter is the name of the platform's snapshotter.
const DefaultSnapshotter = "overlayfs"

// NewSnapshotter opens the platform's snapshotter below dir. Removed layers
// are deleted at garbage collection, outside the database's lock.
func NewSnapshotter(dir string) (snapshots.Snapshotter, error) {
	s, err := overlay.NewSnapshotter(dir, overlay.WithUpperdirLabel, overlay.AsynchronousRemove)
	if err == nil {
		spread(filepath.Join(dir, "snapshots"))
	}
	return s, err
}

// spread tells ext4 that the directories in dir have nothing to do with each
// other, so that it puts them far apart. Layers that unpack side by side then
// do not contend for one allocation group, nor are new ones slowed by inodes
// that a deleted one has just freed: ext4 shuns those for minutes, and looks at
// each every time. Other file systems have no such flag.
func spread(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|fsTopdir))
	}
}

// fsTopdir is FS_TOPDIR_FL of linux/fs.h.
const fsTopdir = 0x00020000
