package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxIdle connections are kept; a command rarely has more than two requests
	// travelling at once.
	maxIdle = 4
	// idleFor is how long a connection is trusted to be still open at the
	// engine's end. Beyond it a new one costs less than finding out.
	idleFor = 2 * time.Second
)

// conn is one connection and what was read from it but not yet consumed.
type conn struct {
	net.Conn
	br      *bufio.Reader
	used    bool // it carried a request before
	since   time.Time
	aborted atomic.Bool
}

func newConn(nc net.Conn) *conn {
	return &conn{Conn: nc, br: bufio.NewReaderSize(nc, 4096)}
}

func (c *conn) touch()      { c.since = time.Now() }
func (c *conn) fresh() bool { return time.Since(c.since) < idleFor && c.br.Buffered() == 0 }

// abort makes every pending and later read and write fail at once.
func (c *conn) abort() {
	c.aborted.Store(true)
	_ = c.SetDeadline(time.Unix(1, 0))
}

// Pending is a request that was sent and whose answer was not read yet. One of
// Response, Done, Hijack and Cancel must be called, once.
type Pending struct {
	c      *Client
	ctx    context.Context
	r      Request
	cn     *conn
	reused bool
	stop   func() bool
	sent   chan error // the streamed body's end; nil if there is none
}

func (p *Pending) send() error {
	var b bytes.Buffer
	b.Grow(512 + len(p.r.Raw))
	p.c.header(&b, p.r)
	b.Write(p.r.Raw)
	if _, err := p.cn.Write(b.Bytes()); err != nil {
		return err
	}
	if p.r.Stream == nil {
		return nil
	}
	p.sent = make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(p.cn, 64<<10)
		cw := httputil.NewChunkedWriter(w)
		_, err := io.CopyBuffer(struct{ io.Writer }{cw}, p.r.Stream, make([]byte, 64<<10))
		if err == nil {
			err = cw.Close()
		}
		if err == nil {
			_, err = w.WriteString("\r\n")
		}
		if err == nil {
			err = w.Flush()
		}
		p.sent <- err // before the engine can hang up because of it
		if err != nil {
			// The engine waits for the rest; it must learn that there is none.
			// What it already answered stays readable.
			if cw, ok := p.cn.Conn.(closeWriter); ok {
				_ = cw.CloseWrite()
			}
		}
	}()
	return nil
}

// mayRepeat says whether the request met a connection that the engine had
// closed while it was idle, and is one that a repeat does not do twice.
func (p *Pending) mayRepeat(err error) bool {
	if !p.reused || p.ctx.Err() != nil || p.r.Stream != nil {
		return false
	}
	if p.r.Method != http.MethodGet && p.r.Method != http.MethodHead {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// fail ends the request and gives err its final form.
func (p *Pending) fail(err error) error {
	p.Cancel()
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	return p.c.lostError(err)
}

// Cancel gives the request up.
func (p *Pending) Cancel() {
	p.stop()
	p.cn.Close()
}

// Response reads the answer's head. The body reads from the connection; it is
// closed by the caller.
func (p *Pending) Response() (*http.Response, error) {
	resp, err := p.read()
	if err != nil {
		if p.mayRepeat(err) {
			p.Cancel()
			np, err := p.c.begin(p.ctx, p.r)
			if err != nil {
				return nil, err
			}
			return np.Response()
		}
		// A body that could not be read is why the engine hung up.
		if p.sent != nil {
			select {
			case serr := <-p.sent:
				if serr != nil && !isNetError(serr) {
					p.Cancel()
					return nil, serr
				}
			default:
			}
		}
		return nil, p.fail(err)
	}
	resp.Body = newBody(resp, p)
	if resp.StatusCode < 400 {
		return resp, nil
	}
	apiErr := readError(resp)
	if v, ok := tooNew(apiErr); ok && p.r.Stream == nil && p.c.downgrade(v) {
		np, err := p.c.begin(p.ctx, p.r)
		if err != nil {
			return nil, err
		}
		return np.Response()
	}
	return nil, apiErr
}

// Done reads an answer whose body does not matter.
func (p *Pending) Done() error {
	resp, err := p.Response()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return err
}

// read reads one response head, passing over informational ones.
func (p *Pending) read() (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(p.cn.br, &http.Request{Method: p.r.Method})
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
	}
}

func isNetError(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.ErrClosedPipe)
}

// body is an answer's body. When it was read to its end its connection is kept.
type body struct {
	io.ReadCloser
	p    *Pending
	keep bool
	tiny bool // worth reading to its end for the sake of the connection
	done bool
	err  error
}

func newBody(resp *http.Response, p *Pending) *body {
	return &body{
		ReadCloser: resp.Body,
		p:          p,
		keep:       !resp.Close && p.sent == nil,
		tiny:       resp.ContentLength >= 0 && resp.ContentLength <= 4096,
	}
}

func (b *body) Read(buf []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(buf)
	if err == nil {
		return n, nil
	}
	whole := errors.Is(err, io.EOF)
	if !whole && b.p.ctx.Err() != nil {
		err = context.Cause(b.p.ctx)
	}
	b.err = err
	b.finish(whole)
	return n, err
}

func (b *body) finish(whole bool) {
	if b.done {
		return
	}
	b.done = true
	// If stop reports false the context ended and the connection is being
	// aborted: it must not be used again.
	if !b.p.stop() || !whole || !b.keep {
		b.p.cn.Close()
		return
	}
	b.p.c.release(b.p.cn)
}

func (b *body) Close() error {
	if b.tiny && b.keep && !b.done {
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{b}) // b remembers its error
	}
	b.finish(errors.Is(b.err, io.EOF))
	return nil
}

type closeWriter interface{ CloseWrite() error }

// Stream is a hijacked connection: what is written goes to the process's
// standard input, what is read is its output, framed unless it has a terminal.
type Stream struct {
	cn   *conn
	stop func() bool
	// MediaType is the engine's Content-Type, "" from engines before API 1.42.
	MediaType string
}

// Hijack reads the answer to a request with Upgrade and takes the connection.
func (p *Pending) Hijack() (*Stream, error) {
	resp, err := p.read()
	if err != nil {
		return nil, p.fail(err)
	}
	if resp.StatusCode >= 400 {
		resp.Body = newBody(resp, p)
		apiErr := readError(resp)
		if v, ok := tooNew(apiErr); ok && p.c.downgrade(v) {
			np, err := p.c.begin(p.ctx, p.r)
			if err != nil {
				return nil, err
			}
			return np.Hijack()
		}
		return nil, apiErr
	}
	return &Stream{cn: p.cn, stop: p.stop, MediaType: resp.Header.Get("Content-Type")}, nil
}

// Read reads what the process wrote.
func (s *Stream) Read(p []byte) (int, error) { return s.cn.br.Read(p) }

// WriteTo lets io.Copy avoid a buffer of its own.
func (s *Stream) WriteTo(w io.Writer) (int64, error) { return s.cn.br.WriteTo(w) }

// Write writes to the process's standard input.
func (s *Stream) Write(p []byte) (int, error) { return s.cn.Write(p) }

// CloseWrite ends the process's standard input, where the transport can.
func (s *Stream) CloseWrite() error {
	if cw, ok := s.cn.Conn.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return nil
}

// Close ends the connection, not the process.
func (s *Stream) Close() {
	s.stop()
	s.cn.Close()
}
