package userns

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/platform_linux/caps"
	"github.com/caisson-engine/caisson/platform_linux/mount"
)

// Map changes a detached mount and all below it so that the owners of its files
// are seen through the user namespace ns: what root owns on disk, root in the
// namespace owns.
func Map(fd, ns int) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
}

// mapped is a detached, mapped copy of the tree at dir.
func mapped(dir string, ns int) (int, error) {
	fd, err := mount.Tree(unix.AT_FDCWD, dir, &mount.Options{})
	if err != nil {
		return -1, err
	}
	if err := Map(fd, ns); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("map the owners of %s into the user namespace (the filesystem must support id-mapped mounts): %w: %w", dir, err, errdefs.ErrNotImplemented)
	}
	return fd, nil
}

// Overlay makes a detached overlay of which each layer is mapped. It must be
// made by the host's root: the layers are not the container's to read. uid and gid
// are who root in the namespace is outside.
func Overlay(o *mount.Options, ns, uid, gid int) (int, error) {
	layers := map[string][]string{}
	var rest []string
	for _, d := range o.Data {
		key, value, _ := strings.Cut(d, "=")
		switch key {
		case "lowerdir":
			layers[key] = append(layers[key], mount.SplitLower(value)...)
		case "upperdir", "workdir":
			layers[key] = []string{value}
		default:
			rest = append(rest, d)
		}
	}
	var open []int
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	var set []mount.FDOption
	for _, dir := range layers["lowerdir"] {
		fd, err := mapped(dir, ns)
		if err != nil {
			return -1, err
		}
		open = append(open, fd)
		set = append(set, mount.FDOption{Key: "lowerdir+", FD: fd})
	}
	if len(layers["upperdir"]) > 0 && len(layers["workdir"]) > 0 {
		// Both must be on one mount: that of the directory above them.
		upper, work := filepath.Clean(layers["upperdir"][0]), filepath.Clean(layers["workdir"][0])
		above := filepath.Dir(upper)
		if filepath.Dir(work) != above {
			return -1, fmt.Errorf("upperdir %s and workdir %s are not in one directory: %w", upper, work, errdefs.ErrInvalidArgument)
		}
		fd, err := mapped(above, ns)
		if err != nil {
			return -1, err
		}
		open = append(open, fd)
		for _, d := range [][2]string{{"upperdir", upper}, {"workdir", work}} {
			sub, err := unix.Openat(fd, filepath.Base(d[1]), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, fmt.Errorf("open %s: %w", d[1], err)
			}
			open = append(open, sub)
			set = append(set, mount.FDOption{Key: d[0], FD: sub})
		}
	}
	plain := *o
	plain.Data = rest
	fd, err := overlayAs(&plain, set, uid, gid)
	if err != nil {
		return -1, fmt.Errorf("%w (an overlay of mapped layers needs Linux 6.13)", err)
	}
	return fd, nil
}

// overlayAs makes an overlay as somebody who has an id in its mapped layers: the
// overlay makes its own directories and whiteouts with the credentials of its
// maker, and the host's root has no id there. All capabilities are kept.
func overlayAs(o *mount.Options, layers []mount.FDOption, uid, gid int) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: a thread with other ids ends with its goroutine.
		runtime.LockOSThread()
		had, cerr := caps.Get()
		if err = cerr; err != nil {
			return
		}
		_, _ = unix.SetfsgidRetGid(gid)
		_, _ = unix.SetfsuidRetUid(uid) // takes the capabilities over files away
		if err = caps.Set(had); err == nil {
			fd, err = mount.Overlay(o, layers)
		}
	}()
	<-done
	return fd, err
}

// Tree makes a detached copy of a path's tree, mapped if o says so.
func Tree(path string, o *mount.Options, ns int) (int, error) {
	fd, err := mount.Tree(unix.AT_FDCWD, path, o)
	if err != nil {
		return -1, err
	}
	if !o.IDMap {
		return fd, nil
	}
	if err := Map(fd, ns); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("map the owners of %s into the user namespace: %w: %w", path, err, errdefs.ErrNotImplemented)
	}
	return fd, nil
}

// Root is who root in the user namespace of process pid is outside of it.
func Root(pid int) (uid, gid int, err error) {
	if uid, err = first(pid, "uid_map"); err == nil {
		gid, err = first(pid, "gid_map")
	}
	return uid, gid, err
}

// first finds what id 0 is mapped to. Lines are "inside outside count".
func first(pid int, name string) (int, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/" + name
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "0" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("%s maps no root: %w", path, syscall.EINVAL)
}

// Own gives the pipes and sockets among files to root of a user namespace, which
// could not do so itself.
func Own(files []*os.File, uid, gid int) error {
	for i, f := range files {
		if f == nil || slices.Contains(files[:i], f) {
			continue
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
			continue
		}
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return nil
}
