//go:build linux

package initproc

import (
	"errors"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/mount"
)

// builder carries a container from step 2 to step 11.
type builder struct {
	ctl  control
	k    *Container
	p    *Process
	root root // an O_PATH descriptor once the root is pivoted
	// fds are mounts that the runtime made for us.
	fds []int
	// ready are mounts that step 5 made, in the order of attaching.
	ready []prepared
	// later are mounts that become read-only once everything is in them.
	later []int
	// nodes are device nodes to bind where none can be made, by index of k.Devices.
	nodes []int
	dev   int // /dev, -1 while unknown
	null  int // the container's /dev/null, checked, -1 while unknown
	// dropped tells when the host's tree is out of this mount namespace.
	dropped chan error
}

// prepared is a detached mount and where it goes.
type prepared struct {
	fd     int
	target string
	dir    bool
	// plain says that the target must be a directory that no link leads to.
	plain  bool
	proc   bool // the mount itself is (part of) a procfs
	copyUp bool
	late   bool // read-only at the end
	fill   func(fd int) error
}

// build runs steps 3 to 11 but for the console, which sits between 8 and 10.
func (b *builder) build() error {
	for _, step := range []func() error{
		b.namespaces,
		b.detach,
		b.prepare,
		b.pivot,
		b.attach,
		b.devices,
		b.console,
		b.sysctls,
		b.restrict,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return <-b.dropped
}

// namespaces is step 3. The cgroup namespace is made here because its root is
// the cgroup that its maker is in: the keeper's child had to join them first. A
// time namespace with offsets must be told them before a process is in it;
// exec moves us into it.
func (b *builder) namespaces() error {
	if b.k.NewCgroupNS {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fail("make a cgroup namespace", "", err)
		}
	}
	if b.k.NewTimeNS {
		if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
			return fail("make a time namespace", "", err)
		}
		// The host's own /proc: nothing of the container is mounted yet.
		if err := writeFile(unix.AT_FDCWD, "/proc/self/timens_offsets", b.k.TimeOffsets); err != nil {
			return fail("set time offsets", "", err)
		}
	}
	if b.k.Hostname != "" {
		if err := unix.Sethostname([]byte(b.k.Hostname)); err != nil {
			return fail("set hostname", b.k.Hostname, err)
		}
	}
	if b.k.Domainname != "" {
		if err := unix.Setdomainname([]byte(b.k.Domainname)); err != nil {
			return fail("set domain name", b.k.Domainname, err)
		}
	}
	return nil
}

// detach is step 4. Our mount namespace is a copy of the host's: without this,
// what we mount would appear on the host. Slave and not private by default, so
// that the host's unmounts still reach us and its devices do not stay busy.
func (b *builder) detach() error {
	flags := b.k.RootPropagation
	if flags == 0 {
		flags = unix.MS_SLAVE | unix.MS_REC
	}
	if err := unix.Mount("", "/", "", uintptr(flags|unix.MS_REC), ""); err != nil {
		return fail("set propagation of", "/", err)
	}
	if flags&unix.MS_SHARED != 0 {
		// pivot_root refuses a shared parent, and the root must not show there.
		path, err := mountAbove(b.k.RootPath)
		if err == nil {
			err = unix.Mount("", path, "", unix.MS_PRIVATE, "")
		}
		return fail("set propagation of the mount above", b.k.RootPath, err)
	}
	return nil
}

// mountAbove is the mount point on which path lies.
func mountAbove(path string) (string, error) {
	var here, up unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &here); err != nil {
		return "", err
	}
	for path != "/" {
		parent := path[:strings.LastIndexByte(path, '/')]
		if parent == "" {
			parent = "/"
		}
		if err := unix.Statx(unix.AT_FDCWD, parent, 0, unix.STATX_MNT_ID, &up); err != nil {
			return "", err
		}
		if up.Mnt_id != here.Mnt_id {
			return path, nil
		}
		path = parent
	}
	return path, nil
}

// prepare is step 5: every mount is made here, attached nowhere. Sources of
// binds are the host's paths, or a client's that policy allowed, never the
// image's; after the pivot they are out of reach. A procfs or sysfs may only be
// mounted while another one is fully visible, which in a user namespace is the
// case here for the last time.
func (b *builder) prepare() error {
	for i := range b.k.Rootfs {
		if i == 0 {
			continue // the root itself: pivot
		}
		if err := b.prepareMount(&b.k.Rootfs[i]); err != nil {
			return err
		}
	}
	for i := range b.k.Mounts {
		if err := b.prepareMount(&b.k.Mounts[i]); err != nil {
			return err
		}
	}
	if b.k.UserNS {
		b.nodes = make([]int, len(b.k.Devices))
		for i := range b.k.Devices {
			fd, err := mount.Tree(unix.AT_FDCWD, b.k.Devices[i].Path, &mount.Options{})
			if err != nil {
				return err
			}
			b.nodes[i] = fd
		}
	}
	return nil
}

