//go:build linux

package initproc

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/mount"
)

// prepareCgroup makes what the spec calls a mount of type cgroup: the one
// hierarchy on a host with v2 only, else a small tmpfs with a directory for
// each hierarchy, as the host has it. In a cgroup namespace the kernel shows the
// container's own part; without one that part is bound.
func (b *builder) prepareCgroup(m *Mount) error {
	o := m.Options
	o.Data = nil
	if len(b.k.Cgroups) == 0 {
		fd, err := mount.FS("cgroup2", "cgroup", &o)
		if err != nil {
			return fail("mount", m.Target, err)
		}
		b.ready = append(b.ready, prepared{fd: fd, target: m.Target, dir: true})
		return nil
	}
	var own []string
	if !b.k.NewCgroupNS {
		text, err := readHost("/proc/self/cgroup")
		if err != nil {
			return fail("read", "/proc/self/cgroup", err)
		}
		own = strings.Split(text, "\n")
	}
	base := o
	base.Set &^= unix.MOUNT_ATTR_RDONLY
	base.Data = []string{"mode=755"}
	fd, err := mount.FS("tmpfs", "tmpfs", &base)
	if err != nil {
		return fail("mount", m.Target, err)
	}
	b.ready = append(b.ready, prepared{fd: fd, target: m.Target, dir: true, late: o.Set&unix.MOUNT_ATTR_RDONLY != 0, fill: b.fillCgroup})
	for i := range b.k.Cgroups {
		g := &b.k.Cgroups[i]
		var fd int
		switch {
		case !b.k.NewCgroupNS:
			fd, err = mount.Tree(unix.AT_FDCWD, "/sys/fs/cgroup/"+g.Dir+ownPath(own, g), &o)
		case g.V2:
			fd, err = mount.FS("cgroup2", "cgroup", &o)
		default:
			with := o
			with.Data = g.Options
			fd, err = mount.FS("cgroup", "cgroup", &with)
		}
		if err != nil {
			return fail("mount", m.Target+"/"+g.Dir, err)
		}
		b.ready = append(b.ready, prepared{fd: fd, target: m.Target + "/" + g.Dir, dir: true})
	}
	return nil
}

// ownPath finds the process's own path in a hierarchy. lines are those of
// /proc/self/cgroup: "id:controllers:path".
func ownPath(lines []string, g *Cgroup) string {
	for _, line := range lines {
		_, rest, _ := strings.Cut(line, ":")
		names, path, ok := strings.Cut(rest, ":")
		if ok && names == strings.Join(g.Options, ",") {
			return path
		}
	}
	return ""
}

// fillCgroup makes the directories and links in the tmpfs.
func (b *builder) fillCgroup(fd int) error {
	for i := range b.k.Cgroups {
		g := &b.k.Cgroups[i]
		if err := unix.Mkdirat(fd, g.Dir, 0o555); err != nil {
			return fail("make", g.Dir, err)
		}
		for _, link := range g.Links {
			if err := unix.Symlinkat(g.Dir, fd, link); err != nil && !errors.Is(err, syscall.EEXIST) {
				return fail("link", link, err)
			}
		}
	}
	return nil
}

// readHost reads a small file of the host's, before the pivot.
func readHost(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var text []byte
	var buf [4096]byte
	for {
		n, err := unix.Read(fd, buf[:])
		if err != nil {
			return "", err
		}
		if n == 0 {
			return string(text), nil
		}
		text = append(text, buf[:n]...)
	}
}
