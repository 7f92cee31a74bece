package monitor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// commandLimit bounds one call of a runtime: none takes so long that works.
const commandLimit = 2 * time.Minute

// run calls a runtime and takes over the process that it leaves.
func (s *server) run(q *request, files []*os.File, r *reply, answer func(*reply, ...*os.File)) {
	defer closeAll(files)
	e, err := s.begin(q)
	if err == nil {
		err = s.command(q, files, r, e)
		s.ended(q.Key, e, err == nil && r.Status == 0)
	}
	if err != nil {
		r.Error, r.Gone = err.Error(), false
		answer(r)
		return
	}
	var out []*os.File
	s.mu.Lock()
	r.PID, r.Exit = e.pid, e.exit
	for _, name := range []string{FilePidfd, FileConsole} {
		if f := e.files[name]; f != nil && r.Status == 0 {
			r.Names, out = append(r.Names, name), append(out, f)
		}
	}
	answer(r, out...) // under the lock: a drop would close them
	s.mu.Unlock()
}

// begin reserves the key.
func (s *server) begin(q *request) (*entry, error) {
	if q.Command == nil || q.Key == "" || len(q.Command.Argv) == 0 {
		return nil, errors.New("no command")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(q.Key)
	if e.pid != 0 {
		return nil, fmt.Errorf("%s has a process", q.Key)
	}
	s.underway++
	return e, nil
}

// ended is the end of what begin began.
func (s *server) ended(key string, e *entry, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underway--; s.underway == 0 {
		clear(s.strays)
		s.idle.Broadcast()
	}
	if !ok && len(e.files) == 0 && e.pid == 0 && s.entries[key] == e {
		delete(s.entries, key)
	}
	s.endIfIdle()
}

// command runs to the end of the runtime's process, then adopts.
func (s *server) command(q *request, files []*os.File, r *reply, e *entry) error {
	c := q.Command
	argv := slices.Clone(c.Argv)
	var console *consoleSocket
	if c.Console {
		var err error
		if console, err = s.listenConsole(q.ID, c.Rows, c.Cols); err != nil {
			return err
		}
		defer console.close()
		argv = append(argv, "--console-socket", console.path)
	}
	argv = append(argv, c.Last...)
	attr := &os.ProcAttr{Dir: "/", Env: c.Env, Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}}
	if n := 3; len(files) >= n {
		attr.Files = files[:n]
	}
	if c.Cgroup && len(files) > 3 {
		fd, err := number(files[3])
		if err != nil {
			return err
		}
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fd
	}
	status, err := s.wait(argv, attr)
	if err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	if r.Status = status.ExitStatus(); status.Signaled() {
		return fmt.Errorf("%s was killed by signal %d", argv[0], status.Signal())
	}
	if r.Status != 0 {
		return nil
	}
	pid, err := pidOf(c.PIDFile)
	if err != nil {
		return err
	}
	if console != nil {
		f, err := console.take()
		if err != nil {
			return err
		}
		s.mu.Lock()
		e.files[FileConsole] = f
		s.mu.Unlock()
	}
	return s.adopt(q.Key, e, pid)
}

// wait starts a child and waits for its end. The thread that starts it lives as
// long: the child is to die with us, and the kernel understands that as with the
// thread.
func (s *server) wait(argv []string, attr *os.ProcAttr) (syscall.WaitStatus, error) {
	type outcome struct {
		status syscall.WaitStatus
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		ended := make(chan syscall.WaitStatus, 1)
		s.mu.Lock()
		p, err := os.StartProcess(argv[0], argv, attr)
		if err != nil {
			s.mu.Unlock()
			done <- outcome{err: err}
			return
		}
		s.commands[p.Pid] = ended
		s.mu.Unlock()
		limit := time.AfterFunc(commandLimit, func() { _ = p.Kill() })
		status := <-ended
		limit.Stop()
		_ = p.Release()
		done <- outcome{status: status}
	}()
	o := <-done
	return o.status, o.err
}

