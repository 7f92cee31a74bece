package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Whiteouts of OCI layers (image-spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// ChangeKind says how a path differs from the image, as Docker numbers it.
type ChangeKind int

const (
	Modified ChangeKind = 0
	Added    ChangeKind = 1
	Deleted  ChangeKind = 2
)

// Change is one path that differs from the image.
type Change struct {
	Path string // absolute inside the root
	Kind ChangeKind
}

// Layer is the writable directory of an overlay root and what lies below it.
type Layer struct {
	Upper string
	Lower []string // topmost first
}

// ParseOverlay finds the layer of a root filesystem.
func ParseOverlay(rootfs []Mount) (Layer, error) {
	if len(rootfs) != 1 || rootfs[0].Type != "overlay" {
		return Layer{}, fmt.Errorf("only a root of one overlay mount has a layer of its own: %w", errdefs.ErrNotImplemented)
	}
	var l Layer
	for _, o := range rootfs[0].Options {
		switch key, value, _ := strings.Cut(o, "="); key {
		case "upperdir":
			l.Upper = value
		case "lowerdir":
			l.Lower = splitLower(value)
		}
	}
	if l.Upper == "" {
		return Layer{}, fmt.Errorf("the root is read-only and has no layer of its own: %w", errdefs.ErrFailedPrecondition)
	}
	return l, nil
}

// Changes lists what differs from the image, sorted by path. A directory is
// listed when it or something in it differs.
func (l Layer) Changes() ([]Change, error) {
	c := changes{at: map[string]int{}}
	if err := l.walk(&c); err != nil {
		return nil, err
	}
	sort.Slice(c.list, func(i, j int) bool { return c.list[i].Path < c.list[j].Path })
	return c.list, nil
}

// Diff returns the layer as an uncompressed OCI layer tar. The caller closes it.
func (l Layer) Diff() (io.ReadCloser, error) {
	if _, err := os.Stat(l.Upper); err != nil {
		return nil, fmt.Errorf("writable layer: %w", kind(err))
	}
	return pipe(func(w io.Writer) error {
		d := differ{newTreeWriter(w)}
		if err := l.walk(d); err != nil {
			return err
		}
		return d.out.tar.Close()
	}), nil
}

// visitor is told of each entry of the upper directory, parents first.
type visitor interface {
	// file is an entry that is there; below is what the image has at its place,
	// nil for nothing.
	file(dir int, base, path string, st *unix.Stat_t, below *unix.Stat_t) error
	// gone is an entry of the image that is not there any more.
	gone(path string) error
	// opaque is a directory that hides all that the image has in it; lower are
	// the image's directories there.
	opaque(path string, lower []*os.File) error
}

func (l Layer) walk(v visitor) error {
	upper, err := os.Open(l.Upper)
	if err != nil {
		return fmt.Errorf("writable layer: %w", kind(err))
	}
	defer upper.Close()
	var lower []*os.File
	defer func() { closeAll(lower) }()
	for _, dir := range l.Lower {
		f, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("image layer: %w", kind(err))
		}
		lower = append(lower, f)
	}
	return walkMerged(upper, lower, "", v, 0)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// walkMerged visits one directory of the upper tree, with the image's
// directories that it is merged with, topmost first.
func walkMerged(upper *os.File, lower []*os.File, at string, v visitor, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep: %w", at, maxDepth, errdefs.ErrInvalidArgument)
	}
	names, err := upper.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read %s: %w", at+"/", kind(err))
	}
	sort.Strings(names)
	for _, name := range names {
		if err := visit(upper, lower, name, at+"/"+name, v, depth); err != nil {
			return err
		}
	}
	return nil
}

