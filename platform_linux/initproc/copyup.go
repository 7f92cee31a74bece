//go:build linux

package initproc

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxCopyDepth bounds how deep copyUp goes, and so its descriptors and stack.
const maxCopyDepth = 256

// isEmpty tells whether a directory, given by an O_PATH descriptor, has nothing
// in it; one that cannot be read counts as full.
func isEmpty(fd int) bool {
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	var buf [4096]byte
	for {
		n, err := unix.ReadDirent(dir, buf[:])
		if err != nil {
			return false
		}
		if n == 0 {
			return true
		}
		if _, _, names := syscall.ParseDirent(buf[:n], 1, nil); len(names) > 0 {
			return false
		}
	}
}

// copyUp copies the content of the directory from into the directory to, both
// given by descriptors, with owners, modes, times and links. Nothing is
// followed: neither links nor other mounts' content below is of interest.
func copyUp(from, to int) error {
	src, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	return copyDir(src, to, 0)
}

func copyDir(src, dst, depth int) error {
	if depth > maxCopyDepth {
		return syscall.ELOOP
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(src, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		_, _, names := syscall.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if err := copyEntry(src, dst, name, depth); err != nil {
				return err
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	return copyMeta(dst, "", &st)
}

func copyEntry(src, dst int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dst, name, 0o700); err != nil {
			return err
		}
		const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		s, err := unix.Openat(src, name, flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		d, err := unix.Openat(dst, name, flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(d)
		return copyDir(s, d, depth+1)
	case unix.S_IFLNK:
		var link [unix.PathMax]byte
		n, err := unix.Readlinkat(src, name, link[:])
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(link[:n]), dst, name); err != nil {
			return err
		}
	case unix.S_IFREG:
		if err := copyFile(src, dst, name); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(dst, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return copyMeta(dst, name, &st)
}

func copyFile(src, dst int, name string) error {
	s, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	d, err := unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	for {
		n, err := unix.Sendfile(d, s, nil, 1<<20)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// copyMeta sets owner, mode and times of name in dir, or of dir itself.
func copyMeta(dir int, name string, st *unix.Stat_t) error {
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH
	if err := unix.Fchownat(dir, name, int(st.Uid), int(st.Gid), flags); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		path := name
		if path == "" {
			path = "."
		}
		if err := unix.Fchmodat(dir, path, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if name == "" {
		return nil
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}
