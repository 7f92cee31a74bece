package dockerapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/net/websocket"

	"github.com/caisson-engine/caisson/engine"
)

// streamType is the content type of a container's output.
func (c *call) streamType(tty bool) string {
	if !tty && c.version >= 42 {
		return types.MediaTypeMultiplexedStream
	}
	return types.MediaTypeRawStream
}

// session is one client connected to a process. The engine gets its Stdin,
// Stdout and Stderr before anything is connected; they begin to work in open,
// which the engine calls as AttachOptions.Ready. Until then an error can be
// answered as usual, afterwards only inside the stream.
type session struct {
	c      *call
	cancel context.CancelFunc // ends the attachment
	conn   net.Conn
	in     io.Reader // conn, behind what net/http had read of it already
	out    frames
	raw    bool
	stdin  bool // the engine reads input
	gone   sync.Once
	heard  sync.Once // the client has read that the session is open
}

// attachment makes a session and the context that ends with it.
func (c *call) attachment(stdin bool) (*session, context.Context) {
	ctx, cancel := context.WithCancel(c.ctx())
	return &session{c: c, cancel: cancel, stdin: stdin}, ctx
}

// open takes the connection over from net/http and tells the client so.
func (s *session) open(tty bool) error {
	conn, rw, err := http.NewResponseController(s.c.w).Hijack()
	if err != nil {
		return fmt.Errorf("taking over the connection: %w", err)
	}
	_ = conn.SetDeadline(time.Time{}) // net/http's own deadlines end here
	s.conn, s.raw, s.in = conn, tty, conn
	s.out.w = conn
	if n := rw.Reader.Buffered(); n > 0 {
		// A client may send input without waiting for the answer.
		early, _ := rw.Peek(n) // these bytes are there
		s.in = io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn)
	}
	h := s.c.w.Header()
	h.Set("Content-Type", s.c.streamType(tty))
	status := "HTTP/1.1 200 OK\r\n"
	if s.c.r.Header.Get("Upgrade") != "" {
		status = "HTTP/1.1 101 UPGRADED\r\n"
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "tcp")
	}
	head := bytes.NewBufferString(status)
	_ = h.Write(head) // to memory
	head.WriteString("\r\n")
	if _, err := conn.Write(head.Bytes()); err != nil {
		return fmt.Errorf("answering the client: %w", err)
	}
	s.c.audit(nil)
	if !s.stdin {
		go func() {
			_, err := io.Copy(io.Discard, s.in)
			s.inputEnded(err)
		}()
	}
	return nil
}

// inputEnded watches a client that sent all its input: it may still wait for
// output, or be gone.
func (s *session) inputEnded(err error) {
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		s.cancel()
	case canWaitHangup(s.conn):
		s.gone.Do(func() {
			go func() {
				waitHangup(s.conn)
				s.cancel()
			}()
		})
	}
}

// Read is the client's input.
func (s *session) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	if err != nil {
		s.inputEnded(err)
	}
	return n, err
}

// sessionOut is one of a session's outputs.
type sessionOut struct {
	s *session
	t stdcopy.StdType
}

// Write sends output. A client that cannot be written to has detached.
func (o sessionOut) Write(p []byte) (int, error) {
	var n int
	var err error
	o.s.heard.Do(func() { awaitRead(o.s.conn) })
	if o.s.raw {
		o.s.out.mu.Lock()
		n, err = o.s.conn.Write(p)
		o.s.out.mu.Unlock()
	} else {
		n, err = o.s.out.stream(o.t).Write(p)
	}
	if err != nil {
		o.s.cancel()
	}
	return n, err
}

// drainTime is for input that was under way when the process ended: a socket
// closed before it was read would be reset, and output lost with it.
const drainTime = 250 * time.Millisecond

// close ends the session. It returns err if the client can still be answered as usual.
func (s *session) close(err error) error {
	s.cancel()
	if s.conn == nil {
		return err
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		_, msg := statusOf(err)
		_, _ = sessionOut{s, stdcopy.Stderr}.Write([]byte(msg + "\r\n")) // the client may be gone
	}
	if cw, ok := s.conn.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		_ = s.conn.SetReadDeadline(time.Now().Add(drainTime))
		_, _ = io.Copy(io.Discard, s.conn)
	}
	_ = s.conn.Close()
	return nil
}

