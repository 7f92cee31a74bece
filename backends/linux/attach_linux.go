package linux

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
	b     *Backend
	p     *process
	out   *kit.Reader
	input *kit.Input // nil: nothing may be sent
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
			s.input, err = p.stdin.Input()
		} else if p.io.GetTerminal() {
			s.input, err = kit.NewInput(p.proc.Console())
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
	if _, err := s.input.Write(data); err != nil {
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
	err := s.b.runtime.Drop(s.p.key(), kit.StdinName)
	s.p.stdin.Close()
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
			_ = s.input.Close()
		} else {
			s.p.stdin.Leave(s.input)
			if s.p.stdin.Once() {
				err = s.CloseStdin()
			}
		}
	}
	return errors.Join(err, s.out.Close())
}
