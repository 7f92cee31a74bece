package unpack

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// setxattr sets an attribute of base in the directory fd without following
// it. There is no such call relative to a descriptor before Linux 6.13, so the
// file is named through the descriptor's own link in /proc.
func setxattr(fd int, base, key string, value []byte) error {
	return unix.Lsetxattr("/proc/self/fd/"+strconv.Itoa(fd)+"/"+base, key, value, 0)
}

// removeAll deletes base in the directory fd and all below it, following nothing.
func removeAll(fd int, base string) error {
	err := unix.Unlinkat(fd, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return sysErr(err)
	}
	d, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return sysErr(err)
	}
	f := os.NewFile(uintptr(d), base)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAll(d, n); err != nil {
			return err
		}
	}
	return sysErr(unix.Unlinkat(fd, base, unix.AT_REMOVEDIR))
}

// Adopt gives the directories that a layer only implied, in dir, the mode,
// owner and time of the topmost of lowers (topmost first) that has them.
func Adopt(dir string, lowers, implied []string) error {
	if len(implied) == 0 || len(lowers) == 0 {
		return nil
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(root)
	for _, p := range implied {
		for _, l := range lowers {
			st, found, err := statIn(l, p)
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				if err := adopt(root, p, &st); err != nil {
					return fmt.Errorf("directory %q: %w", p, err)
				}
			}
			break
		}
	}
	return nil
}

// statIn looks at p in a lower layer, as is.
func statIn(lower, p string) (st unix.Stat_t, found bool, err error) {
	fd, err := unix.Open(lower, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, false, fmt.Errorf("open %s: %w", lower, err)
	}
	defer unix.Close(fd)
	parent, base := split(p)
	if p == "" {
		base = "."
	}
	dfd, err := openIn(fd, cmpDot(parent))
	if err != nil {
		return st, false, nil
	}
	defer unix.Close(dfd)
	if err := unix.Fstatat(dfd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, false, nil
	}
	return st, true, nil
}

func adopt(root int, p string, st *unix.Stat_t) error {
	fd, err := openIn(root, cmpDot(p))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchownat(fd, "", int(st.Uid), int(st.Gid), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	self := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Chmod(self, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, self, []unix.Timespec{st.Mtim, st.Mtim}, 0)
}
