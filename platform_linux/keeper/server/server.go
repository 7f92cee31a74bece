//go:build linux

// Package server is caisson-keeper. It is one thread around epoll; see package
// keeper for what it is for and how it lives. It imports little, because its
// memory is counted on every host that runs containers.
package server

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// Names of the keeper's files in its directory.
const (
	socketName  = "keeper.sock"
	lockName    = "keeper.lock"
	journalName = "keeper.journal"
)

// lonely is how long the keeper lives on with nothing to do and nobody
// connected.
const lonely = 10 * time.Second

// maxClients bounds connections; there is one backend and one engine.
const maxClients = 64

// maxEvents is how many events one wait returns.
const maxEvents = 32

// reserved is the first descriptor above those that a forked child makes.
const reserved = 10

// server is the keeper. Only its one thread touches it.
type server struct {
	dir     string
	epoll   int
	listen  int
	self    int // sealed caisson-init
	journal journal
	// home are our own namespaces, to come back to after a spawn; opened when
	// first needed.
	home    map[uint64]int
	clients map[int]*client
	entries map[string]*entry
	// watched finds what a descriptor in epoll belongs to.
	pidfds  map[int]*entry
	engines map[string]*engine
	guarded map[int]*engine // by pidfd
	idle    time.Time       // since when nobody needs us; zero: somebody does
	packet  []byte
	oob     []byte
	argv    [2]*byte
	envp    [4]*byte
}

// client is one connection.
type client struct {
	fd      int
	backend bool
	fetch   []fetched
}

// Run is caisson-keeper's main: it serves dir, on whose first connection first
// is (-1 for none), and forks initPath. It returns when there is nothing left
// to do. It must run on a locked thread.
func Run(dir, initPath string, first int) error {
	s := &server{
		dir: dir, home: map[uint64]int{}, clients: map[int]*client{}, entries: map[string]*entry{},
		pidfds: map[int]*entry{}, engines: map[string]*engine{}, guarded: map[int]*engine{},
		packet: make([]byte, wire.MaxPacket), oob: make([]byte, unix.CmsgSpace(4*wire.MaxFDs)),
	}
	if err := s.open(initPath); err != nil {
		return err
	}
	if first >= 0 {
		unix.CloseOnExec(first)
		if err := s.addClient(first); err != nil {
			return err
		}
	}
	return s.loop()
}

// failure is an error with the step that failed.
type failure struct {
	what string
	err  error
}

func (f *failure) Error() string { return f.what + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return &failure{what, err}
}

// open takes the directory: lock, sealed init, journal, socket, in this order.
func (s *server) open(initPath string) error {
	if err := reserve(); err != nil {
		return err
	}
	lock, err := unix.Open(s.dir+"/"+lockName, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return wrap("open "+s.dir+"/"+lockName, err)
	}
	// Held until we end. Another keeper there is no failure of ours, but no
	// reason to live either.
	if err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return wrap("another keeper serves "+s.dir, err)
	}
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return wrap("epoll", err)
	}
	if s.self, err = seal(initPath); err != nil {
		return err
	}
	for i, text := range [...]string{"caisson-init"} {
		s.argv[i], _ = syscall.BytePtrFromString(text)
	}
	// caisson-init lives for some milliseconds: it needs no collector, no
	// preemption, two processors (initproc's dropOld), and no look at the host's
	// cgroups for how many it may use, which would leave their files open in it.
	for i, text := range [...]string{"GOGC=off", "GOMAXPROCS=2", "GODEBUG=asyncpreemptoff=1,containermaxprocs=0"} {
		s.envp[i], _ = syscall.BytePtrFromString(text)
	}
	if err := s.restore(); err != nil {
		return err
	}
	s.listen, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return wrap("socket", err)
	}
	path := s.dir + "/" + socketName
	_ = unix.Unlink(path) // of a keeper that is dead, or we would not have the lock
	if err := unix.Bind(s.listen, &unix.SockaddrUnix{Name: path}); err != nil {
		return wrap("bind "+path, err)
	}
	if err := unix.Chmod(path, 0o600); err != nil {
		return wrap("chmod "+path, err)
	}
	if err := unix.Listen(s.listen, 16); err != nil {
		return wrap("listen on "+path, err)
	}
	return s.watch(s.listen, unix.EPOLLIN)
}

// reserve fills the descriptors below reserved, which a forked child replaces,
// so that nothing that matters ever gets one of their numbers.
func reserve() error {
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return wrap("open /dev/null", err)
		}
		if fd >= reserved {
			return unix.Close(fd)
		}
	}
}

