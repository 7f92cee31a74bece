package vm

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

// streams is backend.Streams: output from our own spool, input to the guest.
type streams struct {
	p     *process
	out   *kit.Reader
	input backend.Streams // nil: nothing may be sent
	close func() error
}

// Attach is backend.Backend. The attachment outlives ctx.
func (b *Backend) Attach(ctx context.Context, a *backendpb.AttachOpen) (backend.Streams, error) {
	c, p, err := b.process(a.GetProcess())
	if err != nil {
		return nil, err
	}
	s := &streams{p: p}
	if err := p.attachable(); err != nil {
		return nil, err
	}
	if a.GetStdin() && p.io.GetStdin() {
		if s.input, err = c.machine.remote.Attach(ctx, &backendpb.AttachOpen{Process: a.GetProcess(), Stdin: true}); err != nil {
			return nil, fmt.Errorf("stdin of %v: %w", p, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == exited || p.phase == failed {
		if s.input != nil {
			_ = s.input.Close()
		}
		return nil, fmt.Errorf("%v has exited: %w", p, errdefs.ErrFailedPrecondition)
	}
	s.out = p.out.Attach(a.GetStdout(), a.GetStderr())
	s.close = sync.OnceValue(s.detach)
	return s, nil
}

func (p *process) attachable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == exited || p.phase == failed || !p.inside {
		return fmt.Errorf("%v has exited: %w", p, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Recv is backend.Streams.
func (s *streams) Recv() (*backendpb.AttachOutput, error) { return s.out.Recv() }

// Send is backend.Streams.
func (s *streams) Send(data []byte) error {
	if s.input == nil {
		return fmt.Errorf("%v has no open stdin: %w", s.p, errdefs.ErrFailedPrecondition)
	}
	return s.input.Send(data)
}

// CloseStdin is backend.Streams.
func (s *streams) CloseStdin() error {
	if s.input == nil {
		return nil
	}
	return s.input.CloseStdin()
}

// Close is backend.Streams.
func (s *streams) Close() error { return s.close() }

func (s *streams) detach() error {
	var err error
	if s.input != nil {
		err = s.input.Close()
	}
	return errors.Join(err, s.out.Close())
}
