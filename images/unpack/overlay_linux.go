package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	auxPrefix      = ".wh..wh." // aufs' own bookkeeping, of no meaning here
	opaqueXattr    = "trusted.overlay.opaque"
	paxXattr       = "SCHILY.xattr."
	maxOpenDirs    = 128
	copySize       = 256 << 10
	inodeSize      = 256 // what an empty file costs, bytes
)

// Overlay unpacks the layer r into dir, an empty directory that becomes one of
// an overlay's: a deleted file is a 0:0 character device, a directory that
// hides the lower one has the opaque attribute. Lower layers are not needed, so
// a whole image unpacks at once. It needs root.
func Overlay(ctx context.Context, r io.Reader, dir string, o Options) (Result, error) {
	return stream(ctx, r, o, func(ctx context.Context, tr io.Reader, o Options) ([]string, error) {
		x, err := newExtractor(dir, o)
		if err != nil {
			return nil, err
		}
		defer x.close()
		return x.run(ctx, tr)
	})
}

// extractor writes the entries of one layer.
type extractor struct {
	root    int            // descriptor of the layer's directory
	dirs    map[string]int // open parents by clean path; "" is root
	mtimes  map[string]unix.Timespec
	implied map[string]struct{} // directories made for want of an entry
	buf     []byte
	budget  *Budget
	entries int // how many more may be made
}

func newExtractor(dir string, o Options) (*extractor, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open layer directory %s: %w", dir, err)
	}
	n := o.Entries
	if n == 0 {
		n = DefaultEntries
	}
	return &extractor{
		root: fd, dirs: map[string]int{}, mtimes: map[string]unix.Timespec{},
		implied: map[string]struct{}{}, buf: make([]byte, copySize), budget: o.Budget, entries: n,
	}, nil
}

func (x *extractor) close() {
	x.forget()
	unix.Close(x.root)
}

// forget closes the cached parents: one of them may no longer be where its
// path leads.
func (x *extractor) forget() {
	for _, fd := range x.dirs {
		unix.Close(fd)
	}
	clear(x.dirs)
}

// run writes all entries, then the directories' times, which every entry
// written into them changed.
func (x *extractor) run(ctx context.Context, r io.Reader) ([]string, error) {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if n%256 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := x.count(); err != nil {
			return nil, err
		}
		if err := x.entry(h, tr); err != nil {
			return nil, fmt.Errorf("layer entry %q: %w", shorten(h.Name), err)
		}
	}
	for p, t := range x.mtimes {
		parent, base := split(p)
		if p == "" {
			parent, base = "", "."
		}
		fd, err := x.open(parent)
		if err != nil {
			return nil, err
		}
		if err := unix.UtimesNanoAt(fd, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, fmt.Errorf("set time of %q: %w", p, err)
		}
	}
	if _, ok := x.mtimes[""]; !ok {
		x.implied[""] = struct{}{}
	}
	return slices.Sorted(maps.Keys(x.implied)), nil
}

// count charges for one more file: an inode costs disk and memory even if empty.
func (x *extractor) count() error {
	if x.entries--; x.entries < 0 {
		return fmt.Errorf("layer has too many entries: %w", errdefs.ErrInvalidArgument)
	}
	return x.budget.Take(inodeSize)
}

func shorten(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// within cleans an entry's name to a path relative to the root. A name that
// climbs out of it is refused, an absolute one starts at it.
func within(name string) (string, error) {
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("leads out of the root: %w", errdefs.ErrInvalidArgument)
	}
	if strings.IndexByte(p, 0) >= 0 {
		return "", fmt.Errorf("holds a zero byte: %w", errdefs.ErrInvalidArgument)
	}
	if p == "." {
		return "", nil
	}
	return p, nil
}

// split is path.Split without the slash.
func split(p string) (dir, base string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return "", p
}

// entry writes one file, directory, link, device or whiteout.
func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	p, err := within(h.Name)
	if err != nil {
		return err
	}
	create, ok := makers[h.Typeflag]
	if !ok {
		return fmt.Errorf("has type %q, which no layer may hold: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	if p == "" {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root is not a directory: %w", errdefs.ErrInvalidArgument)
		}
		return x.finish(h, p, x.root, ".")
	}
	dir, base := split(p)
	if base != opaqueMarker && strings.Contains("/"+p, "/"+auxPrefix) {
		return nil
	}
	fd, err := x.open(dir)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(fd, dir, base)
	}
	was, err := x.clear(fd, p, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	if was == unix.S_IFDIR || was == unix.S_IFLNK {
		x.forget()
		if fd, err = x.open(dir); err != nil {
			return err
		}
	}
	if err := create(x, h, r, fd, base); err != nil {
		return err
	}
	if was == unix.S_IFCHR && h.Typeflag == tar.TypeDir {
		if err := x.setOpaque(fd, base); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeReg, tar.TypeGNUSparse:
		return nil // a link shares its target's attributes; a file has them already
	}
	return x.finish(h, p, fd, base)
}

