package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/tty"
	"github.com/caisson-engine/caisson/engine/client"
)

// session connects our streams with those of a process in a container.
type session struct {
	app            *app
	stream         *client.Stream
	tty            bool
	stdin          bool
	stdout, stderr io.Writer // nil is not connected
	detachKeys     string
}

// checkTTY refuses a terminal in the container without one here: what is typed
// could not be passed on as typed.
func (a *app) checkTTY(stdin, tty bool) error {
	if stdin && tty && !a.inTTY.Is() {
		return errors.New("cannot attach stdin to a TTY-enabled container because stdin is not a terminal")
	}
	return nil
}

// run copies until the process's output ends, the detach keys are typed, which
// returns tty.ErrDetached, or ctx ends. It restores the terminal.
func (s *session) run(ctx context.Context) error {
	defer s.stream.Close()
	var input io.Reader
	if s.stdin {
		keys := s.detachKeys
		if keys == "" {
			keys = tty.DefaultDetachKeys
		}
		seq, err := tty.ParseKeys(keys)
		if err != nil {
			return err
		}
		input = s.app.in
		if s.tty {
			restore, err := s.raw()
			if err != nil {
				return err
			}
			defer restore()
			input = tty.NewDetacher(input, seq)
		}
	}
	if input == nil && ctx.Done() == nil && (s.stdout != nil || s.stderr != nil) {
		return s.output() // nothing else can happen: no need of goroutines
	}
	inDone := make(chan error, 1)
	if input != nil {
		go func() {
			_, err := io.Copy(s.stream, input)
			if !errors.Is(err, tty.ErrDetached) {
				_ = s.stream.CloseWrite()
			}
			inDone <- err
		}()
	}
	if s.stdout == nil && s.stderr == nil {
		if input == nil {
			return nil
		}
		select {
		case err := <-inDone:
			return detached(err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	outDone := make(chan error, 1)
	go func() { outDone <- s.output() }()
	for {
		select {
		case err := <-outDone:
			return err
		case err := <-inDone:
			if errors.Is(err, tty.ErrDetached) {
				return err
			}
			inDone = nil // the process may go on writing
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// detached keeps only the one error of an input that matters.
func detached(err error) error {
	if errors.Is(err, tty.ErrDetached) {
		return err
	}
	return nil
}

func (s *session) output() error {
	if s.tty {
		_, err := io.Copy(s.stdout, s.stream)
		return err
	}
	return client.Demux(orDiscard(s.stdout), orDiscard(s.stderr), s.stream)
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func (s *session) raw() (restore func(), err error) {
	in, err := s.app.inTTY.RawInput()
	if err != nil {
		return nil, err
	}
	out, err := s.app.outTTY.RawOutput()
	if err != nil {
		in()
		return nil, err
	}
	return func() { in(); out() }, nil
}

// followSize tells the engine the terminal's size, now and whenever it changes,
// until stop is called. Failures do not matter: the process may have ended.
func (a *app) followSize(ctx context.Context, resize func(ctx context.Context, rows, cols uint) error) (stop func()) {
	if !a.outTTY.Is() {
		return func() {}
	}
	tell := func() {
		if rows, cols, ok := a.outTTY.Size(); ok {
			_ = resize(ctx, rows, cols)
		}
	}
	go tell()
	return a.outTTY.Resized(tell)
}

// forwardSignals sends the signals that we get to a container until stop is
// called.
func (a *app) forwardSignals(ctx context.Context, c *client.Client, id string) (stop func()) {
	ch := make(chan os.Signal, 64)
	signal.Notify(ch, proxiedSignals...)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-ch:
				if name := signalName(s); name != "" {
					_ = c.Kill(ctx, id, name)
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}

// interruptible ends the context when we are told to stop, so that the terminal
// is restored first. The exit code is the signal's.
func interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, stopSignals...)
	go func() {
		select {
		case s := <-ch:
			cancel(&statusError{code: 128 + signalNumber(s)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		cancel(nil)
	}
}
