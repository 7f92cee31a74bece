package diskquota

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	flags, extsize, nextents, project, cow uint32
	_                                      [8]byte
}

const (
	getXattr = 0x801c581f // FS_IOC_FSGETXATTR
	setXattr = 0x401c5820 // FS_IOC_FSSETXATTR
	inherit  = 0x200      // FS_XFLAG_PROJINHERIT: what is made in the directory is of its project
)

func ioctl(fd int, cmd uint, x *fsxattr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(x))); errno != 0 {
		return errno
	}
	return nil
}

// project is the one that a directory is of, 0 for none.
func project(dir string) (uint32, error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var x fsxattr
	if err := ioctl(int(f.Fd()), getXattr, &x); err != nil {
		return 0, fmt.Errorf("read the project of %s: %w", dir, err)
	}
	return x.project, nil
}

// assign gives directories, and all that is in them already, a project. A
// directory comes before what is in it, so that what is made meanwhile is of the
// project as well. One that is of it already is taken to be so with its contents.
func assign(id uint32, dirs []string) error {
	for _, dir := range dirs {
		if have, err := project(dir); err != nil {
			return err
		} else if have == id {
			continue
		}
		err := walk(context.Background(), dir, func(fd int, st *unix.Stat_t) error {
			kind := st.Mode & unix.S_IFMT
			if kind != unix.S_IFDIR && kind != unix.S_IFREG {
				return nil // a link or a device takes nothing worth counting
			}
			f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
			if err != nil {
				return err
			}
			defer f.Close()
			var x fsxattr
			if err := ioctl(int(f.Fd()), getXattr, &x); err != nil {
				return err
			}
			x.project = id
			if kind == unix.S_IFDIR {
				x.flags |= inherit
			}
			return ioctl(int(f.Fd()), setXattr, &x)
		})
		if err != nil {
			return fmt.Errorf("give %s a disk quota: %w", dir, err)
		}
	}
	return nil
}

// Measure adds up the blocks that directories take with all that is in them;
// what has several names counts once. One that is not there takes nothing.
func (f *FS) Measure(ctx context.Context, dirs ...string) (int64, error) {
	var sum int64
	seen := map[[2]uint64]bool{}
	for _, dir := range dirs {
		err := walk(ctx, dir, func(_ int, st *unix.Stat_t) error {
			if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				k := [2]uint64{st.Dev, st.Ino}
				if seen[k] {
					return nil
				}
				seen[k] = true
			}
			sum += st.Blocks * sector
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("measure %s: %w", dir, err)
		}
	}
	return sum, nil
}

// deepest bounds how deep a tree is walked: each level holds a descriptor.
const deepest = 512

// walk calls fn with an O_PATH descriptor and the status of dir and of all in
// it, each directory before what is in it. It follows no link and leaves neither
// the tree nor its file system, whatever somebody who writes there does
// meanwhile; what vanishes is passed over.
func walk(ctx context.Context, dir string, fn func(fd int, st *unix.Stat_t) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	return walkOne(ctx, fd, &st, st.Dev, 0, fn)
}

// walkOne walks what fd is, and closes it.
func walkOne(ctx context.Context, fd int, st *unix.Stat_t, dev uint64, depth int, fn func(int, *unix.Stat_t) error) error {
	defer unix.Close(fd)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := fn(fd, st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || depth == deepest {
		return nil
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		for _, name := range names {
			if err := walkEntry(ctx, fd, name, dev, depth+1, fn); err != nil {
				return err
			}
		}
		if err != nil || len(names) == 0 {
			return nil // its end, or it was removed meanwhile
		}
	}
}

func walkEntry(ctx context.Context, parent int, name string, dev uint64, depth int, fn func(int, *unix.Stat_t) error) error {
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != dev {
		unix.Close(fd)
		return err
	}
	return walkOne(ctx, fd, &st, dev, depth, fn)
}