// open returns a descriptor of a directory of the layer, made where it is
// missing. The kernel resolves it inside the root, links included.
func (x *extractor) open(dir string) (int, error) {
	if dir == "" {
		return x.root, nil
	}
	if fd, ok := x.dirs[dir]; ok {
		return fd, nil
	}
	fd, err := openIn(x.root, dir)
	if errors.Is(err, unix.ENOENT) {
		parent, base := split(dir)
		if strings.HasPrefix(base, whiteoutPrefix) {
			return -1, fmt.Errorf("%q is a whiteout, not a directory: %w", base, errdefs.ErrInvalidArgument)
		}
		pfd, perr := x.open(parent)
		if perr != nil {
			return -1, perr
		}
		if err := unix.Mkdirat(pfd, base, 0o755); errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("%q is a link to nothing: %w", dir, errdefs.ErrInvalidArgument)
		} else if err != nil {
			return -1, fmt.Errorf("make %q: %w", dir, sysErr(err))
		}
		if err := x.count(); err != nil {
			return -1, err
		}
		x.implied[dir] = struct{}{}
		fd, err = openIn(x.root, dir)
	}
	if err != nil {
		return -1, fmt.Errorf("open %q: %w", dir, sysErr(err))
	}
	if len(x.dirs) >= maxOpenDirs {
		x.forget()
	}
	x.dirs[dir] = fd
	return fd, nil
}

// openIn opens a directory inside root; a link leads to where it would if root
// were "/".
func openIn(root int, dir string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(root, dir, &how)
		// Somebody renamed a directory elsewhere on the machine meanwhile.
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		return fd, err
	}
}

// sysErr gives the errors that a hostile layer can provoke their kind.
func sysErr(err error) error {
	switch {
	case errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EMLINK),
		errors.Is(err, unix.E2BIG), errors.Is(err, unix.ERANGE):
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	}
	return err
}

// clear makes room for an entry at base and tells what kind of file it removed,
// 0 for none; S_IFCHR is a whiteout only. A directory stays for a directory.
func (x *extractor) clear(fd int, p, base string, wantDir bool) (kind uint32, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
		return 0, nil
	} else if err != nil {
		return 0, sysErr(err)
	}
	kind = st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR {
		if kind == unix.S_IFCHR && !isWhiteout(&st) {
			kind = unix.S_IFREG
		}
		return kind, sysErr(unix.Unlinkat(fd, base, 0))
	}
	if wantDir {
		return 0, nil
	}
	gone := func(d string) bool { return d == p || strings.HasPrefix(d, p+"/") }
	maps.DeleteFunc(x.mtimes, func(d string, _ unix.Timespec) bool { return gone(d) })
	maps.DeleteFunc(x.implied, func(d string, _ struct{}) bool { return gone(d) })
	return kind, removeAll(fd, base)
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// whiteout records that something of a lower layer is gone.
func (x *extractor) whiteout(fd int, dir, base string) error {
	if base == opaqueMarker {
		return x.setOpaque(fd, ".")
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("is a whiteout of nothing: %w", errdefs.ErrInvalidArgument)
	}
	var st unix.Stat_t
	err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		if err := unix.Mknodat(fd, name, unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("make whiteout of %q: %w", path.Join(dir, name), sysErr(err))
		}
		return nil
	case err != nil:
		return sysErr(err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		// A whiteout is about lower layers only: of ours, hide what is below.
		return x.setOpaque(fd, name)
	}
	return nil
}

func (x *extractor) setOpaque(fd int, base string) error {
	if err := setxattr(fd, base, opaqueXattr, []byte("y")); err != nil {
		return fmt.Errorf("mark opaque: %w", sysErr(err))
	}
	return nil
}

// makers create an entry in the directory fd. What is at base was cleared
// away, but for a directory where a directory is to be.
var makers = map[byte]func(x *extractor, h *tar.Header, r io.Reader, fd int, base string) error{
	tar.TypeDir:       (*extractor).mkdir,
	tar.TypeReg:       (*extractor).file,
	tar.TypeGNUSparse: (*extractor).file,
	tar.TypeSymlink:   (*extractor).symlink,
	tar.TypeLink:      (*extractor).link,
	tar.TypeChar:      (*extractor).device,
	tar.TypeBlock:     (*extractor).device,
	tar.TypeFifo:      (*extractor).device,
}

func (x *extractor) mkdir(_ *tar.Header, _ io.Reader, fd int, base string) error {
	if err := unix.Mkdirat(fd, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return sysErr(err)
	}
	return nil
}

// file writes a regular file with all its attributes, through one descriptor.
func (x *extractor) file(h *tar.Header, r io.Reader, dir int, base string) error {
	if err := x.budget.Take(h.Size); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return sysErr(err)
	}
	defer unix.Close(fd)
	for left := h.Size; left > 0; {
		n, err := r.Read(x.buf[:min(int64(len(x.buf)), left)])
		left -= int64(n)
		for b := x.buf[:n]; len(b) > 0; {
			w, werr := unix.Write(fd, b)
			if errors.Is(werr, unix.EINTR) {
				continue
			}
			if werr != nil {
				return sysErr(werr)
			}
			b = b[w:]
		}
		if errors.Is(err, io.EOF) && left > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return sysErr(err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return sysErr(err)
	}
	// After chown, which drops file capabilities.
	err = eachXattr(h, func(k string, v []byte) error { return unix.Fsetxattr(fd, k, v, 0) })
	if err != nil {
		return err
	}
	t := stamp(h)
	return sysErr(unix.UtimesNanoAt(dir, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW))
}

