package kit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Pumps moves the output of any number of processes: one epoll for all their
// pipes, and a goroutine only for a process that has output right now. An idle
// process costs its descriptors and a few hundred bytes.
type Pumps struct {
	log   *slog.Logger
	epoll *os.File
	fd    int // of epoll

	lag     int64 // how far a client may be behind
	patient bool  // a client that takes nothing is waited for

	mu      sync.Mutex
	sources map[int32]*source
	wg      sync.WaitGroup
}

// NewPumps starts with none.
func NewPumps(log *slog.Logger) (*Pumps, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	// Non-blocking, so that the Go runtime waits for it among its own
	// descriptors and no thread is spent.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("output: %w", err)
	}
	p := &Pumps{log: log, epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd, lag: maxLag, sources: map[int32]*source{}}
	p.wg.Go(p.run)
	return p, nil
}

// Patient has clients waited for as long as it takes, and after patientLag. It is
// called before the first Open.
func (p *Pumps) Patient() { p.lag, p.patient = patientLag, true }

func (p *Pumps) run() {
	conn, err := p.epoll.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		if err := conn.Read(func(fd uintptr) bool {
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		}); err != nil {
			return // closed
		}
		for _, e := range events[:max(n, 0)] {
			p.mu.Lock()
			s := p.sources[e.Fd]
			p.mu.Unlock()
			if s != nil {
				s.out.wake(s)
			}
		}
	}
}

// source is one descriptor that output comes from. It is no os.File, since that
// would be watched by the Go runtime as well.
type source struct {
	out   *Output
	fd    int
	armed bool // epoll watches it; guarded by out.mu
}

// add makes fd a source, not watched yet. fd must be non-blocking; it is the
// source's to close, also on failure.
func (p *Pumps) add(out *Output, fd int) (*source, error) {
	s := &source{out: out, fd: fd}
	p.mu.Lock()
	p.sources[int32(fd)] = s
	p.mu.Unlock()
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Fd: int32(fd), Events: unix.EPOLLONESHOT}); err != nil {
		p.remove(s)
		return nil, fmt.Errorf("output: %w", err)
	}
	return s, nil
}

// arm watches s until its next event.
func (p *Pumps) arm(s *source) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, s.fd, &unix.EpollEvent{Fd: int32(s.fd), Events: unix.EPOLLIN | unix.EPOLLONESHOT})
}

func (p *Pumps) remove(s *source) {
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, s.fd, nil)
	p.mu.Lock()
	delete(p.sources, int32(s.fd))
	p.mu.Unlock()
	_ = unix.Close(s.fd)
}

// Close stops moving. Outputs stay as they are, for the next process.
func (p *Pumps) Close() error {
	err := p.epoll.Close()
	p.wg.Wait()
	return err
}

// control runs f with a file's descriptor without making it blocking.
func control(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}
