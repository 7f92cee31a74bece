package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// entry is what is held under one key.
type entry struct {
	files map[string]*os.File
	pid   int // 0: only files
	exit  *Exit
	gone  bool          // dropped before its process ended
	ended chan struct{} // closed when exit or gone is set
}

// server is the state of a monitor.
//
// Children are collected in one place: a command's status goes to who waits for
// it, a process's is written down. Who is not known yet may be the process that a
// command under way is about to name, so its status is kept until none is.
type server struct {
	dir string

	mu       sync.Mutex
	entries  map[string]*entry
	children map[int]*entry
	commands map[int]chan syscall.WaitStatus
	strays   map[int]Exit
	underway int
	idle     *sync.Cond // underway became 0
	conns    int
	ending   bool // nobody is let in any more
	done     chan struct{}
}

// Serve is the monitor's process: it serves the listening socket and keeps its
// notes below dir, until nobody needs it any more.
func Serve(l *net.UnixListener, dir string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("subreaper: %w", err)
	}
	// A write to a backend that was killed must not end us.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	if err := os.MkdirAll(filepath.Join(dir, "exits"), 0o700); err != nil {
		return err
	}
	// Starting a first process makes the Go library try things on a child of
	// its own, which nobody else must collect.
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Release()
	}
	s := &server{
		dir: dir, entries: map[string]*entry{}, children: map[int]*entry{}, commands: map[int]chan syscall.WaitStatus{},
		strays: map[int]Exit{}, done: make(chan struct{}),
	}
	s.idle = sync.NewCond(&s.mu)
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, syscall.SIGCHLD)
	go func() {
		for range deaths {
			s.collect()
		}
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		select {
		case <-stop:
		case <-s.done:
		}
		_ = l.Close()
	}()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		ending := s.ending
		if !ending {
			s.conns++
		}
		s.mu.Unlock()
		if ending {
			_ = c.Close() // it starts the next one
			continue
		}
		go s.serve(c)
	}
}

// serve answers one client until it leaves.
func (s *server) serve(c *net.UnixConn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		s.conns--
		s.endIfIdle()
		s.mu.Unlock()
	}()
	var out sync.Mutex
	answer := func(r *reply, files ...*os.File) {
		out.Lock()
		defer out.Unlock()
		_ = send(c, r, files) // a client that is gone asks again
	}
	buf := make([]byte, maxPacket)
	for {
		q := &request{}
		files, err := receive(c, buf, q)
		if err != nil {
			return
		}
		go s.handle(q, files, answer)
	}
}

// endIfIdle ends a monitor that nobody needs. s.mu is held.
func (s *server) endIfIdle() {
	if !s.ending && s.conns == 0 && s.underway == 0 && len(s.entries) == 0 {
		s.ending = true
		close(s.done)
	}
}

func (s *server) handle(q *request, files []*os.File, answer func(*reply, ...*os.File)) {
	r := &reply{ID: q.ID, Key: q.Key}
	fail := func(err error) {
		r.Error, r.Gone = err.Error(), errors.Is(err, fs.ErrNotExist)
		answer(r)
	}
	switch q.Verb {
	case verbRun:
		s.run(q, files, r, answer)
	case verbHold:
		if len(files) != len(q.Names) || q.Key == "" {
			closeAll(files)
			fail(fs.ErrInvalid)
			return
		}
		s.hold(q, files)
		answer(r)
	case verbDrop:
		s.drop(q.Key, q.Names)
		answer(r)
	case verbExit:
		s.mu.Lock()
		e := s.entries[q.Key]
		x, noted := s.noted(q.Key)
		s.mu.Unlock()
		if noted {
			// Perhaps by another monitor, of a process that left nothing to hand over.
			r.Exit = &x
			answer(r)
			return
		}
		if e == nil || e.pid == 0 {
			fail(fmt.Errorf("no process %s: %w", q.Key, fs.ErrNotExist))
			return
		}
		<-e.ended
		if e.exit == nil {
			fail(fmt.Errorf("no process %s any more: %w", q.Key, fs.ErrNotExist))
			return
		}
		r.Exit = e.exit
		answer(r)
	case verbHello:
		answer(r)
	case verbList:
		s.list(r, answer)
	default:
		closeAll(files)
		fail(fmt.Errorf("unknown verb %q", q.Verb))
	}
}

func (s *server) entry(key string) *entry {
	e := s.entries[key]
	if e == nil {
		e = &entry{files: map[string]*os.File{}, ended: make(chan struct{})}
		s.entries[key] = e
	}
	return e
}

