package share

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openFlags are those that mean something to the host. Caching is the guest's.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

// maxCopy bounds what one request copies, so that it ends soon.
const maxCopy = 16 << 20

// reopen opens what a node names, if it is a regular file: anything else could block,
// or act when it is opened.
func reopen(n *node, flags int) (int, error) {
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return -1, syscall.EISDIR
	default:
		return -1, syscall.ENXIO
	}
	return unix.Open(n.path(), flags&openFlags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
}

func (fs *filesystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error {
		// in.Mode are flags about the opening here.
		return fs.open(n, in.Flags, in.Mode&fuse.OPEN_KILL_SUIDGID != 0, out)
	})
}

func (fs *filesystem) open(n *node, flags uint32, dropBits bool, out *fuse.OpenOut) error {
	if dropBits {
		if err := dropSetID(n); err != nil {
			return err
		}
	}
	fd, err := reopen(n, int(flags))
	if err == nil {
		out.Fh = fs.table.open(fd)
	}
	return err
}

func (fs *filesystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return fs.at(in.NodeId, name, func(dir int) error {
		fd := -1
		err := as(in.Owner, func() (err error) {
			flags := int(in.Flags)&openFlags | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
			fd, err = unix.Openat(dir, name, flags, in.Mode&0o7777)
			return err
		})
		if errors.Is(err, unix.EEXIST) && in.Flags&unix.O_EXCL == 0 {
			// Somebody else was faster.
			if err := fs.enter(dir, name, &out.EntryOut); err != nil {
				return err
			}
			n, err := fs.table.node(out.NodeId)
			if err == nil {
				err = fs.open(n, in.Flags, in.OpenFlags&fuse.OPEN_KILL_SUIDGID != 0, &out.OpenOut)
				fs.table.done(n)
			}
			if err != nil {
				fs.table.forget(out.NodeId, 1)
			}
			return err
		}
		if err != nil {
			return err
		}
		return fs.made(fd, out)
	})
}

func (fs *filesystem) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error {
		fd := -1
		err := as(in.Owner, func() (err error) {
			flags := int(in.Flags)&openFlags | unix.O_TMPFILE | unix.O_CLOEXEC
			fd, err = unix.Openat(n.fd, ".", flags, in.Mode&0o7777)
			return err
		})
		if err != nil {
			return err
		}
		return fs.made(fd, out)
	})
}

// made tells of a file that was just made and opened.
func (fs *filesystem) made(fd int, out *fuse.CreateOut) error {
	name, err := unix.Open((&node{fd: fd}).path(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = fs.tell(name, &out.EntryOut)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	out.Fh = fs.table.open(fd)
	return nil
}

func (fs *filesystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	done := 0
	s := fs.opened(in.Fh, func(h *handle) error {
		for done < len(buf) {
			n, err := unix.Pread(h.fd, buf[done:], int64(in.Offset)+int64(done))
			if n <= 0 {
				if done > 0 {
					return nil //nolint:nilerr // the next read tells of it
				}
				return err
			}
			done += n
		}
		return nil
	})
	return fuse.ReadResultData(buf[:done]), s
}

func (fs *filesystem) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS // Write is used: messages are in one piece
}

func (fs *filesystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (written uint32, s fuse.Status) {
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if s := fs.with(in.NodeId, dropSetID); !s.Ok() {
			return 0, s
		}
	}
	s = fs.opened(in.Fh, func(h *handle) error {
		n, err := unix.Pwrite(h.fd, data, int64(in.Offset))
		written = uint32(max(n, 0))
		return err
	})
	return written, s
}

func (fs *filesystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	return fs.opened(in.Fh, func(h *handle) error {
		at, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
		out.Offset = uint64(at)
		return err
	})
}

func (fs *filesystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return fs.opened(in.Fh, func(h *handle) error {
		return unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length))
	})
}

func (fs *filesystem) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (written uint32, s fuse.Status) {
	s = fs.opened(in.FhIn, func(from *handle) error {
		to, err := fs.table.handle(in.FhOut)
		if err != nil {
			return err
		}
		defer fs.table.finish(to)
		offIn, offOut := int64(in.OffIn), int64(in.OffOut)
		n, err := unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(min(in.Len, maxCopy)), 0)
		written = uint32(max(n, 0))
		return err
	})
	return written, s
}

func (fs *filesystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	// A process that closes any descriptor of a file gives up its record locks.
	return fs.with(in.NodeId, func(n *node) error { n.unlock(in.LockOwner); return nil })
}

func (fs *filesystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.opened(in.Fh, func(h *handle) error {
		if in.FsyncFlags&1 != 0 {
			return unix.Fdatasync(h.fd)
		}
		return unix.Fsync(h.fd)
	})
}

func (fs *filesystem) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.Fsync(cancel, in)
}

func (fs *filesystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { fs.table.release(in.Fh) }

func (fs *filesystem) ReleaseDir(in *fuse.ReleaseIn) { fs.table.release(in.Fh) }

func (fs *filesystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error {
		fd, err := unix.Openat(n.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			out.Fh = fs.table.open(fd)
		}
		return err
	})
}

func (fs *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(in, func(_ int, e fuse.DirEntry) bool { return out.AddDirEntry(e) })
}

func (fs *filesystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(in, func(dir int, e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		// An entry of which nothing can be told is one that is only listed.
		if e.Name != "." && e.Name != ".." && fs.enter(dir, e.Name, entry) == nil {
			out.FixMode(entry.Mode)
		}
		return true
	})
}

// list gives entries of a directory from a place on until one does not fit.
func (fs *filesystem) list(in *fuse.ReadIn, add func(dir int, e fuse.DirEntry) bool) fuse.Status {
	return fs.opened(in.Fh, func(h *handle) error {
		h.reading.Lock()
		defer h.reading.Unlock()
		if _, err := unix.Seek(h.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
			return err
		}
		buf := make([]byte, 16<<10)
		for {
			n, err := unix.Getdents(h.fd, buf)
			if err != nil || n <= 0 {
				return err
			}
			for rest := buf[:n]; len(rest) > 0; {
				var e fuse.DirEntry
				rest = rest[e.Parse(rest):]
				if !add(h.fd, e) {
					return nil
				}
			}
		}
	})
}

func (fs *filesystem) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