func visit(upper *os.File, lower []*os.File, name, p string, v visitor, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(upper.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return vanished(err)
	}
	below := lookup(lower, name)
	if isWhiteout(&st) {
		if below == nil {
			return nil
		}
		return v.gone(p)
	}
	if below == nil && scaffold[p] == st.Mode&unix.S_IFMT && isEmpty(upper, name, &st) {
		return nil
	}
	if p == scaffoldDir && isDir(&st) && (below == nil || sameOwner(&st, below)) && onlyScaffold(upper, name) {
		return nil
	}
	if err := v.file(int(upper.Fd()), name, p, &st, below); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	dir, err := openAt(int(upper.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return vanished(err)
	}
	defer dir.Close()
	merged, err := descend(lower, name)
	if err != nil {
		return err
	}
	defer closeAll(merged)
	if isOpaque(dir) {
		if len(merged) > 0 {
			if err := v.opaque(p, merged); err != nil {
				return err
			}
		}
		return walkMerged(dir, nil, p, v, depth+1)
	}
	return walkMerged(dir, merged, p, v, depth+1)
}

// scaffold are the paths, and their file types, that are made where an image
// lacks them so that something can be mounted there. While empty they are no
// work of the container, and neither the list of changes nor an image made of it
// has them; docker keeps them in a layer of its own.
var scaffold = map[string]uint32{
	"/dev": unix.S_IFDIR, "/proc": unix.S_IFDIR, "/sys": unix.S_IFDIR,
	"/etc/hostname": unix.S_IFREG, "/etc/hosts": unix.S_IFREG, "/etc/resolv.conf": unix.S_IFREG,
}

// scaffoldDir changes its time by what is made in it.
const scaffoldDir = "/etc"

func isEmpty(upper *os.File, name string, st *unix.Stat_t) bool {
	if !isDir(st) {
		return st.Size == 0
	}
	dir, err := openAt(int(upper.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// onlyScaffold tells whether scaffoldDir holds scaffold and nothing else.
func onlyScaffold(upper *os.File, name string) bool {
	dir, err := openAt(int(upper.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	defer dir.Close()
	if isOpaque(dir) {
		return false
	}
	names, err := dir.Readdirnames(len(scaffold) + 1)
	if err != nil {
		return false
	}
	for _, n := range names {
		var st unix.Stat_t
		if unix.Fstatat(int(dir.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW) != nil ||
			scaffold[scaffoldDir+"/"+n] != st.Mode&unix.S_IFMT || st.Size != 0 {
			return false
		}
	}
	return true
}

func sameOwner(a, b *unix.Stat_t) bool { return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid }

// lookup is what the image shows at name, nil for nothing.
func lookup(lower []*os.File, name string) *unix.Stat_t {
	for _, dir := range lower {
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			if isWhiteout(&st) {
				return nil
			}
			return &st
		}
	}
	return nil
}

// descend opens the directories that the image merges at name.
func descend(lower []*os.File, name string) ([]*os.File, error) {
	var merged []*os.File
	for _, dir := range lower {
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			break // a whiteout or another file hides what is further below
		}
		f, err := openAt(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			closeAll(merged)
			return nil, fmt.Errorf("image layer: %w", kind(err))
		}
		merged = append(merged, f)
		if isOpaque(f) {
			break
		}
	}
	return merged, nil
}

// isWhiteout is overlayfs' mark of a removed entry (overlayfs.rst).
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func isOpaque(dir *os.File) bool {
	value := make([]byte, 8)
	n, err := unix.Fgetxattr(int(dir.Fd()), "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}

// changes collects what Changes returns.
type changes struct {
	list []Change
	at   map[string]int // index in list by path
}

func (c *changes) file(_ int, _, p string, st, below *unix.Stat_t) error {
	switch {
	case below == nil:
		c.add(p, Added)
	case isDir(st) && isDir(below) && sameDir(st, below):
		// copied up only to hold something below it, which lists it if it counts
	default:
		c.add(p, Modified)
	}
	return nil
}

func (c *changes) gone(p string) error {
	c.add(p, Deleted)
	return nil
}

func (c *changes) opaque(p string, lower []*os.File) error {
	seen := map[string]bool{}
	for i, dir := range lower {
		names, err := dir.Readdirnames(-1)
		if err != nil {
			return fmt.Errorf("image layer: %w", kind(err))
		}
		for _, name := range names {
			if !seen[name] && lookup(lower[i:], name) != nil {
				c.add(p+"/"+name, Deleted)
			}
			seen[name] = true
		}
	}
	return nil
}

// add lists p, after the directories above it, which are modified by it. An
// opaque directory's entry that exists again is listed as what it is now.
func (c *changes) add(p string, k ChangeKind) {
	for i := 1; i < len(p); i++ {
		if p[i] != '/' {
			continue
		}
		if _, listed := c.at[p[:i]]; !listed {
			c.set(p[:i], Modified)
		}
	}
	c.set(p, k)
}

func (c *changes) set(p string, k ChangeKind) {
	if i, listed := c.at[p]; listed {
		c.list[i].Kind = k
		return
	}
	c.at[p] = len(c.list)
	c.list = append(c.list, Change{p, k})
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

func sameDir(a, b *unix.Stat_t) bool {
	return sameOwner(a, b) && a.Mtim == b.Mtim
}

// differ writes what Diff returns.
type differ struct{ out *treeWriter }

func (d differ) file(dir int, base, p string, _, _ *unix.Stat_t) error {
	_, err := d.out.entry(dir, base, p[1:])
	return err
}

func (d differ) gone(p string) error {
	i := strings.LastIndexByte(p, '/')
	return d.out.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p[1:i+1] + whiteoutPrefix + p[i+1:], Mode: 0o644, Format: tar.FormatPAX})
}

func (d differ) opaque(p string, _ []*os.File) error {
	return d.out.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p[1:] + "/" + whiteoutOpaque, Mode: 0o644, Format: tar.FormatPAX})
}
