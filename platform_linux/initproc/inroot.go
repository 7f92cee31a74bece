//go:build linux

package initproc

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// root looks paths up below one directory, the container's root filesystem.
// Symbolic links are followed, but absolute ones and ".." stop at the root, and
// procfs's magic links, which lead out of any root, are refused.
type root int

const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// open opens path with flags. Its descriptor is the caller's to close.
func (r root) open(path string, flags uint64) (int, error) {
	return r.openHow(path, unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: inRoot})
}

func (r root) openHow(path string, how unix.OpenHow) (int, error) {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		path = "."
	}
	for {
		fd, err := unix.Openat2(int(r), path, &how)
		// EAGAIN: something was renamed or mounted during a look-up with "..".
		if errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EAGAIN) {
			continue
		}
		return fd, err
	}
}

// maxLinks is how many dangling links create follows, as the kernel would.
const maxLinks = 40

// create opens path as a place (O_PATH), making it and its parents where they
// are missing: a directory if dir, else an empty file.
func (r root) create(path string, dir bool) (int, error) {
	for range maxLinks {
		fd, err := r.open(path, unix.O_PATH)
		if !errors.Is(err, syscall.ENOENT) {
			return fd, err
		}
		link, err := r.createMissing(path, dir)
		if err != nil {
			return -1, err
		}
		if link != "" {
			path = link
		}
	}
	return -1, syscall.ELOOP
}

// createMissing makes what is missing of path. If a dangling symbolic link is in
// the way it makes nothing more, and returns path with the link replaced.
func (r root) createMissing(path string, dir bool) (string, error) {
	names := split(path)
	// The deepest part that exists; the root always does.
	have := len(names) - 1
	var at int
	var err error
	for ; ; have-- {
		at, err = r.open(strings.Join(names[:have], "/"), unix.O_PATH|unix.O_DIRECTORY)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOENT) || have == 0 {
			return "", err
		}
	}
	defer func() { unix.Close(at) }()
	for i := have; i < len(names); i++ {
		if names[i] == ".." && i > have {
			return "", nil // the kernel knows where that leads, now that the rest is there
		}
		if i == len(names)-1 && !dir {
			var fd int
			fd, err = unix.Openat(at, names[i], unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o755)
			if err == nil {
				unix.Close(fd)
			}
		} else {
			err = unix.Mkdirat(at, names[i], 0o755)
		}
		if errors.Is(err, syscall.EEXIST) {
			link, lerr := linkAt(at, names[i])
			if lerr == nil {
				if !strings.HasPrefix(link, "/") {
					link = strings.Join(names[:i], "/") + "/" + link
				}
				// No slash at the end, which would make a directory of a file.
				return strings.Join(append([]string{link}, names[i+1:]...), "/"), nil
			}
			if errors.Is(lerr, syscall.EINVAL) {
				err = nil // no link: somebody who shares this directory was faster
			}
		}
		if err != nil {
			return "", err
		}
		if i < len(names)-1 {
			next, err := unix.Openat(at, names[i], unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			unix.Close(at)
			at = next
		}
	}
	return "", nil
}

func linkAt(dir int, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	return string(buf[:max(n, 0)]), err
}

// split returns the names of a path without empty ones and dots. ".." stays,
// because only the kernel knows where it leads.
func split(path string) []string {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}

// maxFile bounds what is read of a file of the image, in bytes.
const maxFile = 4 << 20

// readFile reads a regular file below the root, at most maxFile bytes of it.
func (r root) readFile(path string) ([]byte, error) {
	// O_NONBLOCK: an image may have put a FIFO there.
	fd, err := r.open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, syscall.EINVAL
	}
	data := make([]byte, min(st.Size, maxFile))
	got := 0
	for got < len(data) {
		n, err := unix.Read(fd, data[got:])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		got += n
	}
	return data[:got], nil
}
