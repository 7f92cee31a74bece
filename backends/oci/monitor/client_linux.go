package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
)

// SocketName is the monitor's socket in its directory.
const SocketName = "monitor.sock"

// Name is what a monitor shows itself as in a list of processes.
const Name = "caisson-oci-monitor"

// Config says how a monitor is found or started.
type Config struct {
	Dir string // of its socket and notes
	// Argv starts one: a program that calls Serve with the listening socket
	// that it finds as descriptor 3, and with Dir.
	Argv []string
	Log  *slog.Logger
}

// Client is a backend's connection to its monitor, which it starts when it first
// needs one, and again whenever it dies. It is safe for concurrent use.
type Client struct {
	cfg Config

	mu     sync.Mutex
	conn   *conn
	held   map[string]map[string]*os.File // duplicates of all that the monitor has
	pids   map[string]int
	calls  int // under way
	closed bool
}

// Held is what a monitor has under one key. The files are the caller's.
type Held struct {
	PID   int   // 0: no process
	Exit  *Exit // nil: it lives
	Files map[string]*os.File
}

// Close closes the files.
func (h *Held) Close() {
	for _, f := range h.Files {
		_ = f.Close()
	}
}

// Result is what a command left.
type Result struct {
	Status  int // of the runtime; what follows holds if it is 0
	PID     int
	Pidfd   *os.File // nil: it has ended already
	Console *os.File // if one was asked for
}

// Open makes a client. Nothing is started yet.
func Open(cfg Config) *Client {
	return &Client{cfg: cfg, held: map[string]map[string]*os.File{}, pids: map[string]int{}}
}

// Close disconnects. The monitor and all processes live on.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.conn != nil {
		_ = c.conn.c.Close()
	}
	for key := range c.held {
		c.release(key)
	}
	return nil
}

// release closes our duplicates under a key. c.mu is held.
func (c *Client) release(key string, names ...string) {
	files := c.held[key]
	if len(names) == 0 {
		for name := range files {
			names = append(names, name)
		}
		delete(c.pids, key)
	}
	for _, name := range names {
		if f := files[name]; f != nil {
			_ = f.Close()
			delete(files, name)
		}
	}
	if len(files) == 0 {
		delete(c.held, key)
	}
}

// empty tells whether the monitor has nothing for us. c.mu is held.
func (c *Client) empty() bool { return len(c.held) == 0 && len(c.pids) == 0 }

// keep stores a duplicate of a file. c.mu is held.
func (c *Client) keep(key, name string, f *os.File) error {
	dup, err := duplicate(f)
	if err != nil {
		return err
	}
	if c.held[key] == nil {
		c.held[key] = map[string]*os.File{}
	}
	if old := c.held[key][name]; old != nil {
		_ = old.Close()
	}
	c.held[key][name] = dup
	return nil
}

// Hold has the monitor hold a file under a key and name. It stays the caller's.
func (c *Client) Hold(key, name string, f *os.File) error {
	c.mu.Lock()
	err := c.keep(key, name, f)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	_, _, err = c.again(&request{Verb: verbHold, Key: key, Names: []string{name}}, f)
	return err
}

// Drop forgets names of a key, or all of it. A process lives on.
func (c *Client) Drop(key string, names ...string) error {
	c.mu.Lock()
	known := c.held[key] != nil || c.pids[key] != 0
	c.release(key, names...)
	idle := c.conn == nil && c.empty()
	c.mu.Unlock()
	if !known && idle {
		return nil // no monitor ever heard of it
	}
	_, _, err := c.again(&request{Verb: verbDrop, Key: key, Names: names})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == 0 && c.empty() && c.conn != nil {
		// Nobody needs the monitor: it ends with its last connection.
		_ = c.conn.c.Close()
		c.conn = nil
	}
	return err
}

// File is a duplicate of what is held under a key and name. Errors: NotFound.
func (c *Client) File(key, name string) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.held[key][name]
	if f == nil {
		return nil, fmt.Errorf("no file %s of %s: %w", name, key, errdefs.ErrNotFound)
	}
	return duplicate(f)
}

