package vmm

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock's rights over files, in the order of its ABI: number n of rights is
// known since the version in the second column.
var landlockFS = []struct {
	right uint64
	abi   int
}{
	{unix.LANDLOCK_ACCESS_FS_EXECUTE, 1},
	{unix.LANDLOCK_ACCESS_FS_WRITE_FILE, 1},
	{unix.LANDLOCK_ACCESS_FS_READ_FILE, 1},
	{unix.LANDLOCK_ACCESS_FS_READ_DIR, 1},
	{unix.LANDLOCK_ACCESS_FS_REMOVE_DIR, 1},
	{unix.LANDLOCK_ACCESS_FS_REMOVE_FILE, 1},
	{unix.LANDLOCK_ACCESS_FS_MAKE_CHAR, 1},
	{unix.LANDLOCK_ACCESS_FS_MAKE_DIR, 1},
	{unix.LANDLOCK_ACCESS_FS_MAKE_REG, 1},
	{unix.LANDLOCK_ACCESS_FS_MAKE_SOCK, 1},
	{unix.LANDLOCK_ACCESS_FS_MAKE_FIFO, 1},
	{unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK, 1},
	{unix.LANDLOCK_ACCESS_FS_MAKE_SYM, 1},
	{unix.LANDLOCK_ACCESS_FS_REFER, 2},
	{unix.LANDLOCK_ACCESS_FS_TRUNCATE, 3},
}

// landlockAttr is struct landlock_ruleset_attr as of ABI 6.
type landlockAttr struct {
	fs, net, scoped uint64
}

// landlockPath is struct landlock_path_beneath_attr, which is packed: 12 bytes.
type landlockPath struct {
	access uint64
	fd     int32
}

// restrictPaths allows reading what is in the root, and the files named, and
// nothing else in any file system; no TCP; no signal or abstract socket out. The
// root is read-only and nearly empty as it is: this is what remains if a mount
// were ever wrong. A kernel without Landlock does without.
func restrictPaths(in *instructions) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return nil
	}
	var attr landlockAttr
	for _, f := range landlockFS {
		if int(abi) >= f.abi {
			attr.fs |= f.right
		}
	}
	size := unsafe.Sizeof(attr.fs)
	if abi >= 4 {
		attr.net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size += unsafe.Sizeof(attr.net)
	}
	if abi >= 6 {
		attr.scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size += unsafe.Sizeof(attr.scoped)
	}
	rules, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(rules))

	allow := func(fd int, access uint64) error {
		rule := landlockPath{access: access, fd: int32(fd)}
		_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, rules, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	const read = unix.LANDLOCK_ACCESS_FS_READ_FILE
	below := map[string]uint64{
		"/":     read | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_EXECUTE,
		"/proc": read | unix.LANDLOCK_ACCESS_FS_READ_DIR,
	}
	if in.KVM {
		below["/dev/kvm"] = read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE
	}
	for path, access := range below {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		err = allow(fd, access)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	for _, fd := range in.Read {
		if err := allow(fd, read); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
