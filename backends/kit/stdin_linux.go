package kit

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// StdinName names a stdin's files, for who holds them too.
const StdinName = "stdin"

// Stdin is our end of a process's standard input. Somebody who outlives us holds
// it too, so that the process does not meet an end of file when we are killed.
type Stdin struct {
	once bool // ends with the first client that leaves

	mu      sync.Mutex
	f       *os.File // nil once closed
	writers map[*Input]struct{}
}

// NewStdin makes the pipe; far is the process's end. once ends it with the first
// client that leaves.
func NewStdin(once bool) (s *Stdin, far *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("stdin: %w", err)
	}
	// Only our end: the process expects to wait.
	if err := unix.SetNonblock(fds[1], true); err != nil {
		_, _ = unix.Close(fds[0]), unix.Close(fds[1])
		return nil, nil, fmt.Errorf("stdin: %w", err)
	}
	s = &Stdin{once: once, f: os.NewFile(uintptr(fds[1]), StdinName), writers: map[*Input]struct{}{}}
	return s, os.NewFile(uintptr(fds[0]), StdinName), nil
}

// RecoverStdin is a stdin whose pipe somebody held, who keeps f.
func RecoverStdin(once bool, f *os.File) (*Stdin, error) {
	w, err := NewInput(f)
	if err != nil {
		return nil, err
	}
	return &Stdin{once: once, f: w.f, writers: map[*Input]struct{}{}}, nil
}

// File is our end, for somebody else to hold. It stays the Stdin's; nil once
// closed.
func (s *Stdin) File() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.f
}

// Close ends it for all clients.
func (s *Stdin) Close() {
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

// Once tells whether it ends with the first client that leaves.
func (s *Stdin) Once() bool { return s.once }

// Input is one client's way to a stdin or terminal: a descriptor of its own, so
// that closing it wakes a Write that waits for room.
type Input struct{ f *os.File }

// NewInput is a way to f, which may be a terminal.
func NewInput(f *os.File) (*Input, error) {
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
	return &Input{os.NewFile(uintptr(dup), StdinName)}, nil
}

// Write is io.Writer.
func (w *Input) Write(p []byte) (int, error) { return w.f.Write(p) }

// Close is io.Closer.
func (w *Input) Close() error { return w.f.Close() }

// Input adds a client; nil if the stdin is closed.
func (s *Stdin) Input() (*Input, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil, nil
	}
	w, err := NewInput(s.f)
	if err == nil {
		s.writers[w] = struct{}{}
	}
	return w, err
}

// Leave takes a client away.
func (s *Stdin) Leave(w *Input) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writers, w)
	_ = w.f.Close()
}
