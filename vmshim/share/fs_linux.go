package share

import (
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Validity is how long a guest may rely on a name and on a file's attributes without
// asking again.
const Validity = 100 * time.Millisecond

// manyNodes is how many files of a share the guest's kernel may remember. Beyond it
// names are valid for no time at all, and the kernel forgets a file as soon as
// nobody uses it.
const manyNodes = 8 << 10

// filesystem is one share. It implements the calls of the FUSE protocol that make
// sense here; the embedded one answers that the others are not implemented.
type filesystem struct {
	fuse.RawFileSystem
	table *table
	root  identity
}

// newFilesystem serves the file or directory that fd names.
func newFilesystem(fd int) (*filesystem, error) {
	st, err := stat(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	fs := &filesystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), table: newTable()}
	fs.root = fs.table.add(fd, st).identity
	return fs, nil
}

func (fs *filesystem) String() string { return "caisson" }

func stat(fd int) (*unix.Statx_t, error) {
	st := &unix.Statx_t{}
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, st)
	return st, err
}

// attributes are a file's, as the guest sees them. A mount below the share's root has
// numbers of its own; they are made different from the root's.
func (fs *filesystem) attributes(st *unix.Statx_t, a *fuse.Attr) {
	ino := st.Ino
	if st.Dev_major != fs.root.major || st.Dev_minor != fs.root.minor {
		ino ^= uint64(st.Dev_major)<<52 ^ uint64(st.Dev_minor)<<32
	}
	*a = fuse.Attr{
		Ino: ino, Size: st.Size, Blocks: st.Blocks, Blksize: st.Blksize, Mode: uint32(st.Mode), Nlink: st.Nlink,
		Atime: uint64(st.Atime.Sec), Mtime: uint64(st.Mtime.Sec), Ctime: uint64(st.Ctime.Sec),
		Atimensec: st.Atime.Nsec, Mtimensec: st.Mtime.Nsec, Ctimensec: st.Ctime.Nsec,
		Owner: fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Rdev:  uint32(unix.Mkdev(st.Rdev_major, st.Rdev_minor)),
	}
}

// checkName wants a name that leads to an entry of a directory and nowhere else.
func checkName(name string) fuse.Status {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fuse.EINVAL
	case len(name) > unix.NAME_MAX:
		return fuse.Status(unix.ENAMETOOLONG)
	}
	return fuse.OK
}

// at uses a directory and a name in it.
func (fs *filesystem) at(dir uint64, name string, do func(dirfd int) error) fuse.Status {
	if s := checkName(name); !s.Ok() {
		return s
	}
	return fs.with(dir, func(n *node) error { return do(n.fd) })
}

// with uses a node.
func (fs *filesystem) with(id uint64, do func(*node) error) fuse.Status {
	n, err := fs.table.node(id)
	if err != nil {
		return fuse.ToStatus(err)
	}
	defer fs.table.done(n)
	return status(do(n))
}

// opened uses a handle.
func (fs *filesystem) opened(id uint64, do func(*handle) error) fuse.Status {
	h, err := fs.table.handle(id)
	if err != nil {
		return fuse.ToStatus(err)
	}
	defer fs.table.finish(h)
	return status(do(h))
}

func status(err error) fuse.Status {
	if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // system calls return it bare
		return fuse.Status(errno)
	}
	return fuse.ToStatus(err)
}

// enter finds a name and tells the guest of it.
func (fs *filesystem) enter(dirfd int, name string, out *fuse.EntryOut) error {
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return fs.tell(fd, out)
}

// tell takes over a descriptor that names a file and tells the guest of it.
func (fs *filesystem) tell(fd int, out *fuse.EntryOut) error {
	st, err := stat(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	n := fs.table.add(fd, st)
	*out = fuse.EntryOut{NodeId: n.id}
	fs.attributes(st, &out.Attr)
	out.SetAttrTimeout(Validity)
	if !fs.table.many() {
		out.SetEntryTimeout(Validity)
	}
	return nil
}

func (fs *filesystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return fs.at(in.NodeId, name, func(dir int) error { return fs.enter(dir, name, out) })
}

func (fs *filesystem) Forget(id, lookups uint64) { fs.table.forget(id, lookups) }

func (fs *filesystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error { return fs.stat(n, out) })
}

func (fs *filesystem) stat(n *node, out *fuse.AttrOut) error {
	st, err := stat(n.fd)
	if err != nil {
		return err
	}
	fs.attributes(st, &out.Attr)
	out.SetTimeout(Validity)
	return nil
}

func (fs *filesystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error {
		if mode, ok := in.GetMode(); ok {
			if err := unix.Fchmodat(unix.AT_FDCWD, n.path(), mode&0o7777, 0); err != nil {
				return err
			}
		}
		uid, gid := -1, -1
		if v, ok := in.GetUID(); ok {
			uid = int(v)
		}
		if v, ok := in.GetGID(); ok {
			gid = int(v)
		}
		if uid >= 0 || gid >= 0 {
			if err := unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		if size, ok := in.GetSize(); ok {
			if err := fs.truncate(n, in, size); err != nil {
				return err
			}
		}
		if err := setTimes(n, in); err != nil {
			return err
		}
		return fs.stat(n, out)
	})
}

