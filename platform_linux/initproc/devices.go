//go:build linux

package initproc

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/mount"
	"github.com/caisson-engine/caisson/platform_linux/pty"
)

// devLinks are what programs expect in /dev besides nodes.
var devLinks = [][2]string{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"core", "/proc/kcore"},
	{"ptmx", "pts/ptmx"},
}

// ownDev tells whether /dev is ours to fill: not if it is the host's, bound.
func (b *builder) ownDev() bool {
	for i := range b.k.Mounts {
		m := &b.k.Mounts[i]
		if m.Target == "/dev" {
			return !m.Options.Bind && m.FD == 0
		}
	}
	return true
}

// devices is step 8.
func (b *builder) devices() error {
	own := b.ownDev()
	if own {
		if b.dev < 0 {
			fd, err := b.root.create("/dev", true)
			if err != nil {
				return fail("open", "/dev", err)
			}
			b.dev = fd
		}
		for i := range b.k.Devices {
			if err := b.device(i); err != nil {
				return err
			}
		}
		for _, l := range devLinks {
			if err := unix.Symlinkat(l[1], b.dev, l[0]); err != nil && !errors.Is(err, syscall.EEXIST) {
				return fail("make the link", "/dev/"+l[0], err)
			}
		}
	}
	// What hides masked files must really be the null device: an image that puts
	// something else there would have us bind that (CVE-2025-31133).
	var fd int
	var err error
	if own {
		// In the directory that was just filled, wherever the image has it.
		fd, err = unix.Openat(b.dev, "null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open", "/dev/null", err)
		}
	} else if fd, err = b.root.open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW); err != nil {
		return nil //nolint:nilerr // a masked file, which needs one, is then refused
	}
	if !isNode(fd, unix.S_IFCHR, 1, 3) {
		return invalid("open", "/dev/null", syscall.ENXIO)
	}
	b.null = fd
	return nil
}

// isNode tells whether fd is the node that it should be.
func isNode(fd int, kind, major, minor uint32) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == kind && st.Rdev == unix.Mkdev(major, minor)
}

func (b *builder) device(i int) error {
	d := &b.k.Devices[i]
	at, name := b.dev, ""
	if rest, ok := strings.CutPrefix(d.Path, "/dev/"); ok && !strings.Contains(rest, "/") {
		name = rest
	} else {
		slash := strings.LastIndexByte(d.Path, '/')
		fd, err := b.root.create(d.Path[:slash+1], true)
		if err != nil {
			return fail("make the directory of", d.Path, err)
		}
		defer unix.Close(fd)
		at, name = fd, d.Path[slash+1:]
	}
	if b.k.UserNS {
		return b.bindNode(i, at, name)
	}
	for range 2 {
		err := unix.Mknodat(at, name, d.Mode, int(unix.Mkdev(d.Major, d.Minor)))
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EEXIST) {
			return fail("make the device", d.Path, err)
		}
		// /dev is the image's own directory: keep what is right, replace what is not.
		fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			same := isNode(fd, d.Mode&unix.S_IFMT, d.Major, d.Minor)
			unix.Close(fd)
			if same {
				break
			}
		}
		if err := unix.Unlinkat(at, name, 0); err != nil {
			return fail("replace", d.Path, err)
		}
	}
	if d.UID != 0 || d.GID != 0 {
		if err := unix.Fchownat(at, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fail("set the owner of", d.Path, err)
		}
	}
	return nil
}

// bindNode puts the host's node where none can be made.
func (b *builder) bindNode(i, at int, name string) error {
	d := &b.k.Devices[i]
	fd, err := unix.Openat(at, name, unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return fail("make the device", d.Path, err)
	}
	defer unix.Close(fd)
	defer unix.Close(b.nodes[i])
	return fail("bind the device", d.Path, mount.Attach(b.nodes[i], fd))
}

// console is step 9: a terminal from the container's own devpts, so that its
// name works inside. The master is opened by descriptor and checked to be a
// devpts's; the slave is opened through the master, never by name, so neither
// can be something that the image put in the way (CVE-2025-52565).
func (b *builder) console() error {
	if !b.p.Terminal {
		return nil
	}
	slave, err := openConsole(b.ctl, b.root, b.p)
	if err != nil || !b.ownDev() {
		return err
	}
	fd, err := root(b.dev).create("console", false)
	if err != nil {
		return fail("open", "/dev/console", err)
	}
	defer unix.Close(fd)
	tree, err := mount.Tree(slave, "", &mount.Options{})
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return fail("mount on", "/dev/console", mount.Attach(tree, fd))
}

// openConsole makes a terminal, gives its master to the runtime, and makes the
// slave descriptors 0 to 2 and the controlling terminal.
func openConsole(ctl control, r root, p *Process) (int, error) {
	ptmx, err := r.open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW)
	if err != nil {
		return -1, fail("open a terminal", "/dev/pts/ptmx", err)
	}
	slave, err := pty.Peer(ptmx)
	if err != nil {
		return -1, fail("open a terminal", "", err)
	}
	if p.Rows != 0 || p.Cols != 0 {
		if err := pty.SetSize(ptmx, p.Rows, p.Cols); err != nil {
			return -1, fail("set the size of the terminal", "", err)
		}
	}
	if err := ctl.send(FrameConsole, nil, ptmx); err != nil {
		return -1, fail("send the terminal", "", err)
	}
	unix.Close(ptmx)
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return -1, fail("connect the terminal", "", err)
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return -1, fail("set the controlling terminal", "", err)
	}
	return slave, nil
}
