package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// stdin is our end of a process's standard input. The keeper holds it too, so
// that the process does not meet an end of file when we are killed.
type stdin struct {
	once bool // ends with the first client that leaves

	mu      sync.Mutex
	f       *os.File // nil once closed
	writers map[*stdinWriter]struct{}
}

// newStdin makes the pipe; far is the process's end.
func newStdin(once bool) (s *stdin, far *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("stdin: %w", err)
	}
	// Only our end: the process expects to wait.
	if err := unix.SetNonblock(fds[1], true); err != nil {
		_, _ = unix.Close(fds[0]), unix.Close(fds[1])
		return nil, nil, fmt.Errorf("stdin: %w", err)
	}
	s = &stdin{once: once, f: os.NewFile(uintptr(fds[1]), stdinFile), writers: map[*stdinWriter]struct{}{}}
	return s, os.NewFile(uintptr(fds[0]), stdinFile), nil
}

// recoverStdin is a stdin whose pipe the keeper held.
func recoverStdin(once bool, f *os.File) (*stdin, error) {
	w, err := duplicate(f)
	if err != nil {
		return nil, err
	}
	return &stdin{once: once, f: w.f, writers: map[*stdinWriter]struct{}{}}, nil
}

func (s *stdin) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return
	}
	_ = s.f.Close()
	s.f = nil
	for w := range s.writers {
		_ = w.f.Close()
	}
	clear(s.writers)
}

// stdinWriter is one client's way to a stdin: a descriptor of its own, so that
// closing it wakes a Send that waits for room.
type stdinWriter struct{ f *os.File }

func duplicate(f *os.File) (*stdinWriter, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var dup int
	if cerr := c.Control(func(fd uintptr) {
		if dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); err == nil {
			err = unix.SetNonblock(dup, true)
		}
	}); cerr != nil || err != nil {
		return nil, errors.Join(err, cerr)
	}
	return &stdinWriter{os.NewFile(uintptr(dup), stdinFile)}, nil
}

func (s *stdin) writer() (*stdinWriter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil, nil
	}
	w, err := duplicate(s.f)
	if err == nil {
		s.writers[w] = struct{}{}
	}
	return w, err
}

func (s *stdin) leave(w *stdinWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writers, w)
	_ = w.f.Close()
}

// streams is backend.Streams.
type streams struct {
	b     *Backend
	p     *process
	out   *kit.Reader
	input *stdinWriter // nil: nothing may be sent
	close func() error
}

// Attach is backend.Backend. The attachment outlives ctx.
func (b *Backend) Attach(_ context.Context, a *backendpb.AttachOpen) (backend.Streams, error) {
	_, p, err := b.process(a.GetProcess())
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == exited || p.phase == failed || p.proc == nil {
		return nil, fmt.Errorf("%v has exited: %w", p, errdefs.ErrFailedPrecondition)
	}
	s := &streams{b: b, p: p}
	if a.GetStdin() && p.io.GetStdin() {
		if p.stdin != nil {
			s.input, err = p.stdin.writer()
		} else if p.io.GetTerminal() {
			s.input, err = duplicate(p.proc.Console())
		}
		if err != nil {
			return nil, fmt.Errorf("stdin of %v: %w", p, err)
		}
	}
	s.out = p.out.Attach(a.GetStdout(), a.GetStderr())
	s.close = sync.OnceValue(s.detach)
	return s, nil
}

// Recv is backend.Streams.
func (s *streams) Recv() (*backendpb.AttachOutput, error) { return s.out.Recv() }

// Send is backend.Streams.
func (s *streams) Send(data []byte) error {
	if s.input == nil {
		return fmt.Errorf("%v has no open stdin: %w", s.p, errdefs.ErrFailedPrecondition)
	}
	if _, err := s.input.f.Write(data); err != nil {
		return fmt.Errorf("stdin of %v: %w (%w)", s.p, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// CloseStdin is backend.Streams. A terminal has no end of file that could be
// sent for all, so there it changes nothing, as with docker.
func (s *streams) CloseStdin() error {
	if s.input == nil || s.p.stdin == nil {
		return nil
	}
	// The keeper's first: if we are killed in between, the process still has
	// ours until we are gone.
	err := s.b.runtime.Drop(s.p.key(), stdinFile)
	s.p.stdin.close()
	if err != nil {
		return fmt.Errorf("stdin of %v: %w", s.p, err)
	}
	return nil
}

// Close is backend.Streams.
func (s *streams) Close() error { return s.close() }

func (s *streams) detach() error {
	var err error
	if s.input != nil {
		if s.p.stdin == nil {
			_ = s.input.f.Close()
		} else {
			s.p.stdin.leave(s.input)
			if s.p.stdin.once {
				err = s.CloseStdin()
			}
		}
	}
	return errors.Join(err, s.out.Close())
}
