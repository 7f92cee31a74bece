//go:build linux

package resolver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network/dns"
)

// lonely is how long a server lives that serves nobody and that no engine is
// connected to.
const lonely = 10 * time.Second

// listenerFD is where a new process has its socket.
const listenerFD = 3

// Main is the server's process. root is an empty directory.
func Main(root string) error {
	f := os.NewFile(listenerFD, "listener")
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("caisson-dns is started by caissond: %w", err)
	}
	if err := unprivileged(root); err != nil {
		return err
	}
	s := &process{server: dns.New(), listener: l.(*net.UnixListener), changed: make(chan struct{}, 1)}
	go s.accept()
	s.wait()
	return nil
}

// nobody owns nothing.
const nobody = 65534

// unprivileged gives up everything but the descriptors. There is no program in an
// empty root by which rights could come back.
func unprivileged(root string) error {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) // then fewer are served
	}
	if os.Geteuid() != 0 {
		return nil
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"enter an empty root", func() error { return errors.Join(unix.Chroot(root), unix.Chdir("/")) }},
		// Those of package syscall change every thread of the process.
		{"leave all groups", func() error { return syscall.Setgroups(nil) }},
		{"become nobody", func() error {
			return errors.Join(syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
		}},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// process is a server with its engines.
type process struct {
	server   *dns.Server
	listener *net.UnixListener

	mu      sync.Mutex
	engines int // connections
	changed chan struct{}
}

// wait returns when nobody needs the process any more.
func (p *process) wait() {
	for {
		idle := time.NewTimer(lonely)
		select {
		case <-p.changed:
			idle.Stop()
			continue
		case <-idle.C:
		}
		p.mu.Lock()
		if p.engines == 0 && len(p.server.Known()) == 0 {
			return // with the lock: nobody is let in any more
		}
		p.mu.Unlock()
	}
}

func (p *process) count(n int) {
	p.mu.Lock()
	p.engines += n
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *process) accept() {
	for {
		c, err := p.listener.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(50 * time.Millisecond) // out of descriptors
			continue
		}
		p.count(1)
		go func() {
			defer p.count(-1)
			defer c.Close() //nolint:errcheck // the peer is gone
			p.serve(c)
		}()
	}
}

// serve answers one engine until it goes away.
func (p *process) serve(c *net.UnixConn) {
	for {
		var q request
		files, err := receive(c, &q)
		if err != nil {
			return
		}
		r := p.answer(&q, files)
		closeAll(files)
		if send(c, r) != nil {
			return
		}
	}
}

func (p *process) answer(q *request, files []*os.File) reply {
	var socks dns.Sockets
	if q.Sockets {
		var err error
		if socks, err = socketsOf(files); err != nil {
			return reply{Error: err.Error()}
		}
	}
	switch {
	case q.Op == "put" && q.Host != nil:
		p.server.Put(*q.Host, socks)
	case q.Op == "drop":
		p.server.Drop(q.ID)
	case q.Op == "gate" && q.Sockets:
		p.server.Gate(q.ID, socks)
	case q.Op == "ungate":
		p.server.Ungate(q.ID)
	case q.Op == "list":
		return reply{State: State{Known: p.server.Known(), Served: p.server.Served(), Gates: p.server.Gates()}}
	default:
		return reply{Error: fmt.Sprintf("no such request: %q", q.Op)}
	}
	return reply{}
}

// socketsOf makes sockets of descriptors, which stay the caller's.
func socketsOf(files []*os.File) (s dns.Sockets, err error) {
	if len(files) != 2 {
		return s, fmt.Errorf("%d descriptors instead of 2", len(files))
	}
	udp, err := net.FilePacketConn(files[0])
	if err != nil {
		return s, err
	}
	tcp, err := net.FileListener(files[1])
	if err != nil {
		_ = udp.Close()
		return s, err
	}
	var ok1, ok2 bool
	s.UDP, ok1 = udp.(*net.UDPConn)
	s.TCP, ok2 = tcp.(*net.TCPListener)
	if !ok1 || !ok2 {
		_ = udp.Close()
		_ = tcp.Close()
		return dns.Sockets{}, errors.New("the descriptors are not a UDP and a TCP socket")
	}
	return s, nil
}