// Exit waits until the process of a key has ended. Errors: NotFound.
func (c *Client) Exit(key string) (*Exit, error) {
	r, _, err := c.again(&request{Verb: verbExit, Key: key})
	if err != nil {
		return nil, err
	}
	return r.Exit, nil
}

// Run calls a runtime and takes over the process that it leaves, under a key.
// stdio are three files, nil for /dev/null; cgroup may be nil. Errors:
// Unavailable if the monitor died meanwhile; the runtime died with it, but what
// it had made by then is still there.
func (c *Client) Run(key string, cmd Command, stdio [3]*os.File, cgroup *os.File) (*Result, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := make([]*os.File, 0, 4)
	for _, f := range stdio {
		if f == nil {
			f = null
		}
		files = append(files, f)
	}
	if cmd.Cgroup = cgroup != nil; cmd.Cgroup {
		files = append(files, cgroup)
	}
	r, got, err := c.call(&request{Verb: verbRun, Key: key, Command: &cmd}, files...)
	if err != nil {
		return nil, err
	}
	res := &Result{Status: r.Status, PID: r.PID}
	for i, name := range r.Names {
		switch name {
		case FilePidfd:
			res.Pidfd = got[i]
		case FileConsole:
			res.Console = got[i]
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Status == 0 {
		c.pids[key] = r.PID
		for i, name := range r.Names {
			err = errors.Join(err, c.keep(key, name, got[i]))
		}
	}
	return res, err
}

// List tells what a monitor that already ran has. It must come before other calls.
func (c *Client) List() (map[string]*Held, error) {
	c.mu.Lock()
	cn, err := c.dial()
	c.mu.Unlock()
	if err != nil || cn == nil {
		return map[string]*Held{}, err
	}
	w := cn.expect()
	if err := cn.send(w, &request{Verb: verbList}); err != nil {
		return nil, err
	}
	all := map[string]*Held{}
	for {
		a, ok := <-w.answers
		if !ok {
			return nil, errDied
		}
		if a.Key == "" {
			cn.forget(w)
			return all, errors.Join(err, a.err())
		}
		h := &Held{PID: a.PID, Exit: a.Exit, Files: map[string]*os.File{}}
		c.mu.Lock()
		if a.PID != 0 {
			c.pids[a.Key] = a.PID
		}
		for i, name := range a.Names {
			h.Files[name] = a.files[i]
			err = errors.Join(err, c.keep(a.Key, name, a.files[i]))
		}
		c.mu.Unlock()
		all[a.Key] = h
	}
}

var errDied = fmt.Errorf("the monitor died: %w", errdefs.ErrUnavailable)

// again is call for what may be repeated.
func (c *Client) again(q *request, files ...*os.File) (*reply, []*os.File, error) {
	for try := 0; ; try++ {
		r, got, err := c.call(q, files...)
		if !errors.Is(err, errDied) || try == 3 {
			return r, got, err
		}
	}
}

func (c *Client) call(q *request, files ...*os.File) (*reply, []*os.File, error) {
	c.mu.Lock()
	cn, err := c.connect()
	c.calls++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.calls--
		c.mu.Unlock()
	}()
	if err != nil {
		return nil, nil, err
	}
	w := cn.expect()
	defer cn.forget(w)
	if err := cn.send(w, q, files...); err != nil {
		return nil, nil, err
	}
	a, ok := <-w.answers
	if !ok {
		return nil, nil, errDied
	}
	return &a.reply, a.files, a.err()
}

// connect returns the connection, and makes one if there is none. c.mu is held.
func (c *Client) connect() (*conn, error) {
	if c.closed {
		return nil, fmt.Errorf("the backend ends: %w", errdefs.ErrUnavailable)
	}
	if c.conn != nil {
		return c.conn, nil
	}
	cn, err := c.dial()
	if err != nil || cn != nil {
		return cn, err
	}
	if err := c.launch(); err != nil {
		return nil, fmt.Errorf("starting the monitor: %w: %w", err, errdefs.ErrUnavailable)
	}
	if cn, err = c.dial(); err == nil && cn == nil {
		err = errDied
	}
	return cn, err
}

// dial connects to a monitor that runs; nil if none does. What we know to be held
// is handed to it. c.mu is held.
func (c *Client) dial() (*conn, error) {
	dir, err := os.Open(c.cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := through(dir, filepath.Join(c.cfg.Dir, SocketName))
	u, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: name, Net: "unixpacket"})
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("monitor: %w: %w", err, errdefs.ErrUnavailable)
	}
	cn := &conn{c: u, waiting: map[uint64]*waiter{}}
	go func() {
		cn.read()
		c.lost(cn)
	}()
	if err := cn.ask(&request{Verb: verbHello}); err != nil {
		_ = u.Close()
		return nil, nil //nolint:nilerr // it was just ending, which is as good as none
	}
	for key, files := range c.held {
		q := &request{Verb: verbHold, Key: key, PID: c.pids[key]}
		var list []*os.File
		for name, f := range files {
			q.Names, list = append(q.Names, name), append(list, f)
		}
		if err := cn.ask(q, list...); err != nil {
			_ = u.Close()
			return nil, err
		}
	}
	c.conn = cn
	return cn, nil
}

