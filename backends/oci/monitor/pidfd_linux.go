package monitor

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pidfdInfo is the first version of struct pidfd_info.
type pidfdInfo struct {
	mask, cgroup                                     uint64
	pid, tgid, ppid                                  uint32
	ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid uint32
	exitCode                                         int32
}

const (
	pidfdGetInfo  = 0xC040FF0B // _IOWR(0xFF, 11, struct pidfd_info), of 64 bytes
	pidfdInfoExit = 1 << 3
)

// exitInfo asks the kernel how a process ended that is not our child. over says
// that it has ended and more will never be known: the kernel is older than 6.15.
func exitInfo(pidfd int) (status uint32, known, over bool) {
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 0); err != nil && !errors.Is(err, unix.EINTR) || err == nil && n == 0 {
		return 0, false, err != nil
	}
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	if errno == 0 {
		return uint32(info.exitCode), info.mask&pidfdInfoExit != 0, false
	}
	return 0, false, true
}

// openPidfd opens a process for the Go runtime to wait for.
func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), FilePidfd), nil
}

// duplicate is another descriptor of a file.
func duplicate(f *os.File) (*os.File, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	if cerr := c.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil || err != nil {
		return nil, errors.Join(err, cerr)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
