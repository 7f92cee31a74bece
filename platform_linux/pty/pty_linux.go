package pty

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const devptsMagic = 0x1cd1

// Peer unlocks the terminal of which master is the master side, after checking
// that it is one of a devpts, and opens its slave. The descriptor is the
// caller's to close.
func Peer(master int) (int, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(master, &fs); err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(master, &st); err != nil {
		return -1, err
	}
	if fs.Type != devptsMagic || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2) {
		return -1, syscall.ENXIO
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	fd, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// SetSize sets a terminal's size in characters, through either side.
func SetSize(fd int, rows, cols uint32) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(min(rows, 0xffff)), Col: uint16(min(cols, 0xffff))})
}
