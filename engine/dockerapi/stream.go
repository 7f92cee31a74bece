package dockerapi

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/caisson-engine/caisson/images"
)

// flusher sends what is written to it as soon as the connection takes it, and
// gathers what arrives meanwhile: the first byte waits for nothing, and a fast
// producer pays one system call for many records. A writer waits while
// maxGathered bytes are under way.
type flusher struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	mu   sync.Mutex
	cond sync.Cond
	buf  []byte
	done bool  // no more writes
	err  error // of the connection
	gone chan struct{}
}

const maxGathered = 64 << 10 // bytes

func newFlusher(w http.ResponseWriter) *flusher {
	f := &flusher{w: w, rc: http.NewResponseController(w), gone: make(chan struct{})}
	f.cond.L = &f.mu
	go f.run()
	return f
}

// Flush sends the headers; it is for before the first Write.
func (f *flusher) Flush() error { return f.rc.Flush() }

// Write copies p. It fails once the connection did.
func (f *flusher) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.buf) >= maxGathered && f.err == nil {
		f.cond.Wait()
	}
	if f.err != nil {
		return 0, f.err
	}
	f.buf = append(f.buf, p...)
	f.cond.Broadcast()
	return len(p), nil
}

// Close sends what is left and waits for that.
func (f *flusher) Close() {
	f.mu.Lock()
	f.done = true
	f.cond.Broadcast()
	f.mu.Unlock()
	<-f.gone
}

func (f *flusher) run() {
	defer close(f.gone)
	var spare []byte
	for {
		f.mu.Lock()
		for len(f.buf) == 0 && !f.done {
			f.cond.Wait()
		}
		if len(f.buf) == 0 {
			f.mu.Unlock()
			return
		}
		out := f.buf
		f.buf = spare[:0]
		f.cond.Broadcast()
		f.mu.Unlock()

		_, err := f.w.Write(out)
		if err == nil {
			err = f.rc.Flush()
		}
		spare = out
		if err != nil {
			f.mu.Lock()
			f.err = err
			f.cond.Broadcast()
			f.mu.Unlock()
			return
		}
	}
}

// frames multiplexes standard streams over one connection, 8 bytes of header
// before each piece, so that clients can tell them apart.
type frames struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// stream returns the writer of one of the streams.
func (f *frames) stream(t stdcopy.StdType) io.Writer { return frameWriter{f, t} }

type frameWriter struct {
	f *frames
	t stdcopy.StdType
}

// Write sends p as one frame, header and body with one write.
func (w frameWriter) Write(p []byte) (int, error) {
	f := w.f
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = append(f.buf[:0], byte(w.t), 0, 0, 0)
	f.buf = binary.BigEndian.AppendUint32(f.buf, uint32(len(p)))
	f.buf = append(f.buf, p...)
	if _, err := f.w.Write(f.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

// progress writes the stream of JSON messages with which pull, push, load and
// import report. Nothing is sent before the first message, so that an error
// before it still gets a status code of its own.
type progress struct {
	c       *call
	rc      *http.ResponseController
	started bool
	dead    bool // the client stopped reading
}

func (c *call) progress() *progress {
	return &progress{c: c, rc: http.NewResponseController(c.w)}
}

// streamError is jsonstream.Message with the "error" key that older clients read.
type streamError struct {
	Error  string            `json:"error"`
	Detail *jsonstream.Error `json:"errorDetail"`
}

// update is an images.Progress.
func (p *progress) update(u images.Update) {
	m := jsonstream.Message{ID: u.ID, Status: u.Status}
	if u.ID != "" || u.Total != 0 {
		m.Progress = &jsonstream.Progress{Current: u.Current, Total: u.Total}
	}
	if u.Aux != nil {
		aux, err := json.Marshal(u.Aux)
		if err != nil {
			return
		}
		raw := json.RawMessage(aux)
		m.Aux = &raw
	}
	p.send(m)
}

// send writes one message. A client that takes none for writeTimeout is given
// up, so that it cannot hold up work that others share.
func (p *progress) send(m any) {
	if p.dead {
		return
	}
	body, err := json.Marshal(m)
	if err != nil {
		return
	}
	if !p.started {
		p.started = true
		p.c.w.Header().Set("Content-Type", "application/json")
		p.c.w.WriteHeader(http.StatusOK)
	}
	_ = p.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every listener has deadlines
	_, err = p.c.w.Write(append(body, '\r', '\n'))
	if err == nil {
		err = p.rc.Flush()
	}
	p.dead = err != nil
}

// finish ends the stream: with the error as its last message if something was
// sent already, else by returning it.
func (p *progress) finish(err error) error {
	if err != nil && p.started {
		if !errors.Is(err, context.Canceled) {
			status, msg := statusOf(err)
			p.send(streamError{msg, &jsonstream.Error{Code: status, Message: msg}})
		}
		p.c.audit(err)
		err = nil
	}
	if p.started {
		_ = p.rc.SetWriteDeadline(time.Time{})
	}
	return err
}

// lazy starts a response with the first byte that is written, so that an error
// before it still gets a status code of its own.
type lazy struct {
	c       *call
	kind    string // content type
	started bool
}

func (l *lazy) Write(p []byte) (int, error) {
	if !l.started {
		l.started = true
		l.c.w.Header().Set("Content-Type", l.kind)
		l.c.w.WriteHeader(http.StatusOK)
	}
	return l.c.w.Write(p)
}

// finish returns err if nothing was sent. Otherwise it breaks the connection,
// which is how HTTP says that a body is incomplete.
func (l *lazy) finish(err error) error {
	switch {
	case err == nil:
		if !l.started {
			_, _ = l.Write(nil)
		}
		return nil
	case !l.started:
		return err
	}
	l.c.audit(err)
	l.c.log.Debug("stream broken off", "path", l.c.r.URL.Path, "error", err)
	panic(http.ErrAbortHandler)
}

// copyOut sends a stream and closes it.
func (c *call) copyOut(kind string, r io.ReadCloser) error {
	out := &lazy{c: c, kind: kind}
	_, err := io.Copy(out, r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return out.finish(err)
}