func (b *builder) prepareMount(m *Mount) error {
	p := prepared{target: m.Target, dir: true}
	var err error
	switch {
	case m.FD > 0:
		if m.FD > uint64(len(b.fds)) {
			return invalid("attach", m.Target, syscall.EBADF)
		}
		p.fd = b.fds[m.FD-1]
		p.dir, p.proc, err = kindOf(p.fd)
	case m.Options.Bind:
		o := m.Options
		if o.CopyUp {
			p.late = o.Set&unix.MOUNT_ATTR_RDONLY != 0
			o.Set &^= unix.MOUNT_ATTR_RDONLY
		}
		if p.fd, err = mount.Tree(unix.AT_FDCWD, m.Source, &o); err == nil {
			p.dir, p.proc, err = kindOf(p.fd)
		}
		p.copyUp = o.CopyUp && p.dir && err == nil && isEmpty(p.fd)
	case m.Type == "cgroup":
		return b.prepareCgroup(m)
	default:
		o := m.Options
		if m.Type == "tmpfs" && o.Set&unix.MOUNT_ATTR_RDONLY != 0 {
			p.late = true
			o.Set &^= unix.MOUNT_ATTR_RDONLY
		}
		p.proc = m.Type == "proc"
		p.plain = m.Type == "proc" || m.Type == "sysfs"
		p.copyUp = m.Type == "tmpfs" && o.CopyUp
		p.fd, err = mount.FS(m.Type, m.Source, &o)
		if m.Type == "sysfs" && b.k.UserNS && errno(err) == syscall.EPERM {
			// The network namespace belongs to somebody else, so no new sysfs.
			o.Recursive, o.Data = true, nil
			p.fd, err = mount.Tree(unix.AT_FDCWD, "/sys", &o)
		}
	}
	if errno(err) == syscall.ENOENT && m.Options.Bind {
		return invalid("mount", m.Target, err)
	}
	if err != nil {
		return fail("mount", m.Target, err)
	}
	b.ready = append(b.ready, p)
	return nil
}

// errno is what the kernel said, 0 if err is not from there.
func errno(err error) syscall.Errno {
	var n syscall.Errno
	_ = errors.As(err, &n)
	return n
}

// kindOf tells whether a mount is of a directory, and whether of a procfs.
func kindOf(fd int) (dir, proc bool, err error) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = unix.Fstatfs(fd, &fs)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, fs.Type == unix.PROC_SUPER_MAGIC, err
}

// pivot is step 6: the root filesystem becomes the root, and the host's tree
// leaves this mount namespace. Never chroot, which a privileged process leaves.
func (b *builder) pivot() error {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open", "/", err)
	}
	fd, err := b.mountRoot()
	if err != nil {
		return err
	}
	if err := unix.Fchdir(fd); err != nil {
		return fail("enter", b.k.RootPath, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fail("pivot_root to", b.k.RootPath, err)
	}
	// The old root now lies on top of the new one.
	if b.k.RootPropagation&unix.MS_SHARED != 0 {
		if err := unix.Fchdir(old); err != nil {
			return fail("enter the old root", "", err)
		}
		if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fail("set propagation of the old root", "", err)
		}
	}
	b.dropOld(old)
	if err := b.uncovered(fd); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return fail("enter", "/", err)
	}
	b.root = root(fd)
	return nil
}

// uncovered waits until the old root no longer lies on the new one. Until then
// ".." of the root leads onto what lies there, which is the host's tree, and no
// resolve flag of openat2 keeps a look-up from it.
func (b *builder) uncovered(fd int) error {
	var here, up unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &here); err != nil {
		return fail("look at", "/", err)
	}
	for {
		if err := unix.Statx(fd, "..", unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &up); err != nil {
			return fail("look at", "/..", err)
		}
		if up.Mnt_id == here.Mnt_id {
			return nil
		}
		select {
		case err := <-b.dropped:
			if b.dropped <- err; err != nil {
				return err
			}
		default:
		}
		runtime.Gosched()                                        // on one processor the other thread needs it
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // it cannot fail
	}
}

// dropOld unmounts the old root, which lies on top of the new one. It is a thread
// of its own that does so, because the kernel waits in it, once the old root is
// off, until nobody looks at the old mounts any more (an RCU grace period), and
// the rest of the container can be built meanwhile. The answer is awaited before
// anything of the container runs.
func (b *builder) dropOld(old int) {
	b.dropped = make(chan error, 1)
	go func() {
		// Never unlocked: its working directory is its own from here on.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Fchdir(old)
		}
		if err == nil {
			err = unix.Unmount(".", unix.MNT_DETACH)
		}
		unix.Close(old)
		b.dropped <- fail("unmount the old root", "", err)
	}()
}