// adopt makes a process that a command left the key's.
func (s *server) adopt(key string, e *entry, pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if exit, ok := s.strays[pid]; ok {
		e.pid = pid
		s.end(key, e, exit)
		return nil
	}
	// Under the lock nobody collects it, so the number is still its own.
	f, err := openPidfd(pid)
	if err != nil {
		return fmt.Errorf("process %d, which the runtime named: %w", pid, err)
	}
	e.pid, e.files[FilePidfd] = pid, f
	if ours(pid) {
		s.children[pid] = e
		return nil
	}
	dup, err := duplicate(f)
	if err != nil {
		return err
	}
	go s.follow(key, e, dup)
	return nil
}

// ours tells whether a process is our child. A runtime may have a server of its
// own that stays the parent.
func ours(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// pid (name) state ppid: the name may hold anything.
	i := slices.Index(b, ')')
	for j := i + 1; j < len(b); j++ {
		if b[j] == ')' {
			i = j
		}
	}
	var state string
	var ppid int
	if _, err := fmt.Sscanf(string(b[i+1:]), "%s %d", &state, &ppid); err != nil {
		return false
	}
	return ppid == os.Getpid()
}

// consoleSocket is where a runtime sends a terminal.
type consoleSocket struct {
	path string
	l    *net.UnixListener
	dir  *os.File
	got  chan *os.File
	fail chan error
}

// listenConsole takes one terminal and gives it its size before the runtime goes
// on with the program.
func (s *server) listenConsole(id uint64, rows, cols uint32) (*consoleSocket, error) {
	l, path, dir, err := listen("unix", filepath.Join(s.dir, fmt.Sprintf("console-%d", id)))
	if err != nil {
		return nil, fmt.Errorf("console socket: %w", err)
	}
	c := &consoleSocket{path: path, l: l, dir: dir, got: make(chan *os.File, 1), fail: make(chan error, 1)}
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			c.fail <- err
			return
		}
		defer func() { _ = conn.Close() }()
		f, err := terminal(conn)
		if err == nil && (rows != 0 || cols != 0) {
			var fd int
			if fd, err = number(f); err == nil {
				err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
			}
		}
		if err != nil {
			c.fail <- fmt.Errorf("console: %w", err)
			return
		}
		c.got <- f
	}()
	return c, nil
}

// terminal receives the one descriptor; what else is in the message says nothing.
func terminal(conn *net.UnixConn) (*os.File, error) {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil || len(fds) == 0 {
			continue
		}
		for _, fd := range fds[1:] {
			_ = unix.Close(fd)
		}
		unix.CloseOnExec(fds[0])
		if err := unix.SetNonblock(fds[0], true); err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fds[0]), FileConsole), nil
	}
	return nil, errors.New("the runtime sent no terminal")
}

// take is the terminal of a runtime that has ended well, and so has sent it.
func (c *consoleSocket) take() (*os.File, error) {
	_ = c.l.SetDeadline(time.Now().Add(10 * time.Second))
	select {
	case f := <-c.got:
		return f, nil
	case err := <-c.fail:
		return nil, err
	}
}

func (c *consoleSocket) close() {
	_ = c.l.Close()
	_ = c.dir.Close()
	select {
	case f := <-c.got:
		_ = f.Close()
	default:
	}
}

// listen makes a socket at path, also where that is too long for one: path is
// then what others must use, as long as dir is open.
func listen(network, at string) (l *net.UnixListener, path string, dir *os.File, err error) {
	if dir, err = os.Open(filepath.Dir(at)); err != nil {
		return nil, "", nil, err
	}
	_ = os.Remove(at)
	path = through(dir, at)
	if l, err = net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network}); err != nil {
		_ = dir.Close()
		return nil, "", nil, err
	}
	return l, path, dir, nil
}

// through is a path to a socket that fits into an address.
func through(dir *os.File, at string) string {
	const maxPath = 107
	if len(at) <= maxPath {
		return at
	}
	return fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), dir.Fd(), filepath.Base(at))
}
