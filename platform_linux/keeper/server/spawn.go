//go:build linux

package server

import (
	"errors"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
)

// makeable are the namespaces that a Spawn may ask for.
const makeable = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWNET | unix.CLONE_NEWUSER | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

// homes are where our own namespace of each type is.
var homes = map[uint64]string{
	unix.CLONE_NEWPID:    "/proc/self/ns/pid",
	unix.CLONE_NEWNET:    "/proc/self/ns/net",
	unix.CLONE_NEWIPC:    "/proc/self/ns/ipc",
	unix.CLONE_NEWUTS:    "/proc/self/ns/uts",
	unix.CLONE_NEWCGROUP: "/proc/self/ns/cgroup",
}

// spawn carries out one Spawn and answers it. fds stay the caller's.
func (s *server) spawn(c *client, m *wire.Spawn, fds []int) bool {
	e, err := s.makeProcess(m, fds)
	answer := wire.Spawned{ID: m.ID}
	if err == nil {
		answer.PID, answer.Start = e.pid, e.start
		return s.reply(c, wire.KindSpawned, &answer, e.pidfd)
	}
	answer.What, answer.Errno = "spawn", uint64(syscall.EINVAL)
	var f *failure
	if errors.As(err, &f) {
		answer.What = f.what
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		answer.Errno = uint64(errno)
	}
	return s.reply(c, wire.KindSpawned, &answer)
}

func (s *server) makeProcess(m *wire.Spawn, fds []int) (*entry, error) {
	want := 4 + len(m.Joins)
	if m.Cgroup {
		want++
	}
	if m.Enter != 0 {
		want++
	}
	if len(fds) != want || !wire.ValidKey(m.Key) || len(m.Tasks) > maxTasks || m.Flags&^makeable != 0 || m.Enter&^makeable != 0 {
		return nil, wrap("check the request", syscall.EINVAL)
	}
	if old := s.entries[m.Key]; old != nil && old.pid != 0 {
		return nil, wrap("take the key "+m.Key, syscall.EEXIST)
	}
	p := plan{
		stdio: [3]int{fds[0], fds[1], fds[2]}, ctl: fds[3], self: s.self, gate: -1, enter: -1,
		argv: &s.argv, envp: &s.envp,
	}
	p.args.flags = m.Flags | unix.CLONE_PIDFD
	p.args.exitSignal = uint64(unix.SIGCHLD)
	rest := fds[4:]
	if m.Cgroup {
		p.args.flags |= unix.CLONE_INTO_CGROUP
		p.args.cgroup = uint64(rest[0])
		rest = rest[1:]
	}
	joins := m.Joins
	p.become = m.Flags&unix.CLONE_NEWUSER != 0 || m.Enter&unix.CLONE_NEWUSER != 0
	if m.Enter != 0 {
		// Only the children of a thread are in the pid namespace that it enters, so
		// that one is entered here and all others by the child.
		p.enter, p.flags = rest[len(m.Joins)], m.Enter&^unix.CLONE_NEWPID
		if m.Enter&unix.CLONE_NEWPID != 0 {
			joins = append(joins[:len(joins):len(joins)], unix.CLONE_NEWPID)
			rest = append(rest[:len(m.Joins):len(m.Joins)], p.enter)
		}
	}
	if m.OOMScore != "" {
		text, err := syscall.BytePtrFromString(m.OOMScore)
		if err != nil {
			return nil, wrap("check the request", syscall.EINVAL)
		}
		p.oom, p.oomLen = text, len(m.OOMScore)
	}
	defer func() {
		for _, fd := range p.tasks[:p.ntasks] {
			unix.Close(fd)
		}
	}()
	for _, path := range m.Tasks {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, wrap("open "+path, err)
		}
		p.tasks[p.ntasks] = fd
		p.ntasks++
	}
	p.share = m.Flags&unix.CLONE_NEWUSER == 0 && p.flags&(unix.CLONE_NEWUSER|unix.CLONE_NEWTIME) == 0
	pid, err := s.forkIn(&p, m, joins, rest)
	if err != nil {
		return nil, err
	}
	e := s.entry(m.Key)
	e.pid, e.pidfd = pid, int(p.pidfd)
	e.start, _ = startTime(pid) // our own child: it is there until we reap it
	s.journal.born(e)
	s.follow(e)
	return e, nil
}

// forkIn forks within the given namespaces, and writes the maps of a new user
// namespace before the child goes on.
func (s *server) forkIn(p *plan, m *wire.Spawn, joins []uint64, nsfds []int) (int, error) {
	var gate [2]int
	if m.Flags&unix.CLONE_NEWUSER != 0 {
		if err := unix.Pipe2(gate[:], unix.O_CLOEXEC); err != nil {
			return 0, wrap("pipe", err)
		}
		defer unix.Close(gate[1])
		defer unix.Close(gate[0])
		p.gate = gate[0]
	}
	joined, err := s.join(joins, nsfds)
	var pid int
	if err == nil {
		var errno syscall.Errno
		if pid, errno = fork(p); errno != 0 {
			err = wrap("clone3", errno)
		}
	}
	for _, kind := range joins[:joined] {
		if back := unix.Setns(s.home[kind], int(kind)); back != nil {
			// A keeper in the wrong namespace must not go on. The backend starts
			// another, and the containers do not mind.
			panic("return to " + homes[kind] + ": " + back.Error())
		}
	}
	if err != nil || m.Flags&unix.CLONE_NEWUSER == 0 {
		return pid, err
	}
	if err := writeMaps(pid, m); err != nil {
		_ = unix.PidfdSendSignal(int(p.pidfd), unix.SIGKILL, nil, 0)
		_, _ = syscall.Wait4(pid, nil, unix.WALL, nil)
		unix.Close(int(p.pidfd))
		return 0, err
	}
	_, _ = unix.Write(gate[1], []byte{1}) // a pipe of ours with room for it
	return pid, nil
}

// join moves this thread into namespaces and tells into how many it got.
func (s *server) join(kinds []uint64, fds []int) (int, error) {
	for i, kind := range kinds {
		path, ok := homes[kind]
		if !ok {
			return i, wrap("join a namespace", syscall.EINVAL)
		}
		if s.home[kind] == 0 {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return i, wrap("open "+path, err)
			}
			s.home[kind] = fd
		}
		if err := unix.Setns(fds[i], int(kind)); err != nil {
			return i, wrap("join the namespace like "+path, err)
		}
	}
	return len(kinds), nil
}

func writeMaps(pid int, m *wire.Spawn) error {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	groups := ""
	if m.NoSetgroups {
		groups = "deny"
	}
	for _, f := range [...][2]string{{"setgroups", groups}, {"uid_map", m.UIDMap}, {"gid_map", m.GIDMap}} {
		if f[1] == "" {
			continue
		}
		fd, err := unix.Open(dir+f[0], unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return wrap("open "+dir+f[0], err)
		}
		_, err = unix.Write(fd, []byte(f[1]))
		unix.Close(fd)
		if err != nil {
			return wrap("write "+dir+f[0], err)
		}
	}
	return nil
}
