package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxEntries bounds the entries of one archive that is written into a root.
const maxEntries = 10_000_000

// Owner is who extracted files belong to.
type Owner struct{ UID, GID int }

// WriteOptions say how an archive is extracted.
type WriteOptions struct {
	// NoOverwriteDirNonDir refuses to replace a directory by something else and
	// the other way round.
	NoOverwriteDirNonDir bool
	// Chown gives every file to one owner; nil keeps the archive's.
	Chown *Owner
	// Devices allows device nodes.
	Devices bool
	// Itself lets the archive's own entry, ".", give the destination its owner and
	// mode.
	Itself bool
}

// WriteArchive extracts a tar into the existing directory p. Names are resolved
// inside the root entry by entry; one that climbs out of p is an error. What was
// extracted before an error stays.
func (r *Root) WriteArchive(p string, archive io.Reader, o WriteOptions) error {
	dir, err := r.open(path.Clean("/"+p), unix.O_PATH|unix.O_DIRECTORY, true)
	if err != nil {
		return fmt.Errorf("%s: %w", p, kind(err))
	}
	defer dir.Close()
	x := extractor{root: r, prefix: path.Clean("/" + p), base: int(dir.Fd()), opts: o, buf: make([]byte, 128<<10)}
	tr := tar.NewReader(archive)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return x.finish()
		}
		if err != nil {
			return fmt.Errorf("read archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if n == maxEntries {
			return fmt.Errorf("archive has more than %d entries: %w", maxEntries, errdefs.ErrInvalidArgument)
		}
		if err := x.extract(h, tr); err != nil {
			return err
		}
	}
}

// extractor writes entries below prefix. Every path is walked from the
// container's root, so that a symlink already there or made by the archive
// leads where it would lead the container, and never out.
type extractor struct {
	root   *Root
	prefix string
	base   int // prefix, open
	opts   WriteOptions
	buf    []byte
	dirs   []dirTime
}

// dirTime is a directory's time, set last: writing into it changes it.
type dirTime struct {
	name  string
	times []unix.Timespec
}

// clean makes an entry's name relative to the destination.
func clean(h *tar.Header) (string, error) {
	for _, part := range strings.Split(h.Name, "/") {
		if part == ".." {
			return "", fmt.Errorf("invalid tar entry %q: it leads out of the destination: %w", h.Name, errdefs.ErrInvalidArgument)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+h.Name), "/"), nil
}

func (x *extractor) extract(h *tar.Header, body io.Reader) error {
	name, err := clean(h)
	if err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("extract %q: %w", h.Name, kind(err)) }
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return fail(errdefs.ErrInvalidArgument)
		}
		if !x.opts.Itself {
			return nil // it keeps its attributes
		}
		if err := x.finishAt(x.base, ".", h); err != nil {
			return fail(err)
		}
		if err := unix.Fchmodat(x.base, ".", unixMode(h.FileInfo().Mode()), 0); err != nil {
			return fail(err)
		}
		return nil
	}
	dirName, baseName := path.Split(name)
	parent, err := x.mkdirs(strings.TrimSuffix(dirName, "/"))
	if err != nil {
		return fail(err)
	}
	defer parent.close()
	if err := x.replace(parent.fd, baseName, h); err != nil {
		return fail(err)
	}
	if err := x.create(parent.fd, baseName, h, body); err != nil {
		return fail(err)
	}
	return nil
}

// open opens a directory below the destination.
func (x *extractor) open(name string, flags int) (*os.File, error) {
	return openIn(int(x.root.dir.Fd()), strings.TrimPrefix(path.Join(x.prefix, name), "/"), unix.O_RDONLY|unix.O_DIRECTORY|flags, 0)
}

// parentDir is an open directory that may be the destination itself.
type parentDir struct {
	fd    int
	close func()
}

// mkdirs opens a directory below the destination, making what is missing of it.
func (x *extractor) mkdirs(name string) (parentDir, error) {
	if name == "" {
		return parentDir{x.base, func() {}}, nil
	}
	f, err := x.open(name, 0)
	if errors.Is(err, unix.ENOENT) {
		dirName, baseName := path.Split(name)
		up, err := x.mkdirs(strings.TrimSuffix(dirName, "/"))
		if err != nil {
			return parentDir{}, err
		}
		err = unix.Mkdirat(up.fd, baseName, 0o755)
		up.close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return parentDir{}, err
		}
		f, err = x.open(name, 0)
		if err != nil {
			return parentDir{}, err
		}
		return parentDir{int(f.Fd()), func() { f.Close() }}, nil
	}
	if err != nil {
		return parentDir{}, err
	}
	return parentDir{int(f.Fd()), func() { f.Close() }}, nil
}

