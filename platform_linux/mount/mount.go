//go:build linux

package mount

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Error says which step of making a mount failed, on what, and why. What is the
// kernel's own message where the filesystem left one.
type Error struct {
	Step, Object string
	Err          error
	What         string
}

func (e *Error) Error() string {
	s := e.Step + " " + e.Object + ": " + e.Err.Error()
	if e.What != "" {
		s += " (" + e.What + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// FS makes a detached mount of a new instance of a filesystem: its descriptor
// is the caller's to close; the mount vanishes with it unless it is attached.
func FS(fstype, source string, o *Options) (int, error) {
	if fstype == "overlay" {
		return overlay(source, o)
	}
	ctx, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, &Error{Step: "open filesystem", Object: fstype, Err: err}
	}
	defer unix.Close(ctx)
	if source != "" {
		if err := unix.FsconfigSetString(ctx, "source", source); err != nil {
			return -1, fsError(ctx, "set source of", fstype, err)
		}
	}
	for _, d := range o.Data {
		if err := set(ctx, d); err != nil {
			return -1, fsError(ctx, "set option "+d+" of", fstype, err)
		}
	}
	return finish(ctx, fstype, o)
}

func set(ctx int, option string) error {
	key, value, has := strings.Cut(option, "=")
	if !has {
		return unix.FsconfigSetFlag(ctx, key)
	}
	return unix.FsconfigSetString(ctx, key, value)
}

func finish(ctx int, fstype string, o *Options) (int, error) {
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fsError(ctx, "create", fstype, err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, int(o.Set|o.RecSet))
	if err != nil {
		return -1, fsError(ctx, "mount", fstype, err)
	}
	if o.Propagation != 0 {
		attr := unix.MountAttr{Propagation: o.Propagation &^ unix.MS_REC}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			unix.Close(fd)
			return -1, &Error{Step: "set propagation of", Object: fstype, Err: err}
		}
	}
	return fd, nil
}

// overlay differs in its lower directories, which may be more, and longer, than
// one option of either mount interface holds: they are added one by one, which
// kernels before 6.5 do not know.
func overlay(source string, o *Options) (int, error) {
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, &Error{Step: "open filesystem", Object: "overlay", Err: err}
	}
	defer unix.Close(ctx)
	if source != "" {
		if err := unix.FsconfigSetString(ctx, "source", source); err != nil {
			return -1, fsError(ctx, "set source of", "overlay", err)
		}
	}
	for _, d := range o.Data {
		lower, ok := strings.CutPrefix(d, "lowerdir=")
		if !ok {
			err = set(ctx, d)
		} else {
			for _, dir := range SplitLower(lower) {
				if err = unix.FsconfigSetString(ctx, "lowerdir+", dir); err != nil {
					if errors.Is(err, syscall.EINVAL) {
						return overlayOld(o)
					}
					break
				}
			}
		}
		if err != nil {
			return -1, fsError(ctx, "set option "+d+" of", "overlay", err)
		}
	}
	fd, err := finish(ctx, "overlay", o)
	if errors.Is(err, syscall.EINVAL) {
		// Before 6.5 any option is accepted, and only the mount refused.
		if fd, olderr := overlayOld(o); olderr == nil || errors.Is(olderr, ErrTooLong) {
			return fd, olderr
		}
	}
	return fd, err
}

// FDOption is an option of a filesystem whose value is a descriptor.
type FDOption struct {
	Key string
	FD  int
}

// Overlay makes a detached overlay whose layers are given by descriptors, which
// may be of detached mounts.
func Overlay(o *Options, layers []FDOption) (int, error) {
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, &Error{Step: "open filesystem", Object: "overlay", Err: err}
	}
	defer unix.Close(ctx)
	for _, l := range layers {
		if err := unix.FsconfigSetFd(ctx, l.Key, l.FD); err != nil {
			return -1, fsError(ctx, "set "+l.Key+" of", "overlay", err)
		}
	}
	for _, d := range o.Data {
		if err := set(ctx, d); err != nil {
			return -1, fsError(ctx, "set option "+d+" of", "overlay", err)
		}
	}
	return finish(ctx, "overlay", o)
}