// streams are the options' streams that a session serves.
func (s *session) streams(stdin, stdout, stderr bool) engine.AttachOptions {
	o := engine.AttachOptions{Stream: true, DetachKeys: s.c.form("detachKeys"), Ready: s.open}
	if stdin {
		o.Stdin = s
	}
	if stdout {
		o.Stdout = sessionOut{s, stdcopy.Stdout}
	}
	if stderr {
		o.Stderr = sessionOut{s, stdcopy.Stderr}
	}
	return o
}

func (c *call) containerAttach() error {
	stdin := c.flag("stdin") && c.flag("stream")
	s, ctx := c.attachment(stdin)
	o := s.streams(stdin, c.flag("stdout"), c.flag("stderr"))
	o.Stream, o.Logs = c.flag("stream"), c.flag("logs")
	return s.close(c.eng.Attach(ctx, c.name, o))
}

// containerAttachWS is attach for browsers: output in binary frames, not multiplexed.
func (c *call) containerAttachWS() error {
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	stdin := c.flag("stdin") && c.flag("stream")
	run := func(ws *websocket.Conn) {
		ws.PayloadType = websocket.BinaryFrame
		out := &wsOut{ws: ws, cancel: cancel}
		o := engine.AttachOptions{
			Stream:     c.flag("stream"),
			Logs:       c.flag("logs"),
			DetachKeys: c.form("detachKeys"),
			Ready:      func(bool) error { return nil },
		}
		if stdin {
			o.Stdin = ws
		} else {
			go func() {
				_, _ = io.Copy(io.Discard, ws)
				cancel()
			}()
		}
		if c.flag("stdout") {
			o.Stdout = out
		}
		if c.flag("stderr") {
			o.Stderr = out
		}
		if err := c.eng.Attach(ctx, c.name, o); err != nil && ctx.Err() == nil {
			_, _ = out.Write([]byte(err.Error() + "\r\n")) // the client may be gone
		}
		_ = ws.Close()
	}
	// What can be refused must be before the handshake.
	if _, err := c.eng.Inspect(ctx, c.name, false); err != nil {
		return err
	}
	// Other origins were refused before (crossOrigin).
	accept := func(*websocket.Config, *http.Request) error { return nil }
	websocket.Server{Handler: run, Handshake: accept}.ServeHTTP(c.w, c.r)
	return nil
}

// wsOut serializes the two output streams of a websocket.
type wsOut struct {
	mu     sync.Mutex
	ws     *websocket.Conn
	cancel context.CancelFunc
}

func (o *wsOut) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.ws.Write(p)
	if err != nil {
		o.cancel()
	}
	return n, err
}

func (c *call) execCreate() error {
	var req container.ExecCreateRequest
	if _, err := c.readJSON(maxBody, &req); err != nil {
		return err
	}
	if len(req.Cmd) == 0 {
		return invalid("no exec command specified")
	}
	id, err := c.eng.ExecCreate(c.ctx(), c.name, req)
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, common.IDResponse{ID: id})
}

func (c *call) execStart() error {
	var req container.ExecStartRequest
	if _, err := c.readJSON(maxBody, &req); err != nil {
		return err
	}
	o := engine.ExecStartOptions{Detach: req.Detach, Tty: req.Tty, ConsoleSize: req.ConsoleSize}
	if req.Detach {
		if err := c.eng.ExecStart(c.ctx(), c.name, o); err != nil {
			return err
		}
		return c.status(http.StatusOK)
	}
	ins, err := c.eng.ExecInspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	s, ctx := c.attachment(ins.OpenStdin)
	o.AttachOptions = s.streams(ins.OpenStdin, ins.OpenStdout, ins.OpenStderr)
	return s.close(c.eng.ExecStart(ctx, c.name, o))
}

func (c *call) execResize() error {
	h, w, err := c.size()
	if err != nil {
		return err
	}
	if err := c.eng.ExecResize(c.ctx(), c.name, h, w); err != nil {
		return err
	}
	return c.status(http.StatusOK)
}

func (c *call) execInspect() error {
	res, err := c.eng.ExecInspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, res)
}