// replace removes what is in the way of h; a directory stays for a directory.
func (x *extractor) replace(dir int, base string, h *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	isDir, wantDir := st.Mode&unix.S_IFMT == unix.S_IFDIR, h.Typeflag == tar.TypeDir
	if isDir && wantDir {
		return nil
	}
	if x.opts.NoOverwriteDirNonDir && isDir != wantDir {
		if isDir {
			return fmt.Errorf("cannot overwrite directory %q with non-directory: %w", h.Name, errdefs.ErrInvalidArgument)
		}
		return fmt.Errorf("cannot overwrite non-directory %q with directory: %w", h.Name, errdefs.ErrInvalidArgument)
	}
	return removeAll(dir, base, 0)
}

// removeAll removes dir/base and what is below it, following nothing.
func removeAll(dir int, base string, depth int) error {
	err := unix.Unlinkat(dir, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep: %w", base, maxDepth, errdefs.ErrInvalidArgument)
	}
	f, err := openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAll(int(f.Fd()), n, depth+1); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

func (x *extractor) create(dir int, base string, h *tar.Header, body io.Reader) error {
	mode := unixMode(h.FileInfo().Mode())
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(dir, base, 0o700); err != nil && err != unix.EEXIST {
			return err
		}
	case tar.TypeReg:
		return x.regular(dir, base, h, mode, body)
	case tar.TypeLink:
		return x.link(dir, base, h)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, dir, base); err != nil {
			return err
		}
		return x.finishAt(dir, base, h)
	case tar.TypeChar, tar.TypeBlock:
		if !x.opts.Devices {
			return fmt.Errorf("device nodes are not allowed: %w", errdefs.ErrPermissionDenied)
		}
		bits := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			bits = unix.S_IFBLK
		}
		if err := unix.Mknodat(dir, base, bits|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return err
		}
	case tar.TypeFifo:
		if err := unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("unknown tar entry type %q: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	if err := x.finishAt(dir, base, h); err != nil {
		return err
	}
	if err := unix.Fchmodat(dir, base, mode, 0); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		name, _ := clean(h)
		x.dirs = append(x.dirs, dirTime{name, timespecs(h)})
		f, err := openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer f.Close()
		return setXattrs(int(f.Fd()), h)
	}
	return nil
}

func (x *extractor) regular(dir int, base string, h *tar.Header, mode uint32, body io.Reader) error {
	f, err := openAt(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, body, x.buf); err != nil {
		return err
	}
	fd := int(f.Fd())
	owner := x.owner(h)
	if err := unix.Fchown(fd, owner.UID, owner.GID); err != nil {
		return err
	}
	// After chown, which clears the set-id bits and file capabilities.
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	if err := setXattrs(fd, h); err != nil {
		return err
	}
	ts := timespecs(h)
	if err := unix.UtimesNanoAt(dir, base, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return f.Close()
}

// link makes a hard link to an entry of the same archive, or to a file that is
// there already: both inside the destination.
func (x *extractor) link(dir int, base string, h *tar.Header) error {
	target, err := clean(&tar.Header{Name: h.Linkname})
	if err != nil {
		return err
	}
	dirName, baseName := path.Split(target)
	parent, err := x.open(dirName, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	return unix.Linkat(int(parent.Fd()), baseName, dir, base, 0)
}

// finishAt sets owner and times of anything but a regular file.
func (x *extractor) finishAt(dir int, base string, h *tar.Header) error {
	owner := x.owner(h)
	if err := unix.Fchownat(dir, base, owner.UID, owner.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.UtimesNanoAt(dir, base, timespecs(h), unix.AT_SYMLINK_NOFOLLOW)
}

func (x *extractor) owner(h *tar.Header) Owner {
	if x.opts.Chown != nil {
		return *x.opts.Chown
	}
	return Owner{h.Uid, h.Gid}
}

// finish sets the times of directories, the deepest first.
func (x *extractor) finish() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		f, err := x.open(d.name, unix.O_NOFOLLOW)
		if err != nil {
			continue // a later entry replaced it
		}
		err = unix.UtimesNanoAt(int(f.Fd()), ".", d.times, 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("set time of %q: %w", d.name, kind(err))
		}
	}
	return nil
}

func timespecs(h *tar.Header) []unix.Timespec {
	access := h.AccessTime
	if access.IsZero() {
		access = h.ModTime
	}
	a, _ := unix.TimeToTimespec(access)
	m, _ := unix.TimeToTimespec(h.ModTime)
	return []unix.Timespec{a, m}
}

// setXattrs sets the attributes that an image may carry; the others of a
// hostile archive (trusted.overlay.*, security.*) are dropped.
func setXattrs(fd int, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !keepXattr(name) {
			continue
		}
		err := unix.Fsetxattr(fd, name, []byte(value), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

func unixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for goBit, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX} {
		if m&goBit != 0 {
			bits |= bit
		}
	}
	return bits
}
