package volmount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/mount"
	"github.com/caisson-engine/caisson/platform_linux/rootfs"
)

// Device is what is mounted.
type Device struct {
	Type    string   // of the file system; means nothing to a bind
	Source  string   // as the file system takes it; of a bind a path
	Options []string // as mount -o takes them
	Bind    bool     // of Source
	Deep    bool     // a bind also of what is mounted below Source
}

// Mount mounts a device at dir, which is made if it is not there. What is mounted
// already stays.
func Mount(dir string, d Device) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if at, err := mounted(dir); err != nil || at {
		return err
	}
	words, err := resolved(d)
	if err != nil {
		return err
	}
	o := mount.Parse(words)
	if o.Bind || o.Recursive || o.CopyUp || o.IDMap {
		return fmt.Errorf("mount %s: an option of %q has no meaning here: %w", d.Source, strings.Join(d.Options, ","), errdefs.ErrInvalidArgument)
	}
	var fd int
	if d.Bind {
		o.Recursive = d.Deep
		fd, err = mount.Tree(unix.AT_FDCWD, d.Source, &o)
	} else {
		fd, err = mount.FS(d.Type, d.Source, &o)
	}
	if d.Type == "overlay" && errors.Is(err, mount.ErrTooLong) {
		err = mount.AttachOverlay(d.Source, dir, &o)
	} else if err == nil {
		defer unix.Close(fd)
		err = attach(fd, dir)
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", d.Source, kind(err))
	}
	return nil
}

// lookupTime bounds how long a name is looked up.
const lookupTime = 10 * time.Second

// resolved are the options with the address of addr=NAME, which the kernel takes
// as a number only.
func resolved(d Device) ([]string, error) {
	out := append([]string(nil), d.Options...)
	for i, o := range out {
		name, ok := strings.CutPrefix(o, "addr=")
		if !ok || net.ParseIP(name) != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
		ips, err := net.DefaultResolver.LookupIPAddr(ctx, name)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w: %w", d.Source, err, errdefs.ErrInvalidArgument)
		}
		out[i] = "addr=" + ips[0].String()
	}
	return out, nil
}

func attach(fd int, at string) error {
	to, err := unix.Open(at, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return mount.Attach(fd, to)
}

// Part makes dir what is at path inside root: a directory, or a file. Every link
// is followed inside root, and what is bound is what was opened, whatever whoever
// writes there does meanwhile.
func Part(root, path, dir string) error {
	r, err := rootfs.OpenDir(root)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	f, err := r.Open(path)
	if err != nil {
		return fmt.Errorf("subpath %s: %w", path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	switch {
	case st.IsDir():
		err = os.MkdirAll(dir, 0o755)
	case st.Mode().IsRegular():
		err = os.MkdirAll(filepath.Dir(dir), 0o755)
		if err == nil {
			err = os.WriteFile(dir, nil, 0o600)
		}
	default:
		err = fmt.Errorf("subpath %s is neither a directory nor a file: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	if at, err := mounted(dir); err != nil || at {
		return err
	}
	fd, err := mount.Tree(int(f.Fd()), "", &mount.Options{})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return attach(fd, dir)
}

// Unmount takes back all that was mounted at dir. Idempotent.
func Unmount(dir string) error {
	for {
		at, err := mounted(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !at {
			return err
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}

// mounted says whether something is mounted at a path.
func mounted(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, fmt.Errorf("the kernel does not tell what is mounted: Linux 5.8 does: %w", errdefs.ErrNotImplemented)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// kind gives the kernel's no a kind: it is about what the client asked for.
func kind(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// Pack is a tar of what is in a directory.
func Pack(dir string) (io.ReadCloser, error) {
	r, err := rootfs.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return r.ReadArchive("/")
}

// Unpack extracts a tar into a directory, which gets the owner and mode of the
// archive's own; device nodes only if devices says so.
func Unpack(dir string, tar io.Reader, devices bool) error {
	r, err := rootfs.OpenDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	return r.WriteArchive("/", tar, rootfs.WriteOptions{Devices: devices, Itself: true})
}
