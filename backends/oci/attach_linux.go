package oci

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/backends/kit"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// streams is backend.Streams.
type streams struct {
	b        *Backend
	p        *process
	out      *kit.Reader
	detached chan struct{}
	close    func() error

	mu    sync.Mutex
	sends bool       // it may send
	input *kit.Input // nil: nothing may be sent, or not yet
	ended bool       // Close was called
}

// Attach is backend.Backend. The attachment outlives ctx.
func (b *Backend) Attach(_ context.Context, a *backendpb.AttachOpen) (backend.Streams, error) {
	_, p, err := b.process(a.GetProcess())
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == exited || p.phase == failed || p.out == nil {
		return nil, fmt.Errorf("%v has exited: %w", p, errdefs.ErrFailedPrecondition)
	}
	s := &streams{b: b, p: p, detached: make(chan struct{}), sends: a.GetStdin() && p.io.GetStdin()}
	if s.sends && p.stdin != nil {
		if s.input, err = p.stdin.Input(); err != nil {
			return nil, fmt.Errorf("stdin of %v: %w", p, err)
		}
	}
	s.out = p.out.Attach(a.GetStdout(), a.GetStderr())
	s.close = sync.OnceValue(s.detach)
	return s, nil
}

// Recv is backend.Streams.
func (s *streams) Recv() (*backendpb.AttachOutput, error) { return s.out.Recv() }

// Send is backend.Streams. An exec's terminal is there when the exec was started.
func (s *streams) Send(data []byte) error {
	in, err := s.writer()
	if err == nil {
		_, err = in.Write(data)
	}
	if err != nil {
		return fmt.Errorf("stdin of %v: %w (%w)", s.p, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

var errNoStdin = errors.New("not open")

func (s *streams) writer() (*kit.Input, error) {
	if s.sends && s.p.io.GetTerminal() {
		select {
		case <-s.p.known:
		case <-s.detached:
			return nil, errNoStdin
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sends && s.input == nil && !s.ended && s.p.io.GetTerminal() {
		s.p.mu.Lock()
		defer s.p.mu.Unlock()
		if s.p.console == nil {
			return nil, errNoStdin
		}
		in, err := kit.NewInput(s.p.console)
		if err != nil {
			return nil, err
		}
		s.input = in
	}
	if s.input == nil {
		return nil, errNoStdin
	}
	return s.input, nil
}

// CloseStdin is backend.Streams. A terminal has no end of file that could be
// sent for all, so there it changes nothing, as with docker.
func (s *streams) CloseStdin() error {
	if !s.sends || s.p.stdin == nil {
		return nil
	}
	// The monitor's first: if we are killed in between, the process still has
	// ours until we are gone.
	err := s.b.monitor.Drop(s.p.key(), kit.StdinName)
	s.p.stdin.Close()
	if err != nil {
		return fmt.Errorf("stdin of %v: %w", s.p, err)
	}
	return nil
}

// Close is backend.Streams.
func (s *streams) Close() error { return s.close() }

func (s *streams) detach() error {
	close(s.detached)
	s.mu.Lock()
	in := s.input
	s.ended = true
	s.mu.Unlock()
	var err error
	switch {
	case in != nil && s.p.stdin == nil:
		_ = in.Close()
	case in != nil:
		s.p.stdin.Leave(in)
		if s.p.stdin.Once() {
			err = s.CloseStdin()
		}
	}
	return errors.Join(err, s.out.Close())
}
