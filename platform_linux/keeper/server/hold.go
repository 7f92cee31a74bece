//go:build linux

package server

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
)

// entry is everything held under one key.
type entry struct {
	key string
	// pid is 0 if only files are held.
	pid   int
	start uint64
	pidfd int // -1 once unknown
	exit  *wire.Process
	files []file
	// forgotten entries are in no map but pidfds: only their end is awaited.
	forgotten bool
}

type file struct {
	name string
	fd   int
}

// fetched is one item of an answer to Fetch.
type fetched struct {
	key, name string // name "" is the process
}

func (s *server) entry(key string) *entry {
	e := s.entries[key]
	if e == nil {
		e = &entry{key: key, pidfd: -1}
		s.entries[key] = e
	}
	return e
}

// adopt takes a process over that another keeper started. What we know of it
// from the journal stays, but for an exit of which only the adopted pidfd can
// tell.
func (s *server) adopt(m *wire.Process, pidfd int) bool {
	if !wire.ValidKey(m.Key) || m.PID <= 0 {
		unix.Close(pidfd)
		return false
	}
	e := s.entry(m.Key)
	if e.exit != nil && !e.exit.Unknown {
		unix.Close(pidfd)
		if !m.Exited {
			// The last keeper died between writing it down and telling.
			s.tell(e.exit)
		}
		return true
	}
	if e.pidfd >= 0 && e.exit == nil && e.pid == m.PID && e.start == m.Start {
		unix.Close(pidfd)
		return true
	}
	s.unwatch(e)
	e.pid, e.start, e.pidfd, e.exit = m.PID, m.Start, pidfd, nil
	s.journal.born(e)
	if m.Exited {
		exit := *m
		s.setExit(e, &exit)
		return true
	}
	s.follow(e)
	return true
}

// follow waits for the end of e. Edge triggered: for a process that is not our
// child the first edge is its death, the second its reaping by somebody else.
func (s *server) follow(e *entry) {
	s.pidfds[e.pidfd] = e
	if s.watch(e.pidfd, unix.EPOLLIN|unix.EPOLLET) != nil {
		delete(s.pidfds, e.pidfd)
	}
}

func (s *server) unwatch(e *entry) {
	if e.pidfd >= 0 {
		s.unfollow(e)
		unix.Close(e.pidfd)
		e.pidfd = -1
	}
}

// unfollow takes e's pidfd out of epoll; closing it would not, for others have
// descriptors of the same file.
func (s *server) unfollow(e *entry) {
	if s.pidfds[e.pidfd] == e {
		_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, e.pidfd, nil)
		delete(s.pidfds, e.pidfd)
	}
}

// ended is called when e's pidfd says that something became of it.
func (s *server) ended(e *entry) {
	exit := &wire.Process{Key: e.key, PID: e.pid, Start: e.start, Exited: true, At: time.Now().UnixNano()}
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(e.pid, &status, syscall.WNOHANG|unix.WALL, nil)
	switch {
	case err == nil && pid == e.pid:
		exit.Status = uint32(status)
	case err == nil:
		return // not yet
	default: // ECHILD: a dead keeper's child
		code, known, reaped := exitInfo(e.pidfd)
		if !known && !reaped {
			return
		}
		exit.Status, exit.Unknown = code, !known
	}
	if e.forgotten {
		s.unwatch(e)
		return
	}
	s.setExit(e, exit)
}

// setExit writes down how e ended, and then tells.
func (s *server) setExit(e *entry, exit *wire.Process) {
	s.unfollow(e)
	e.exit = exit
	s.journal.ended(exit)
	s.tell(exit)
}

// tell tells every backend how a process ended.
func (s *server) tell(exit *wire.Process) {
	for _, c := range s.clients {
		if c.backend && !s.reply(c, wire.KindExited, exit) {
			s.dropClient(c)
		}
	}
}

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

// exitInfo asks the kernel how a process ended that is not our child. reaped
// says that it will never know better: either it is gone, or the kernel is older
// than 6.15, and then death is all that a pidfd can tell.
func exitInfo(pidfd int) (status uint32, known, reaped bool) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	switch errno {
	case 0:
		return uint32(info.exitCode), info.mask&pidfdInfoExit != 0, false
	default: // ESRCH: reaped, and nothing was kept; ENOTTY and EINVAL: old kernel
		return 0, false, true
	}
}

// hold keeps fd under a key and name, in place of what was there.
func (s *server) hold(m *wire.File, fd int) bool {
	if !wire.ValidKey(m.Key) || !wire.ValidKey(m.Name) {
		unix.Close(fd)
		return false
	}
	e := s.entry(m.Key)
	for i := range e.files {
		if e.files[i].name == m.Name {
			unix.Close(e.files[i].fd)
			e.files[i].fd = fd
			return true
		}
	}
	e.files = append(e.files, file{m.Name, fd})
	return true
}

// drop forgets. A process that still lives lives on; the end of a child is then
// collected without being told.
func (s *server) drop(m *wire.Drop) {
	e := s.entries[m.Key]
	if e == nil {
		return
	}
	kept := e.files[:0]
	for _, f := range e.files {
		if len(m.Names) > 0 && !contains(m.Names, f.name) {
			kept = append(kept, f)
			continue
		}
		unix.Close(f.fd)
	}
	e.files = kept
	if len(m.Names) > 0 {
		if e.pid == 0 && len(e.files) == 0 {
			delete(s.entries, e.key)
		}
		return
	}
	delete(s.entries, e.key)
	if e.pid == 0 {
		return
	}
	s.journal.forgotten(e.key, s.entries)
	if e.exit != nil {
		s.unwatch(e)
		return
	}
	e.forgotten = true
	s.ended(e)
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// fetch answers with the items from number from on.
func (s *server) fetch(c *client, from uint64) bool {
	if from == 0 {
		c.fetch = nil
		for key, e := range s.entries {
			if e.pid != 0 {
				c.fetch = append(c.fetch, fetched{key: key})
			}
			for _, f := range e.files {
				c.fetch = append(c.fetch, fetched{key, f.name})
			}
		}
	}
	total := uint64(len(c.fetch))
	from = min(from, total)
	to := min(from+wire.FetchBatch, total)
	for _, item := range c.fetch[from:to] {
		if !s.sendItem(c, item) {
			return false
		}
	}
	if to == total {
		c.fetch = nil
	}
	return s.reply(c, wire.KindEnd, &wire.End{More: to < total, Next: to})
}

func (s *server) sendItem(c *client, item fetched) bool {
	e := s.entries[item.key]
	if e == nil {
		return true // dropped since
	}
	if item.name == "" {
		m := wire.Process{Key: e.key, PID: e.pid, Start: e.start}
		if e.exit != nil {
			m = *e.exit
		}
		if e.pidfd < 0 {
			return s.reply(c, wire.KindProcess, &m)
		}
		return s.reply(c, wire.KindProcess, &m, e.pidfd)
	}
	for _, f := range e.files {
		if f.name == item.name {
			return s.reply(c, wire.KindFile, &wire.File{Key: e.key, Name: f.name}, f.fd)
		}
	}
	return true
}
