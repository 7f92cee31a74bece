package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// maxDepth bounds the directories open at once while a tree is walked.
	maxDepth = 1024
	// maxXattr bounds one extended attribute (XATTR_SIZE_MAX).
	maxXattr = 64 << 10
	// paxXattr is how a tar header names an extended attribute.
	paxXattr = "SCHILY.xattr."
)

// ReadArchive returns a tar of the tree at p. Entries start with p's base name,
// with "." if p is the root or ends in "/.". The tree may change meanwhile: each
// file is given with the size it had when it was reached, padded with zeros if
// it shrank. The caller closes the reader; it may do so early.
func (r *Root) ReadArchive(p string) (io.ReadCloser, error) {
	clean := path.Clean("/" + p)
	dir, base := path.Split(clean)
	name := base
	follow := strings.HasSuffix(p, "/.")
	if follow || clean == "/" {
		dir, base, name = clean, ".", "."
	} else if strings.HasSuffix(p, "/") {
		follow = true
	}
	parent, err := r.open(dir, unix.O_RDONLY|unix.O_DIRECTORY, true)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, kind(err))
	}
	if follow && base != "." {
		// "link/" means the directory that the link leads to.
		target, err := r.open(clean, unix.O_RDONLY|unix.O_DIRECTORY, true)
		parent.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, kind(err))
		}
		parent, base = target, "."
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		parent.Close()
		return nil, fmt.Errorf("%s: %w", p, kind(err))
	}
	return pipe(func(w io.Writer) error {
		defer parent.Close()
		t := newTreeWriter(w)
		if err := t.add(int(parent.Fd()), base, name, 0); err != nil {
			return err
		}
		return t.tar.Close()
	}), nil
}

// pipe runs produce in a goroutine that ends when it is done or the reader is
// closed.
func pipe(produce func(io.Writer) error) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(produce(pw)) }()
	return pr
}

// treeWriter writes files as tar entries.
type treeWriter struct {
	tar   *tar.Writer
	links map[inode]string // files with several names: the first one seen
	buf   []byte
}

type inode struct{ dev, ino uint64 }

func newTreeWriter(w io.Writer) *treeWriter {
	return &treeWriter{tar: tar.NewWriter(w), links: map[inode]string{}, buf: make([]byte, 128<<10)}
}

// add writes the file base of directory dir, and what is below it, as name.
func (t *treeWriter) add(dir int, base, name string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep: %w", name, maxDepth, errdefs.ErrInvalidArgument)
	}
	isDir, err := t.entry(dir, base, name)
	if err != nil || !isDir {
		return err
	}
	f, err := openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return vanished(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, n := range names {
		if err := t.add(int(f.Fd()), n, join(name, n), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// vanished forgives a file that was removed while its tree is read.
func vanished(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// openAt opens exactly dir/base, which is never a symlink.
func openAt(dir int, base string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dir, base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), base), nil
	}
}

// entry writes one file and tells whether it is a directory.
func (t *treeWriter) entry(dir int, base, name string) (isDir bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, vanished(err)
	}
	h := header(&st, name)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return false, nil // has no meaning without its listener
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, base, buf)
		if err != nil {
			return false, vanished(err)
		}
		h.Linkname = string(buf[:n])
		return false, t.tar.WriteHeader(h)
	case unix.S_IFDIR:
		f, err := openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return false, vanished(err)
		}
		defer f.Close()
		addXattrs(int(f.Fd()), h)
		return true, t.tar.WriteHeader(h)
	case unix.S_IFREG:
		return false, t.regular(dir, base, h, &st)
	}
	return false, t.tar.WriteHeader(h)
}

func (t *treeWriter) regular(dir int, base string, h *tar.Header, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, seen := t.links[id]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return t.tar.WriteHeader(h)
		}
		t.links[id] = h.Name
	}
	// O_NONBLOCK: a FIFO swapped in for the file must not hold us.
	f, err := openAt(dir, base, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return vanished(err)
	}
	defer f.Close()
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return err
	}
	if now.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil // was swapped for something else meanwhile
	}
	h.Size = now.Size
	addXattrs(int(f.Fd()), h)
	if err := t.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{t.tar}, io.LimitReader(f, now.Size), t.buf)
	if err != nil {
		return err
	}
	_, err = io.CopyN(t.tar, zeros{}, now.Size-n)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// types maps the file types that tar knows.
var types = map[uint32]byte{
	unix.S_IFREG: tar.TypeReg,
	unix.S_IFDIR: tar.TypeDir,
	unix.S_IFLNK: tar.TypeSymlink,
	unix.S_IFCHR: tar.TypeChar,
	unix.S_IFBLK: tar.TypeBlock,
	unix.S_IFIFO: tar.TypeFifo,
}

func header(st *unix.Stat_t, name string) *tar.Header {
	h := &tar.Header{
		Typeflag: types[st.Mode&unix.S_IFMT],
		Name:     name,
		Mode:     int64(st.Mode & 0o7777),
		Uid:      int(st.Uid),
		Gid:      int(st.Gid),
		ModTime:  time.Unix(st.Mtim.Sec, 0),
		Format:   tar.FormatPAX,
	}
	switch h.Typeflag {
	case tar.TypeDir:
		h.Name += "/"
	case tar.TypeChar, tar.TypeBlock:
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return h
}

// keepXattr says which extended attributes belong to an image: file
// capabilities and the user's own. Overlay's and the security modules' do not.
func keepXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.")
}

func addXattrs(fd int, h *tar.Header) {
	size, err := unix.Flistxattr(fd, nil)
	if err != nil || size == 0 {
		return
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(fd, list); err != nil {
		return
	}
	value := make([]byte, maxXattr)
	for _, name := range strings.Split(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		if !keepXattr(name) {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+name] = string(value[:n])
	}
}
