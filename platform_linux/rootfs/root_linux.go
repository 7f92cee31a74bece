package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxLinks bounds the symlinks followed while a path is explained, as the
// kernel's own MAXSYMLINKS does.
const maxLinks = 40

// Root is an open root directory. It is safe for concurrent use; Close waits
// for nobody, so a reader still open then fails with an error.
type Root struct {
	dir *os.File
	// ns keeps the mount namespace of a detached root alive, nil for a live one.
	ns *os.File
}

// OpenLive opens the root that a process sees, with everything mounted in it.
// The caller makes sure that the pid is still the process it means (a pidfd
// that is not readable after this call proves it).
func OpenLive(pid int) (*Root, error) {
	dir, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root of process %d: %w", pid, kind(err))
	}
	return &Root{dir: dir}, nil
}

// OpenDir opens a directory of the host as a root.
func OpenDir(path string) (*Root, error) {
	dir, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, kind(err))
	}
	return &Root{dir: dir}, nil
}

// Open opens what p is inside the root, after every link. It is only good for
// looking at it and for binding it somewhere.
func (r *Root) Open(p string) (*os.File, error) {
	f, err := r.open(path.Clean("/"+p), unix.O_PATH, true)
	if err != nil {
		return nil, kind(err)
	}
	return f, nil
}

// Close gives the root back; a detached one is unmounted by that.
func (r *Root) Close() error {
	err := r.dir.Close()
	if r.ns != nil {
		err = errors.Join(err, r.ns.Close())
	}
	return err
}

// Stat is what is known of one path.
type Stat struct {
	Name  string // base name, "/" for the root
	Size  int64  // bytes
	Mode  fs.FileMode
	Mtime time.Time
	// LinkTarget is where a symlink leads in the end, absolute inside the root.
	LinkTarget string
}

// Stat describes path without following a final symlink, unless the path ends
// in a slash or "/.".
func (r *Root) Stat(p string) (Stat, error) {
	follow := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	clean := path.Clean("/" + p)
	f, err := r.open(clean, unix.O_PATH, follow)
	if err != nil {
		return Stat{}, fmt.Errorf("%s: %w", p, kind(err))
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Stat{}, err
	}
	if follow && !fi.IsDir() {
		return Stat{}, fmt.Errorf("%s: not a directory: %w", p, errdefs.ErrInvalidArgument)
	}
	s := Stat{Name: path.Base(clean), Size: fi.Size(), Mode: fi.Mode(), Mtime: fi.ModTime()}
	if fi.Mode()&fs.ModeSymlink != 0 {
		s.LinkTarget = r.explain(clean)
	}
	return s, nil
}

// open resolves p inside the root. Magic links (/proc/<pid>/exe and the like)
// are never followed: they lead out of every root.
func (r *Root) open(p string, flags int, follow bool) (*os.File, error) {
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	return openIn(int(r.dir.Fd()), strings.TrimPrefix(p, "/"), flags, 0)
}

// openIn is openat2 with dir as root.
func openIn(dir int, p string, flags int, mode uint32) (*os.File, error) {
	if p == "" {
		p = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, p, &how)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), p), nil
		case unix.EINTR, unix.EAGAIN:
			// EAGAIN: something was renamed during the walk (openat2(2)).
			continue
		}
		return nil, err
	}
}

// explain follows the symlink at p as text, inside the root, to tell a client
// where it leads. The answer is information only; nothing is opened by it.
func (r *Root) explain(p string) string {
	for range maxLinks {
		dir, base := path.Split(p)
		d, err := r.open(dir, unix.O_PATH|unix.O_DIRECTORY, true)
		if err != nil {
			return p
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(d.Fd()), base, buf)
		d.Close()
		if err != nil {
			return p
		}
		target := string(buf[:n])
		if !path.IsAbs(target) {
			target = path.Join(dir, target)
		}
		p = path.Clean(target)
	}
	return p
}

// kinds gives the errors of path walks their kind.
var kinds = map[unix.Errno]error{
	unix.ENOENT:       errdefs.ErrNotFound,
	unix.ESRCH:        errdefs.ErrNotFound,
	unix.ENOTDIR:      errdefs.ErrInvalidArgument,
	unix.ELOOP:        errdefs.ErrInvalidArgument,
	unix.ENAMETOOLONG: errdefs.ErrInvalidArgument,
	unix.EACCES:       errdefs.ErrPermissionDenied,
	unix.EPERM:        errdefs.ErrPermissionDenied,
	unix.EROFS:        errdefs.ErrPermissionDenied,
	unix.ENOSPC:       errdefs.ErrResourceExhausted,
	unix.EDQUOT:       errdefs.ErrResourceExhausted,
}

// kind wraps err so that both its text and its kind travel on.
func kind(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		if k, ok := kinds[errno]; ok {
			return fmt.Errorf("%w: %w", errno, k)
		}
	}
	return err
}