// truncate sets a file's size, through the handle where there is one: it may be
// allowed where opening anew is not.
func (fs *filesystem) truncate(n *node, in *fuse.SetAttrIn, size uint64) error {
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		if err := dropSetID(n); err != nil {
			return err
		}
	}
	if id, ok := in.GetFh(); ok {
		h, err := fs.table.handle(id)
		if err != nil {
			return err
		}
		defer fs.table.finish(h)
		return unix.Ftruncate(h.fd, int64(size))
	}
	fd, err := reopen(n, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Ftruncate(fd, int64(size))
}

func setTimes(n *node, in *fuse.SetAttrIn) error {
	const atime, mtime = fuse.FATTR_ATIME | fuse.FATTR_ATIME_NOW, fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW
	if in.Valid&(atime|mtime) == 0 {
		return nil
	}
	moment := func(set, now uint32, sec uint64, nsec uint32) unix.Timespec {
		switch {
		case in.Valid&now != 0:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		case in.Valid&set != 0:
			return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
		}
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.UtimesNanoAt(n.fd, "", []unix.Timespec{
		moment(fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		moment(fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

// dropSetID does what a write by somebody without the right to keep them does: it
// takes the bits away that make a program run as its file's owner.
func dropSetID(n *node) error {
	st, err := stat(n.fd)
	if err != nil {
		return err
	}
	mode := uint32(st.Mode) & 0o7777
	kept := mode &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		kept &^= unix.S_ISGID
	}
	if kept == mode {
		return nil
	}
	return unix.Fchmodat(unix.AT_FDCWD, n.path(), kept, 0)
}

// as makes files for one of the guest's users: the host's kernel then gives them the
// owner and the group that they have to have. The process keeps its rights meanwhile
// (SECBIT_NO_SETUID_FIXUP); whether the user may was the guest's to check.
func as(o fuse.Owner, do func() error) error {
	if o == (fuse.Owner{}) {
		return do()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	become := func(o fuse.Owner) {
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSGID, uintptr(o.Gid), 0, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, uintptr(o.Uid), 0, 0)
	}
	become(o)
	defer become(fuse.Owner{})
	return do()
}

func (fs *filesystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return fuse.EPERM // a device would be the host's
	}
	return fs.at(in.NodeId, name, func(dir int) error {
		if err := as(in.Owner, func() error { return unix.Mknodat(dir, name, in.Mode, 0) }); err != nil {
			return err
		}
		return fs.enter(dir, name, out)
	})
}

func (fs *filesystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.at(in.NodeId, name, func(dir int) error {
		if err := as(in.Owner, func() error { return unix.Mkdirat(dir, name, in.Mode&0o7777) }); err != nil {
			return err
		}
		return fs.enter(dir, name, out)
	})
}

func (fs *filesystem) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return fs.at(in.NodeId, name, func(dir int) error {
		if err := as(in.Owner, func() error { return unix.Symlinkat(target, dir, name) }); err != nil {
			return err
		}
		return fs.enter(dir, name, out)
	})
}

func (fs *filesystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.at(in.NodeId, name, func(dir int) error {
		n, err := fs.table.node(in.Oldnodeid)
		if err != nil {
			return err
		}
		defer fs.table.done(n)
		if err := unix.Linkat(unix.AT_FDCWD, n.path(), dir, name, unix.AT_SYMLINK_FOLLOW); err != nil {
			return err
		}
		return fs.enter(dir, name, out)
	})
}

func (fs *filesystem) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fs.at(in.NodeId, name, func(dir int) error { return unix.Unlinkat(dir, name, 0) })
}

func (fs *filesystem) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fs.at(in.NodeId, name, func(dir int) error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
}

func (fs *filesystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if s := checkName(to); !s.Ok() {
		return s
	}
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return fuse.EINVAL
	}
	return fs.at(in.NodeId, from, func(dir int) error {
		n, err := fs.table.node(in.Newdir)
		if err != nil {
			return err
		}
		defer fs.table.done(n)
		return unix.Renameat2(dir, from, n.fd, to, uint(in.Flags))
	})
}

func (fs *filesystem) Readlink(_ <-chan struct{}, in *fuse.InHeader) (out []byte, s fuse.Status) {
	s = fs.with(in.NodeId, func(n *node) error {
		buf := make([]byte, unix.PathMax)
		size, err := unix.Readlinkat(n.fd, "", buf)
		if err == nil {
			out = buf[:size]
		}
		return err
	})
	return out, s
}

func (fs *filesystem) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

func (fs *filesystem) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error {
		var st syscall.Statfs_t
		if err := syscall.Fstatfs(n.fd, &st); err != nil {
			return err
		}
		out.FromStatfsT(&st)
		return nil
	})
}

func (fs *filesystem) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (size uint32, s fuse.Status) {
	s = fs.with(in.NodeId, func(n *node) error {
		got, err := unix.Getxattr(n.path(), name, dest)
		size = uint32(max(got, 0))
		return err
	})
	return size, s
}

func (fs *filesystem) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (size uint32, s fuse.Status) {
	s = fs.with(in.NodeId, func(n *node) error {
		got, err := unix.Listxattr(n.path(), dest)
		size = uint32(max(got, 0))
		return err
	})
	return size, s
}

func (fs *filesystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error { return unix.Setxattr(n.path(), name, data, int(in.Flags)) })
}

func (fs *filesystem) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error { return unix.Removexattr(n.path(), name) })
}