// launch starts a monitor. c.mu is held.
func (c *Client) launch() error {
	l, _, dir, err := listen("unixpacket", filepath.Join(c.cfg.Dir, SocketName))
	if err != nil {
		return err
	}
	defer dir.Close()
	l.SetUnlinkOnClose(false)
	defer func() { _ = l.Close() }()
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	log, err := os.OpenFile(filepath.Join(c.cfg.Dir, "monitor.log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: c.cfg.Argv[0], Args: append([]string{Name}, c.cfg.Argv[1:]...), Dir: "/",
		Env: []string{"PATH=" + os.Getenv("PATH")}, Stdout: log, Stderr: log, ExtraFiles: []*os.File{f},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // reaps it, whenever it ends
	return nil
}

// lost starts the next monitor at once if there is something to hold: until then
// only we have it.
func (c *Client) lost(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == cn {
		c.conn = nil
	}
	if c.closed || c.conn != nil || c.empty() {
		return
	}
	if _, err := c.connect(); err != nil {
		c.cfg.Log.Error("the monitor died and cannot be replaced yet", "err", err)
	}
}

// conn is one connection.
type conn struct {
	c *net.UnixConn

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*waiter
	dead    bool
}

type waiter struct {
	id      uint64
	answers chan answer
}

type answer struct {
	reply
	files []*os.File
}

func (cn *conn) expect() *waiter {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.next++
	w := &waiter{id: cn.next, answers: make(chan answer, 1)}
	if cn.dead {
		close(w.answers)
	} else {
		cn.waiting[w.id] = w
	}
	return w
}

// ask sends a request whose answer is only that it was done.
func (cn *conn) ask(q *request, files ...*os.File) error {
	w := cn.expect()
	defer cn.forget(w)
	if err := cn.send(w, q, files...); err != nil {
		return err
	}
	a, ok := <-w.answers
	if !ok {
		return errDied
	}
	return a.err()
}

func (cn *conn) forget(w *waiter) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	delete(cn.waiting, w.id)
}

func (cn *conn) send(w *waiter, q *request, files ...*os.File) error {
	q.ID = w.id
	err := send(cn.c, q, files)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return errDied
	}
	return err
}

// read hands answers to who waits, until the connection ends.
func (cn *conn) read() {
	buf := make([]byte, maxPacket)
	for {
		a := answer{}
		files, err := receive(cn.c, buf, &a.reply)
		if err != nil {
			break
		}
		a.files = files
		cn.mu.Lock()
		w := cn.waiting[a.ID]
		cn.mu.Unlock()
		if w == nil {
			closeAll(files)
			continue
		}
		w.answers <- a
	}
	_ = cn.c.Close()
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.dead = true
	for _, w := range cn.waiting {
		close(w.answers)
	}
}

// Main is the main of a monitor that a Client started.
func Main(_ context.Context, dir string) error {
	f := os.NewFile(3, SocketName)
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	_ = f.Close()
	u, ok := l.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("descriptor 3 is a %T: %w", l, errdefs.ErrInvalidArgument)
	}
	return Serve(u, dir)
}
