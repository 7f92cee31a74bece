package unpack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	chunkSize = 256 << 10
	// chunksAhead is how many chunks each step may be ahead of the next, so
	// that a layer holds at most a few MiB.
	chunksAhead = 4
)

var chunks = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

type chunk struct {
	buf *[]byte
	n   int
	err error // what ended the stream, io.EOF included; sent last
}

// pump reads a decompressed stream in one goroutine, hashes it in a second and
// is read in the caller's. The compressed and decompressed sizes are watched.
type pump struct {
	in     <-chan chunk
	cur    chunk
	off    int
	sum    hash.Hash
	size   int64
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newPump(ctx context.Context, src *sourceReader, dec io.Reader) *pump {
	ctx, cancel := context.WithCancel(ctx)
	read, hashed := make(chan chunk, chunksAhead), make(chan chunk, chunksAhead)
	p := &pump{in: hashed, sum: sha256.New(), cancel: cancel}
	p.wg.Go(func() {
		defer close(read)
		var out int64
		for {
			b := chunks.Get().(*[]byte)
			n, err := io.ReadFull(dec, *b)
			if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
				// A short last chunk; a truncated source says so on the next read.
				err = nil
			}
			out += int64(n)
			if err == nil && out > ratioFrom && out/maxRatio > src.n.Load() {
				err = fmt.Errorf("layer is a decompression bomb: %d bytes out of %d: %w", out, src.n.Load(), errdefs.ErrInvalidArgument)
			}
			select {
			case read <- chunk{b, n, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	p.wg.Go(func() {
		defer close(hashed)
		for c := range read {
			p.sum.Write((*c.buf)[:c.n])
			p.size += int64(c.n)
			select {
			case hashed <- c:
			case <-ctx.Done():
				return
			}
		}
	})
	return p
}

func (p *pump) Read(b []byte) (int, error) {
	for p.off == p.cur.n {
		if p.cur.err != nil {
			return 0, p.cur.err
		}
		if p.cur.buf != nil {
			chunks.Put(p.cur.buf)
			p.cur.buf = nil
		}
		c, ok := <-p.in
		if !ok {
			return 0, context.Canceled
		}
		p.cur, p.off = c, 0
	}
	n := copy(b, (*p.cur.buf)[p.off:p.cur.n])
	p.off += n
	return n, nil
}

// close waits for the goroutines to end; their source has ended.
func (p *pump) close() {
	p.cancel()
	p.wg.Wait()
}

// digest is the hash of all that was read, after io.EOF.
func (p *pump) digest() digest.Digest { return digest.NewDigest(digest.SHA256, p.sum) }
