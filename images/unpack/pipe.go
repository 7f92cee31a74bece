package unpack

import (
	"context"
	"io"
	"sync"
)

// Pipe hands a stream from one goroutine to another a few MiB ahead, so that
// neither waits for the other's every step.
type Pipe struct {
	ch   chan chunk
	done chan struct{}
	once sync.Once
	ctx  context.Context
	cur  chunk
	off  int
}

// NewPipe makes a pipe that ends with ctx.
func NewPipe(ctx context.Context) *Pipe {
	return &Pipe{ch: make(chan chunk, chunksAhead), done: make(chan struct{}), ctx: ctx}
}

// Write copies b. It fails with io.ErrClosedPipe once the reader has closed.
func (p *Pipe) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		buf := chunks.Get().(*[]byte)
		m := copy(*buf, b[n:])
		select {
		case p.ch <- chunk{buf: buf, n: m}:
		case <-p.done:
			return n, io.ErrClosedPipe
		case <-p.ctx.Done():
			return n, context.Cause(p.ctx)
		}
		n += m
	}
	return len(b), nil
}

// CloseWrite ends the stream with err, nil for io.EOF. It is called once.
func (p *Pipe) CloseWrite(err error) {
	if err == nil {
		err = io.EOF
	}
	select {
	case p.ch <- chunk{err: err}:
	case <-p.done:
	case <-p.ctx.Done():
	}
}

func (p *Pipe) Read(b []byte) (int, error) {
	for p.off == p.cur.n {
		if p.cur.err != nil {
			return 0, p.cur.err
		}
		if p.cur.buf != nil {
			chunks.Put(p.cur.buf)
			p.cur.buf = nil
		}
		select {
		case p.cur = <-p.ch:
			p.off = 0
		case <-p.done:
			return 0, io.ErrClosedPipe
		case <-p.ctx.Done():
			return 0, context.Cause(p.ctx)
		}
	}
	n := copy(b, (*p.cur.buf)[p.off:p.cur.n])
	p.off += n
	return n, nil
}

// Close is the reader's: writes fail from now on, and a Read returns.
func (p *Pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}
