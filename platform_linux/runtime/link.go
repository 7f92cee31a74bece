//go:build linux

package runtime

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// link is one connection to one keeper, from hello to its end.
type link struct {
	conn *net.UnixConn
	pid  int

	mu      sync.Mutex
	next    uint64
	pending map[uint64]request // whose answers are awaited
	dead    bool

	fetched chan item     // answers to Fetch
	down    chan struct{} // closed when the connection ended
}

// request is one Spawn that was sent.
type request struct {
	key    string
	answer chan spawned // has room for the one answer
}

// spawned is a keeper's answer to Spawn. process is nil if it failed.
type spawned struct {
	wire.Spawned
	process *Process
}

// item is one message of an answer to Fetch: exactly one of the pointers is set.
type item struct {
	process *wire.Process
	file    *wire.File
	end     *wire.End
	fd      int // -1 for none
}

// dial connects to the keeper that serves dir, and says hello.
func dial(ctx context.Context, dir string) (*link, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", filepath.Join(dir, "keeper.sock"))
	if err != nil {
		return nil, err
	}
	return hello(ctx, c.(*net.UnixConn))
}

// startKeeper starts a keeper and returns the connection that it is born with,
// so that there is nothing to wait or poll for. The keeper is in a session of
// its own and outlives us.
func startKeeper(ctx context.Context, cfg Config) (*link, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "keeper"), os.NewFile(uintptr(pair[1]), "keeper")
	defer ours.Close()
	defer theirs.Close()
	log, err := os.OpenFile(filepath.Join(cfg.Dir, "keeper.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the keeper's log: %w", err)
	}
	defer log.Close()
	// Not bound to ctx: it outlives us.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), cfg.KeeperPath, cfg.Dir, cfg.InitPath, "3")
	cmd.Dir = "/"
	// A small heap collected often: the keeper's memory is on every host's bill.
	cmd.Env = []string{"GOGC=25", "GOMAXPROCS=1", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w: %w", cfg.KeeperPath, err, errdefs.ErrUnavailable)
	}
	go cmd.Wait() //nolint:errcheck // only so that it is reaped; its end shows on the connection
	theirs.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("connect to the keeper: %w", err)
	}
	l, err := hello(ctx, c.(*net.UnixConn))
	if err != nil {
		return nil, fmt.Errorf("the keeper %s did not come up, see %s: %w: %w", cfg.KeeperPath, log.Name(), err, errdefs.ErrUnavailable)
	}
	return l, nil
}

func hello(ctx context.Context, c *net.UnixConn) (*link, error) {
	l := &link{conn: c, pending: map[uint64]request{}, fetched: make(chan item, wire.FetchBatch+1), down: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := l.send(wire.KindHello, &wire.Hello{Version: wire.Version, PID: os.Getpid(), Backend: true}); err != nil {
		_ = c.Close()
		return nil, err
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	var h wire.Hello
	if err == nil && (n == 0 || wire.Kind(buf[0]) != wire.KindHello || !pack.Decode(buf[1:n], &h) || h.Version != wire.Version) {
		err = fmt.Errorf("keeper of another version: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	l.pid = h.PID
	return l, nil
}

// send sends one message with descriptors, which stay the caller's.
func (l *link) send(kind wire.Kind, m pack.Message, fds ...int) error {
	packet := wire.Encode(kind, m)
	if len(packet) > wire.MaxPacket {
		return fmt.Errorf("request of %d bytes to the keeper, at most %d: %w", len(packet), wire.MaxPacket, errdefs.ErrInvalidArgument)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := l.conn.WriteMsgUnix(packet, oob, nil)
	return err
}

// read takes messages until the connection ends. It is the one goroutine that
// reads; made is told of processes and ended of exits, in the keeper's order.
func (l *link) read(made func(key string, m wire.Spawned, pidfd int) *Process, ended func(wire.Process)) {
	buf := make([]byte, 4<<10)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, flags, _, err := l.conn.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			return
		}
		fd := receivedFD(oob[:oobn])
		kind, data := wire.Kind(buf[0]), buf[1:n]
		var ok bool
		switch kind {
		case wire.KindSpawned:
			var m wire.Spawned
			if ok = pack.Decode(data, &m); ok {
				l.answer(m, fd, made)
			}
		case wire.KindExited:
			var m wire.Process
			if ok = pack.Decode(data, &m); ok {
				ended(m)
			}
		case wire.KindProcess:
			var m wire.Process
			ok = pack.Decode(data, &m)
			l.fetched <- item{process: &m, fd: fd}
		case wire.KindFile:
			var m wire.File
			ok = pack.Decode(data, &m)
			l.fetched <- item{file: &m, fd: fd}
		case wire.KindEnd:
			var m wire.End
			ok = pack.Decode(data, &m)
			l.fetched <- item{end: &m, fd: -1}
		}
		if !ok {
			return
		}
	}
}

// end fails all that wait for an answer.
func (l *link) end() {
	_ = l.conn.Close()
	l.mu.Lock()
	l.dead = true
	for _, q := range l.pending {
		close(q.answer)
	}
	l.pending = nil
	l.mu.Unlock()
	close(l.down)
}

// receivedFD is the one descriptor that came with a message, -1 if none did. It
// is the caller's to close.
func receivedFD(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1
	}
	unix.CloseOnExec(fds[0])
	return fds[0]
}

// answer passes an answer to whom it is for. Where nobody waits any more the
// process is not made ours: its end of the control socket is closed, and it ends.
func (l *link) answer(m wire.Spawned, pidfd int, made func(string, wire.Spawned, int) *Process) {
	l.mu.Lock()
	q, ok := l.pending[m.ID]
	delete(l.pending, m.ID)
	l.mu.Unlock()
	if !ok {
		unix.Close(pidfd)
		return
	}
	s := spawned{Spawned: m}
	if m.Errno == 0 && pidfd >= 0 {
		s.process = made(q.key, m, pidfd)
	}
	q.answer <- s
}

// spawn asks for a process and waits for the answer.
func (l *link) spawn(ctx context.Context, m wire.Spawn, fds []int) (*Process, error) {
	c := make(chan spawned, 1)
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return nil, errKeeperGone
	}
	l.next++
	m.ID = l.next
	l.pending[m.ID] = request{m.Key, c}
	l.mu.Unlock()
	if err := l.send(wire.KindSpawn, &m, fds...); err != nil {
		if errdefs.IsInvalidArgument(err) {
			return nil, err
		}
		return nil, errKeeperGone
	}
	select {
	case s, ok := <-c:
		switch {
		case !ok:
			return nil, errKeeperGone
		case s.process != nil:
			return s.process, nil
		}
		errno := syscall.Errno(s.Errno)
		err := fmt.Errorf("make process %s: %s: %w", strconv.Quote(m.Key), s.What, errno)
		switch errno {
		case syscall.EEXIST:
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
		case syscall.ESRCH:
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
		}
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInternal)
	case <-ctx.Done():
		l.mu.Lock()
		delete(l.pending, m.ID)
		l.mu.Unlock()
		select {
		case s := <-c:
			if s.process != nil {
				_ = s.process.Release()
			}
		default:
			// In case it is being made just now.
			_ = l.send(wire.KindDrop, &wire.Drop{Key: m.Key})
		}
		return nil, ctx.Err()
	}
}

var errKeeperGone = fmt.Errorf("the keeper ended: %w", errdefs.ErrUnavailable)