// overlayOld is overlay for kernels without "lowerdir+". Their fsconfig takes
// 255 bytes a value, which a single lower directory may fill; what does not fit
// is refused with E2BIG or EINVAL, and the caller then has AttachOverlay.
func overlayOld(o *Options) (int, error) {
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, &Error{Step: "open filesystem", Object: "overlay", Err: err}
	}
	defer unix.Close(ctx)
	for _, d := range o.Data {
		if err := set(ctx, d); err != nil {
			return -1, &Error{Step: "set option " + d + " of", Object: "overlay", Err: ErrTooLong}
		}
	}
	return finish(ctx, "overlay", o)
}

// ErrTooLong says that this kernel takes the options only by mount(2), that is
// by AttachOverlay.
const ErrTooLong = syscall.E2BIG

// AttachOverlay mounts an overlay on the path target with mount(2), for kernels
// before 6.5. Its options are limited to a page, about 60 layers.
func AttachOverlay(source, target string, o *Options) error {
	data := strings.Join(o.Data, ",")
	if len(data) >= 4096 {
		return &Error{Step: "mount", Object: "overlay", Err: syscall.E2BIG,
			What: "the image has more layers than a kernel before 6.5 can stack"}
	}
	var flags uintptr
	for _, b := range oldFlags {
		if o.Set&b.attr == b.attr {
			flags |= b.flag
		}
	}
	if err := unix.Mount(source, target, "overlay", flags, data); err != nil {
		return &Error{Step: "mount", Object: "overlay", Err: err}
	}
	return nil
}

var oldFlags = []struct {
	attr uint64
	flag uintptr
}{
	{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY},
	{unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID},
	{unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
	{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
	{unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME},
}

// SplitLower splits a list of directories at colons, honouring overlayfs's
// backslash before a colon or backslash that belongs to a name.
func SplitLower(list string) []string {
	if !strings.ContainsRune(list, '\\') {
		return strings.Split(list, ":")
	}
	var out []string
	var dir []byte
	for i := 0; i < len(list); i++ {
		switch {
		case list[i] == '\\' && i+1 < len(list):
			i++
			dir = append(dir, list[i])
		case list[i] == ':':
			out = append(out, string(dir))
			dir = dir[:0]
		default:
			dir = append(dir, list[i])
		}
	}
	return append(out, string(dir))
}

// Tree makes a detached copy of the mount at path, below dirfd; with
// o.Recursive of all that is mounted below it too. The descriptor is the
// caller's to close.
func Tree(dirfd int, path string, o *Options) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if o.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(dirfd, path, flags)
	if err != nil {
		return -1, &Error{Step: "bind", Object: path, Err: err}
	}
	if err := SetAttr(fd, o); err != nil {
		unix.Close(fd)
		return -1, &Error{Step: "set mount attributes of", Object: path, Err: err}
	}
	return fd, nil
}

// SetAttr gives an attached or detached mount the attributes and propagation of
// o, first what holds for everything below it, then its own.
func SetAttr(fd int, o *Options) error {
	steps := [2]struct {
		attr  unix.MountAttr
		flags uint
	}{
		{unix.MountAttr{Attr_set: o.RecSet, Attr_clr: o.RecClear}, unix.AT_EMPTY_PATH | unix.AT_RECURSIVE},
		{unix.MountAttr{Attr_set: o.Set, Attr_clr: o.Clear}, unix.AT_EMPTY_PATH},
	}
	which := 1
	if o.Propagation&unix.MS_REC != 0 {
		which = 0
	}
	steps[which].attr.Propagation = o.Propagation &^ unix.MS_REC
	for i := range steps {
		if steps[i].attr == (unix.MountAttr{}) {
			continue
		}
		if err := unix.MountSetattr(fd, "", steps[i].flags, &steps[i].attr); err != nil {
			return err
		}
	}
	return nil
}

// Attach attaches the detached mount to what target describes: a directory for
// a directory, a file for a file.
func Attach(fd, target int) error {
	return unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// fsError adds to err what the filesystem wrote to its context.
func fsError(ctx int, step, fstype string, err error) error {
	var buf [512]byte
	e := &Error{Step: step, Object: fstype, Err: err}
	if n, rerr := unix.Read(ctx, buf[:]); rerr == nil && n > 2 {
		// "e overlay: …": the level of the message, then the message.
		e.What = strings.TrimSpace(string(buf[2:n]))
	}
	return e
}
