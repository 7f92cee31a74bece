//go:build linux

package initproc

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/mount"
)

// sysctls is step 10. They are written through a procfs that we just made and
// that is attached nowhere, because what lies at /proc in the container may be
// anything, and a write to it may do anything (CVE-2025-52881).
func (b *builder) sysctls() error {
	if len(b.k.Sysctls) == 0 {
		return nil
	}
	proc, err := mount.FS("proc", "proc", &mount.Options{})
	if err != nil {
		return err
	}
	defer unix.Close(proc)
	for _, kv := range b.k.Sysctls {
		if err := writeBeneath(proc, "sys/"+kv.Key, kv.Value); err != nil {
			return invalid("set the sysctl", kv.Key, err)
		}
	}
	return nil
}

// writeBeneath writes to a file of a procfs, and to nothing mounted over it.
func writeBeneath(dir int, path, text string) error {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// restrict is step 11. A path that does not exist needs no mask.
func (b *builder) restrict() error {
	for _, path := range b.k.ReadonlyPaths {
		if err := b.readonlyPath(path); err != nil {
			return fail("make read-only", path, err)
		}
	}
	empty := -1
	for _, path := range b.k.MaskedPaths {
		if err := b.maskPath(path, &empty); err != nil {
			return fail("mask", path, err)
		}
	}
	readonly := mount.Options{Set: unix.MOUNT_ATTR_RDONLY}
	for _, fd := range b.later {
		if err := mount.SetAttr(fd, &readonly); err != nil {
			return fail("make a tmpfs read-only", "", err)
		}
	}
	if b.k.ReadonlyRoot {
		if err := mount.SetAttr(int(b.root), &readonly); err != nil {
			return fail("make the root read-only", "", err)
		}
	}
	return nil
}

func (b *builder) readonlyPath(path string) error {
	at, err := b.root.open(path, unix.O_PATH)
	if err != nil {
		return absent(err)
	}
	defer unix.Close(at)
	tree, err := mount.Tree(at, "", &mount.Options{Recursive: true, RecSet: unix.MOUNT_ATTR_RDONLY})
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return mount.Attach(tree, at)
}

// maskPath hides a file behind the null device, and a directory behind one
// empty read-only tmpfs that all of them share.
func (b *builder) maskPath(path string, empty *int) error {
	at, err := b.root.open(path, unix.O_PATH)
	if err != nil {
		return absent(err)
	}
	defer unix.Close(at)
	dir, _, err := kindOf(at)
	if err != nil {
		return err
	}
	source := b.null
	if dir {
		if *empty < 0 {
			*empty, err = mount.FS("tmpfs", "tmpfs", &mount.Options{
				Set:  unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
				Data: []string{"size=0", "nr_inodes=2", "mode=755"},
			})
			if err != nil {
				return err
			}
			return mount.Attach(*empty, at)
		}
		source = *empty
	}
	if source < 0 {
		return syscall.ENODEV // no null device to hide it with
	}
	tree, err := mount.Tree(source, "", &mount.Options{})
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return mount.Attach(tree, at)
}

func absent(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}
