package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Mount is one step of assembling a root. Type is overlay or bind for the root
// itself, bind for what is mounted below it. Options are as in mount(8).
type Mount struct {
	Type    string
	Source  string
	Target  string // inside the root; "" or "/" is the root
	Options []string
}

// OpenDetached assembles the root filesystem of a container that is not
// running, and its volumes below it, where no other process sees them: in a
// mount namespace that lives exactly as long as the Root.
//
// A root opened for reading may belong to a running container: its writable
// directory then is one more directory to read, since overlayfs must not be
// given one that it already writes to. A root opened for writing must not.
func OpenDetached(rootfs, mounts []Mount, write bool) (*Root, error) {
	if len(rootfs) != 1 {
		return nil, fmt.Errorf("a root of %d mounts is not supported: %w", len(rootfs), errdefs.ErrNotImplemented)
	}
	return onOwnThread(func() (*Root, error) { return assemble(rootfs[0], mounts, write) })
}

// onOwnThread runs f on a thread that is never unlocked, so that it ends with the
// goroutine and no other goroutine ever runs in its mount namespace. The process's
// first thread does not end: given that one, its namespace and the mounts in it
// would stay as long as the process, so it only waits for another.
func onOwnThread(f func() (*Root, error)) (*Root, error) {
	type result struct {
		root *Root
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			root, err := onOwnThread(f)
			done <- result{root, err}
			return
		}
		root, err := f()
		done <- result{root, err}
	}()
	r := <-done
	return r.root, r.err
}

func assemble(rootfs Mount, mounts []Mount, write bool) (_ *Root, err error) {
	// CLONE_FS first: a thread that shares its working directory with others
	// may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("new mount namespace: %w", kind(err))
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	// Sources are opened before anything is mounted, while / is the host's.
	trees := make([]int, 0, len(mounts))
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	for _, m := range mounts {
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return nil, fmt.Errorf("mount source %s: %w", m.Source, kind(err))
		}
		trees = append(trees, fd)
	}
	fd, err := rootMount(rootfs, write)
	if err != nil {
		return nil, err
	}
	root := &Root{dir: os.NewFile(uintptr(fd), "/")}
	defer func() {
		if err != nil {
			_ = root.Close()
		}
	}()
	// Attached on top of this namespace's /, which a walk from / never enters;
	// only the descriptor leads there.
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("attach root: %w", err)
	}
	for i, m := range mounts {
		if err := root.attach(trees[i], m); err != nil {
			return nil, err
		}
	}
	root.ns, err = os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("hold mount namespace: %w", err)
	}
	return root, nil
}

// attach puts a cloned tree on its target. A target that does not exist was
// never seen by the container, so there is nothing to show there.
func (r *Root) attach(tree int, m Mount) error {
	target, err := r.open(path.Clean("/"+m.Target), unix.O_PATH, true)
	if err != nil {
		if kindIsNotFound(err) {
			return nil
		}
		return fmt.Errorf("mount target %s: %w", m.Target, kind(err))
	}
	defer target.Close()
	if err := unix.MoveMount(tree, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	return nil
}

func kindIsNotFound(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// rootMount returns a mount that is attached nowhere.
func rootMount(m Mount, write bool) (int, error) {
	switch m.Type {
	case "bind":
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return -1, fmt.Errorf("root %s: %w", m.Source, kind(err))
		}
		return fd, nil
	case "overlay":
		options := m.Options
		if !write {
			options = readOnly(options)
		}
		return overlayMount(options)
	}
	return -1, fmt.Errorf("root of type %q is not supported: %w", m.Type, errdefs.ErrNotImplemented)
}

// readOnly turns the options of a writable overlay into those of one that reads
// the same: the upper directory becomes the topmost lower one.
func readOnly(options []string) []string {
	out := []string{"ro"}
	var upper, lower string
	for _, o := range options {
		switch key, value, _ := strings.Cut(o, "="); key {
		case "upperdir":
			upper = strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(value) + ":"
		case "lowerdir":
			lower = value
		case "workdir", "rw":
		default:
			out = append(out, o)
		}
	}
	return append(out, "lowerdir="+upper+lower)
}

func overlayMount(options []string) (int, error) {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("overlayfs: %w", kind(err))
	}
	defer unix.Close(fsfd)
	flags := 0
	for _, o := range options {
		key, value, hasValue := strings.Cut(o, "=")
		switch {
		case o == "ro":
			flags |= unix.MOUNT_ATTR_RDONLY
		case o == "rw":
		case key == "lowerdir":
			err = setLower(fsfd, value)
		case hasValue:
			err = unix.FsconfigSetString(fsfd, key, value)
		default:
			err = unix.FsconfigSetFlag(fsfd, key)
		}
		if err != nil {
			return -1, fmt.Errorf("overlay option %s: %w", o, kind(err))
		}
	}
	err = unix.FsconfigCreate(fsfd)
	if errors.Is(err, unix.EINVAL) {
		return overlayMountOld(options)
	}
	if err != nil {
		return -1, fmt.Errorf("overlay: %w", kind(err))
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, flags)
	if err != nil {
		return -1, fmt.Errorf("overlay: %w", kind(err))
	}
	return fd, nil
}

// overlayMountOld is overlayMount for kernels before 6.5. They accept any option
// and refuse only the mount, and mount(2) alone takes values longer than 255
// bytes, a page in all. It needs a path, for a moment: /proc, which this thread's
// mount namespace has and nobody in it uses meanwhile.
func overlayMountOld(options []string) (int, error) {
	var flags uintptr
	var data []string
	for _, o := range options {
		switch o {
		case "ro":
			flags |= unix.MS_RDONLY
		case "rw":
		default:
			data = append(data, o)
		}
	}
	all := strings.Join(data, ",")
	if len(all) >= os.Getpagesize() {
		return -1, fmt.Errorf("this kernel cannot stack so many layers (Linux 6.5 can): %w", errdefs.ErrFailedPrecondition)
	}
	const at = "/proc"
	if err := unix.Mount("overlay", at, "overlay", flags, all); err != nil {
		return -1, fmt.Errorf("overlay: %w", kind(err))
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if umountErr := unix.Unmount(at, unix.MNT_DETACH); err == nil && umountErr != nil {
		unix.Close(fd)
		err = umountErr
	}
	if err != nil {
		return -1, fmt.Errorf("overlay: %w", kind(err))
	}
	return fd, nil
}

// setLower names the lower directories one by one, which has no limit of
// length (Linux 6.5).
func setLower(fsfd int, lower string) error {
	for _, dir := range splitLower(lower) {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", dir); err != nil {
			return err
		}
	}
	return nil
}

// splitLower splits at colons that no backslash escapes.
func splitLower(s string) []string {
	var dirs []string
	var dir strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			dir.WriteByte(s[i])
		case s[i] == ':':
			dirs = append(dirs, dir.String())
			dir.Reset()
		default:
			dir.WriteByte(s[i])
		}
	}
	return append(dirs, dir.String())
}