// hold keeps files, in place of those of the same name. A pidfd is another's
// child, handed over by a client whose monitor died.
func (s *server) hold(q *request, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(q.Key)
	for i, name := range q.Names {
		if old := e.files[name]; old != nil {
			_ = old.Close()
		}
		e.files[name] = files[i]
		if name != FilePidfd || e.pid != 0 {
			continue
		}
		e.pid = q.PID
		if exit, ok := s.noted(q.Key); ok {
			s.end(q.Key, e, exit)
			continue
		}
		// A file of its own: ours may be replaced or dropped meanwhile.
		f, err := duplicate(files[i])
		if err != nil {
			s.end(q.Key, e, Exit{Unknown: true, At: time.Now().UnixNano()})
			continue
		}
		go s.follow(q.Key, e, f)
	}
}

// drop forgets names of a key, or all of it with the process. A process that
// still lives lives on.
func (s *server) drop(key string, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		if len(names) == 0 {
			_ = os.Remove(s.note(key))
		}
		return
	}
	for _, name := range names {
		if f := e.files[name]; f != nil {
			_ = f.Close()
			delete(e.files, name)
		}
	}
	if len(names) > 0 && (len(e.files) > 0 || e.pid != 0) {
		return
	}
	for _, f := range e.files {
		_ = f.Close()
	}
	delete(s.entries, key)
	if e.exit == nil && !e.gone {
		e.gone = true
		close(e.ended)
	}
	if s.children[e.pid] == e {
		delete(s.children, e.pid) // collected without being written down
	}
	_ = os.Remove(s.note(key))
	s.endIfIdle()
}

// list answers an item for each key, once no command is under way: what one is
// about to leave belongs to its key too.
func (s *server) list(r *reply, answer func(*reply, ...*os.File)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.underway > 0 {
		s.idle.Wait()
	}
	for key, e := range s.entries {
		item := &reply{ID: r.ID, Key: key, PID: e.pid, Exit: e.exit}
		var files []*os.File
		for name, f := range e.files {
			item.Names, files = append(item.Names, name), append(files, f)
		}
		answer(item, files...)
	}
	answer(r)
}

// collect takes the exits of children.
func (s *server) collect() {
	for {
		s.mu.Lock()
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			s.mu.Unlock()
			continue
		}
		if err != nil || pid <= 0 {
			s.mu.Unlock()
			return
		}
		exit := Exit{Status: uint32(status), At: time.Now().UnixNano()}
		if waiting := s.commands[pid]; waiting != nil {
			waiting <- status
			delete(s.commands, pid)
		} else if e := s.children[pid]; e != nil {
			for key, x := range s.entries {
				if x == e {
					s.end(key, e, exit)
				}
			}
			delete(s.children, pid)
		} else if s.underway > 0 {
			s.strays[pid] = exit
		}
		s.mu.Unlock()
	}
}

// end writes down how a process ended, and tells. s.mu is held.
func (s *server) end(key string, e *entry, exit Exit) {
	if e.exit != nil || e.gone {
		return
	}
	text := fmt.Sprintf("%d %t %d\n", exit.Status, exit.Unknown, exit.At)
	// What cannot be written is still told while we live.
	_ = os.WriteFile(s.note(key), []byte(text), 0o600)
	e.exit = &exit
	close(e.ended)
}

// note is the file in which an exit is written down.
func (s *server) note(key string) string {
	return filepath.Join(s.dir, "exits", strings.ReplaceAll(key, "/", "@"))
}

func (s *server) noted(key string) (exit Exit, ok bool) {
	b, err := os.ReadFile(s.note(key))
	if err != nil {
		return exit, false
	}
	n, err := fmt.Sscanf(string(b), "%d %t %d\n", &exit.Status, &exit.Unknown, &exit.At)
	return exit, n == 3 && err == nil && !exit.Unknown
}

// follow waits for the end of a process that is not our child.
func (s *server) follow(key string, e *entry, pidfd *os.File) {
	defer pidfd.Close()
	exit := Exit{Unknown: true}
	if c, err := pidfd.SyscallConn(); err == nil {
		// The first edge is its death, the second that it was collected.
		_ = c.Read(func(fd uintptr) bool {
			status, known, over := exitInfo(int(fd))
			if known {
				exit.Status, exit.Unknown = status, false
			}
			return known || over
		})
	}
	exit.At = time.Now().UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(key, e, exit)
}

// pidOf reads a pid file.
func pidOf(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("the runtime wrote no pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("the runtime's pid file says %q", b)
	}
	return pid, nil
}