// symlink refuses one whose target climbs out of the root. An absolute target
// is the container's own business: nobody follows it outside.
func (x *extractor) symlink(h *tar.Header, _ io.Reader, fd int, base string) error {
	p, err := within(h.Name)
	if err != nil {
		return err
	}
	dir, _ := split(p)
	if !path.IsAbs(h.Linkname) {
		if _, err := within(path.Join(dir, h.Linkname)); err != nil {
			return fmt.Errorf("link to %q: %w", shorten(h.Linkname), err)
		}
	}
	return sysErr(unix.Symlinkat(h.Linkname, fd, base))
}

func (x *extractor) link(h *tar.Header, _ io.Reader, fd int, base string) error {
	target, err := within(h.Linkname)
	if err == nil && target == "" {
		err = fmt.Errorf("is the root: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("link to %q: %w", shorten(h.Linkname), err)
	}
	tdir, tbase := split(target)
	tfd, err := openIn(x.root, cmpDot(tdir))
	if err != nil {
		return fmt.Errorf("link to %q: %w", shorten(h.Linkname), sysErr(err))
	}
	defer unix.Close(tfd)
	var st unix.Stat_t
	if err := unix.Fstatat(tfd, tbase, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("link to %q: %w", shorten(h.Linkname), sysErr(err))
	}
	if isWhiteout(&st) {
		return fmt.Errorf("link to %q, which the layer deletes: %w", shorten(h.Linkname), errdefs.ErrInvalidArgument)
	}
	if err := unix.Linkat(tfd, tbase, fd, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", shorten(h.Linkname), sysErr(err))
	}
	return nil
}

func cmpDot(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

var deviceModes = map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}

func (x *extractor) device(h *tar.Header, _ io.Reader, fd int, base string) error {
	if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff {
		return fmt.Errorf("device %d:%d does not exist: %w", h.Devmajor, h.Devminor, errdefs.ErrInvalidArgument)
	}
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	if h.Typeflag == tar.TypeFifo {
		dev = 0
	}
	if h.Typeflag == tar.TypeChar && dev == 0 {
		return fmt.Errorf("character device 0:0 means a deleted file to overlayfs; use a .wh. entry: %w", errdefs.ErrInvalidArgument)
	}
	return sysErr(unix.Mknodat(fd, base, deviceModes[h.Typeflag]|0o600, int(dev)))
}

// finish sets what mkdir, symlink and mknod leave open.
func (x *extractor) finish(h *tar.Header, p string, fd int, base string) error {
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return sysErr(err)
	}
	if h.Typeflag != tar.TypeSymlink {
		// Not a link: nothing follows base.
		if err := unix.Fchmodat(fd, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return sysErr(err)
		}
	}
	err = eachXattr(h, func(k string, v []byte) error { return setxattr(fd, base, k, v) })
	if err != nil {
		return err
	}
	t := stamp(h)
	if h.Typeflag == tar.TypeDir {
		x.mtimes[p] = t
		delete(x.implied, p)
		return nil
	}
	return sysErr(unix.UtimesNanoAt(fd, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW))
}

func owner(h *tar.Header) (uid, gid int, err error) {
	if h.Uid < 0 || h.Uid >= 1<<32-1 || h.Gid < 0 || h.Gid >= 1<<32-1 {
		return 0, 0, fmt.Errorf("owner %d:%d does not exist: %w", h.Uid, h.Gid, errdefs.ErrInvalidArgument)
	}
	return h.Uid, h.Gid, nil
}

// stamp is the entry's time, in the range that file systems keep.
func stamp(h *tar.Header) unix.Timespec {
	t := h.ModTime
	if t.Before(time.Unix(0, 0)) || t.Unix() > 1<<34 {
		t = time.Unix(0, 0)
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// xattrDenied are attributes that mean something to the host, not to the
// container: the overlay's, and labels of the machine that built the image.
var xattrDenied = []string{"trusted.", "user.overlay.", "security.selinux", "security.evm", "security.ima", "system."}

// eachXattr calls set for the attributes that may be set. A file system or a
// kind of file that has no such attributes is no error, as with Docker.
func eachXattr(h *tar.Header, set func(k string, v []byte) error) error {
next:
	for k, v := range h.PAXRecords {
		k, ok := strings.CutPrefix(k, paxXattr)
		if !ok {
			continue
		}
		for _, d := range xattrDenied {
			if strings.HasPrefix(k, d) {
				continue next
			}
		}
		err := set(k, []byte(v))
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(k, "user.") {
			continue
		}
		if err != nil {
			return fmt.Errorf("attribute %q: %w", shorten(k), sysErr(err))
		}
	}
	return nil
}