// seal copies the program at path into a memory file that nobody can change any
// more. A container that reaches it through /proc/self/exe holds a copy, not
// the host's binary (CVE-2019-5736).
func seal(path string) (int, error) {
	src, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, wrap("open "+path, err)
	}
	defer unix.Close(src)
	// Without MFD_EXEC kernels from 6.3 warn; those before do not know it.
	fd, err := unix.MemfdCreate("caisson-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, syscall.EINVAL) {
		fd, err = unix.MemfdCreate("caisson-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, wrap("memfd_create", err)
	}
	for {
		n, err := unix.Sendfile(fd, src, nil, 16<<20)
		if err != nil {
			return -1, wrap("copy "+path, err)
		}
		if n == 0 {
			break
		}
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	return fd, wrap("seal caisson-init", err)
}

func (s *server) watch(fd int, events uint32) error {
	return wrap("epoll_ctl", unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

// loop serves until nobody needs the keeper.
func (s *server) loop() error {
	var events [maxEvents]unix.EpollEvent
	for {
		n, err := unix.EpollWait(s.epoll, events[:], s.timeout())
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return wrap("epoll_wait", err)
		}
		for _, e := range events[:max(n, 0)] {
			s.dispatch(int(e.Fd))
		}
		s.startEngines()
		if s.done() {
			return nil
		}
	}
}

func (s *server) dispatch(fd int) {
	switch {
	case fd == s.listen:
		s.accept()
	case s.clients[fd] != nil:
		s.serve(s.clients[fd])
	case s.pidfds[fd] != nil:
		s.ended(s.pidfds[fd])
	case s.guarded[fd] != nil:
		s.engineEnded(s.guarded[fd])
	}
}

// needed tells whether there is a reason to live.
func (s *server) needed() bool {
	if len(s.entries) > 0 || len(s.engines) > 0 {
		return true
	}
	for _, c := range s.clients {
		if c.backend {
			return true
		}
	}
	return false
}

// timeout is how long to wait for events, in milliseconds; -1 for ever.
func (s *server) timeout() int {
	var until time.Time
	if s.needed() {
		s.idle = time.Time{}
	} else {
		if s.idle.IsZero() {
			s.idle = time.Now()
		}
		until = s.idle.Add(lonely)
	}
	for _, e := range s.engines {
		if !e.startAt.IsZero() && (until.IsZero() || e.startAt.Before(until)) {
			until = e.startAt
		}
	}
	if until.IsZero() {
		return -1
	}
	return int(max(0, time.Until(until)).Milliseconds()) + 1
}

// done tells whether to end: lonely for long enough, or lonely with the
// directory gone, in which nobody will ever find us again.
func (s *server) done() bool {
	if s.needed() || s.idle.IsZero() {
		return false
	}
	if time.Since(s.idle) >= lonely {
		return true
	}
	var st unix.Stat_t
	return errors.Is(unix.Stat(s.dir+"/"+socketName, &st), syscall.ENOENT)
}

func (s *server) accept() {
	fd, _, err := unix.Accept4(s.listen, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return // the peer gave up
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Uid != uint32(unix.Geteuid()) || len(s.clients) >= maxClients || s.addClient(fd) != nil {
		unix.Close(fd)
	}
}

func (s *server) addClient(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return wrap("set non-blocking", err)
	}
	if err := s.watch(fd, unix.EPOLLIN|unix.EPOLLRDHUP); err != nil {
		return err
	}
	s.clients[fd] = &client{fd: fd}
	return nil
}

func (s *server) dropClient(c *client) {
	delete(s.clients, c.fd)
	unix.Close(c.fd)
}

// serve takes one packet. Whatever is wrong with it ends the connection: both
// sides are ours, so there is nothing to negotiate.
func (s *server) serve(c *client) {
	n, oobn, flags, _, err := unix.Recvmsg(c.fd, s.packet, s.oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
		return
	}
	var fds []int
	if err == nil && oobn > 0 {
		fds = rights(s.oob[:oobn])
	}
	if err != nil || n == 0 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || !s.handle(c, wire.Kind(s.packet[0]), s.packet[1:n], &fds) {
		s.dropClient(c)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func rights(oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range messages {
		more, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, more...)
		}
	}
	return fds
}

// handle carries out one message. It takes from fds what it keeps; the caller
// closes the rest. It reports whether the connection may go on.
func (s *server) handle(c *client, kind wire.Kind, data []byte, fds *[]int) bool {
	switch kind {
	case wire.KindHello:
		var m wire.Hello
		if !pack.Decode(data, &m) || m.Version != wire.Version {
			return false
		}
		c.backend = m.Backend
		return s.reply(c, wire.KindHello, &wire.Hello{Version: wire.Version, PID: unix.Getpid()})
	case wire.KindSpawn:
		var m wire.Spawn
		return pack.Decode(data, &m) && s.spawn(c, &m, *fds)
	case wire.KindAdopt:
		var m wire.Process
		return pack.Decode(data, &m) && len(*fds) == 1 && s.adopt(&m, take(fds))
	case wire.KindHold:
		var m wire.File
		return pack.Decode(data, &m) && len(*fds) == 1 && s.hold(&m, take(fds))
	case wire.KindDrop:
		var m wire.Drop
		if !pack.Decode(data, &m) {
			return false
		}
		s.drop(&m)
		return true
	case wire.KindFetch:
		var m wire.Fetch
		return pack.Decode(data, &m) && s.fetch(c, m.From)
	case wire.KindRegister:
		var m wire.Engine
		return pack.Decode(data, &m) && len(*fds) == 2 && s.register(&m, take(fds), take(fds)) && s.reply(c, wire.KindEnd, &wire.End{})
	case wire.KindUnregister:
		var m wire.Engine
		if !pack.Decode(data, &m) {
			return false
		}
		s.unregister(m.Dir)
		return s.reply(c, wire.KindEnd, &wire.End{})
	}
	return false
}

// take moves the first descriptor out of the list.
func take(fds *[]int) int {
	fd := (*fds)[0]
	*fds = (*fds)[1:]
	return fd
}

// reply sends a message. A client that does not read is dropped, and asks again
// when it connects again.
func (s *server) reply(c *client, kind wire.Kind, m pack.Message, fds ...int) bool {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(c.fd, wire.Encode(kind, m), oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) == nil
}
