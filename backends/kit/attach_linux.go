package kit

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Reader is one client's view of an Output, from the moment of Attach on. Recv
// belongs to one goroutine; Close may be called from any.
type Reader struct {
	out    *Output
	want   [2]bool
	at     [2]int64 // place in each spool; guarded by out.mu
	news   chan struct{}
	closed bool
	err    error
	buf    []byte
}

// recvSize is how much one Recv gives, in bytes.
const recvSize = 32 << 10

// Attach connects a client to the streams it wants. With a terminal everything
// is stdout.
func (o *Output) Attach(stdout, stderr bool) *Reader {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := &Reader{out: o, news: make(chan struct{}, 1)}
	for i, want := range [2]bool{stdout, stderr} {
		if s := o.streams[i]; s != nil && want {
			r.want[i], r.at[i] = true, s.size
		}
	}
	o.readers[r] = struct{}{}
	return r
}

func (r *Reader) notify() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// Recv returns the next piece, or io.EOF after the last one, or after Close.
// The piece's data is valid until the next Recv.
func (r *Reader) Recv() (*backendpb.AttachOutput, error) {
	for {
		piece, err := r.poll()
		if piece != nil || err != nil {
			return piece, err
		}
		<-r.news
	}
}

func (r *Reader) poll() (*backendpb.AttachOutput, error) {
	o := r.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	if r.closed {
		return nil, io.EOF
	}
	for i, s := range o.streams {
		if !r.want[i] || s.spool == nil || r.at[i] >= s.size {
			continue
		}
		if r.buf == nil {
			r.buf = make([]byte, recvSize)
		}
		n, err := s.spool.ReadAt(r.buf[:min(recvSize, s.size-r.at[i])], r.at[i])
		if n == 0 {
			return nil, fmt.Errorf("output: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		r.at[i] += int64(n)
		o.progress()
		return &backendpb.AttachOutput{Stream: streamTypes[i], Data: r.buf[:n]}, nil
	}
	r.buf = nil // an idle client costs no buffer
	if o.ended {
		r.drop()
		return nil, io.EOF
	}
	return nil, nil
}

// Close detaches.
func (r *Reader) Close() error {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	r.drop()
	return nil
}

func (r *Reader) drop() {
	if r.closed {
		return
	}
	r.closed = true
	delete(r.out.readers, r)
	r.notify()
	r.out.progress()
	r.out.release()
}

// lag is how far r is behind, in bytes.
func (r *Reader) lag() (n int64) {
	for i, s := range r.out.streams {
		if r.want[i] {
			n = max(n, s.size-r.at[i])
		}
	}
	return n
}

// lagging tells whether a client is so far behind that the process must wait.
func (o *Output) lagging() bool {
	for r := range o.readers {
		if r.lag() >= o.pumps.lag {
			return true
		}
	}
	return false
}

// hold stops moving until the client that is behind has read on, or for
// stallLimit. o.mu is held.
func (o *Output) hold() {
	o.held = true
	if o.pumps.patient {
		return
	}
	before := map[*Reader][2]int64{}
	for r := range o.readers {
		before[r] = r.at
	}
	o.stall = time.AfterFunc(stallLimit, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if !o.held || o.closed {
			return
		}
		for r := range o.readers {
			if r.lag() >= o.pumps.lag/2 && before[r] == r.at {
				r.err = errStalled
				r.drop()
			}
		}
		if o.held {
			o.hold()
		}
	})
}

// progress goes on moving when every client has read enough. o.mu is held.
func (o *Output) progress() {
	if !o.held {
		return
	}
	for r := range o.readers {
		if r.lag() >= o.pumps.lag/2 {
			return
		}
	}
	o.held = false
	if o.stall != nil {
		o.stall.Stop()
	}
	if !o.running && !o.closed {
		o.running = true
		go o.run()
	}
}