// mountRoot attaches the root filesystem to RootPath and returns it.
func (b *builder) mountRoot() (int, error) {
	var fd int
	var err error
	path := b.k.RootPath
	if len(b.k.Rootfs) == 0 {
		fd, err = mount.Tree(unix.AT_FDCWD, path, &mount.Options{Recursive: true})
	} else {
		m := &b.k.Rootfs[0]
		switch {
		case m.FD > 0 && m.FD <= uint64(len(b.fds)):
			fd = b.fds[m.FD-1]
		case m.Options.Bind:
			fd, err = mount.Tree(unix.AT_FDCWD, m.Source, &m.Options)
		default:
			fd, err = mount.FS(m.Type, m.Source, &m.Options)
		}
		if m.Type == "overlay" && errors.Is(err, mount.ErrTooLong) {
			if err = mount.AttachOverlay(m.Source, path, &m.Options); err == nil {
				fd, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
			if err != nil {
				return -1, fail("mount the root filesystem on", path, err)
			}
			return fd, nil
		}
	}
	if err != nil {
		return -1, fail("mount the root filesystem", "", err)
	}
	at, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fail("open", path, err)
	}
	defer unix.Close(at)
	if err := mount.Attach(fd, at); err != nil {
		return -1, fail("mount the root filesystem on", path, err)
	}
	return fd, nil
}

// attach is step 7. Targets are the image's, so each is opened in the root and
// used by that descriptor (CVE-2021-30465). A procfs or sysfs must land on a
// real directory, or the masks below it would land elsewhere (CVE-2019-19921),
// and nothing but what the kernel offers may be put over parts of a procfs
// (CVE-2019-16884).
func (b *builder) attach() error {
	if b.p.Cwd != "" && b.p.Cwd != "/" {
		// Made in the image, before a volume hides it, as runc does.
		if fd, err := b.root.create(b.p.Cwd, true); err == nil {
			unix.Close(fd)
		}
	}
	for i := range b.ready {
		if err := b.attachOne(&b.ready[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) attachOne(p *prepared) error {
	if p.copyUp {
		// A mount point that the image lacks says nothing of whose the volume is.
		fd, err := b.root.open(p.target, unix.O_PATH)
		if p.copyUp = err == nil; p.copyUp {
			unix.Close(fd)
		}
	}
	at, err := b.root.create(p.target, p.dir)
	if err != nil {
		return fail("make the mount point", p.target, err)
	}
	if p.plain {
		unix.Close(at)
		at, err = b.root.openHow(p.target, unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: inRoot | unix.RESOLVE_NO_SYMLINKS,
		})
		if err != nil {
			return invalid("mount on", p.target, &stepError{step: "the image must have an ordinary directory there", err: err})
		}
	}
	defer unix.Close(at)
	if !p.proc {
		if err := overProc(at, p.target); err != nil {
			return err
		}
	}
	if p.copyUp {
		if err := copyUp(at, p.fd); err != nil {
			return fail("copy what is in", p.target, err)
		}
	}
	if p.fill != nil {
		if err := p.fill(p.fd); err != nil {
			return err
		}
	}
	if err := mount.Attach(p.fd, at); err != nil {
		return fail("mount on", p.target, err)
	}
	if p.target == "/dev" {
		b.dev = p.fd
	}
	if p.late {
		b.later = append(b.later, p.fd)
	} else if b.dev != p.fd {
		unix.Close(p.fd)
	}
	return nil
}

// procFiles are what lxcfs and its like may replace below a procfs; the id of the
// boot is a clone's own where the kernel's is its template's.
var procFiles = []string{"cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev", "sys/kernel/ns_last_pid", "sys/kernel/random/boot_id", "sys/crypto/fips_enabled"}

// overProc refuses a target inside a procfs but for procFiles, and one in the
// place of the container's own.
func overProc(at int, target string) error {
	if target == "/proc" {
		return invalid("mount on", target, &stepError{step: "only a procfs can be there"})
	}
	_, proc, err := kindOf(at)
	if err != nil || !proc {
		return fail("look at", target, err)
	}
	for _, f := range procFiles {
		if strings.HasSuffix(target, "/proc/"+f) {
			return nil
		}
	}
	return invalid("mount on", target, &stepError{step: "inside a procfs only single, harmless files may be replaced"})
}

// writeFile writes text to an existing file.
func writeFile(at int, path, text string) error {
	fd, err := unix.Openat(at, path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}
