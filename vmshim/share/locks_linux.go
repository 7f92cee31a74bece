package share

import (
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Locks are the host's, so that they hold between levels. flock's belong to an open
// file, which is a handle here. Record locks belong to a process, and are forgotten
// when it closes any descriptor of the file: each owner has a descriptor per file.

// maxOwners is how many processes of a guest may hold record locks of one file.
const maxOwners = 1024

// A lock that is waited for is asked for again and again: a system call that waits
// could not be given up when the guest's process is killed.
const (
	minPause = time.Millisecond
	maxPause = 50 * time.Millisecond
)

// owner is the descriptor that holds an owner's record locks, with n.locks held.
func (n *node) owner(id uint64) (int, error) {
	if fd, ok := n.owned[id]; ok {
		return fd, nil
	}
	if len(n.owned) >= maxOwners {
		return -1, syscall.ENOLCK
	}
	fd, err := reopen(n, unix.O_RDWR)
	if err != nil {
		fd, err = reopen(n, unix.O_RDONLY)
	}
	if err != nil {
		return -1, err
	}
	if n.owned == nil {
		n.owned = map[uint64]int{}
	}
	n.owned[id] = fd
	return fd, nil
}

// unlock gives up an owner's record locks.
func (n *node) unlock(owner uint64) {
	n.locks.Lock()
	defer n.locks.Unlock()
	if fd, ok := n.owned[owner]; ok {
		unix.Close(fd)
		delete(n.owned, owner)
	}
}

func (fs *filesystem) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	return fs.with(in.NodeId, func(n *node) error {
		n.locks.Lock()
		defer n.locks.Unlock()
		fd, err := n.owner(in.Owner)
		if err != nil {
			return err
		}
		var lock syscall.Flock_t
		in.Lk.ToFlockT(&lock)
		lock.Pid = 0
		if err := syscall.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lock); err != nil {
			return err
		}
		out.Lk.FromFlockT(&lock)
		out.Lk.Pid = 0 // of another machine
		return nil
	})
}

func (fs *filesystem) SetLk(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	if in.LkFlags&fuse.FUSE_LK_FLOCK != 0 {
		return fs.flock(in)
	}
	return fs.with(in.NodeId, func(n *node) error {
		n.locks.Lock()
		defer n.locks.Unlock()
		if _, ok := n.owned[in.Owner]; !ok && in.Lk.Typ == syscall.F_UNLCK {
			return nil
		}
		fd, err := n.owner(in.Owner)
		if err != nil {
			return err
		}
		var lock syscall.Flock_t
		in.Lk.ToFlockT(&lock)
		lock.Pid = 0
		return syscall.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lock)
	})
}

func (fs *filesystem) flock(in *fuse.LkIn) fuse.Status {
	how, ok := map[uint32]int{syscall.F_RDLCK: unix.LOCK_SH, syscall.F_WRLCK: unix.LOCK_EX, syscall.F_UNLCK: unix.LOCK_UN}[in.Lk.Typ]
	if !ok {
		return fuse.EINVAL
	}
	return fs.opened(in.Fh, func(h *handle) error { return unix.Flock(h.fd, how|unix.LOCK_NB) })
}

func (fs *filesystem) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		s := fs.SetLk(cancel, in)
		if !errors.Is(syscall.Errno(s), syscall.EAGAIN) && !errors.Is(syscall.Errno(s), syscall.EACCES) {
			return s
		}
		select {
		case <-cancel:
			return fuse.EINTR
		case <-time.After(pause):
		}
	}
}
