package unpack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression of a layer or an archive.
type Compression int

// The compressions that there are.
const (
	None Compression = iota
	Gzip
	Zstd
)

// magics are the first bytes of what can, and what can not, be read.
var magics = []struct {
	magic []byte
	name  string
	c     Compression
	ok    bool
}{
	{[]byte{0x1f, 0x8b, 0x08}, "gzip", Gzip, true},
	{[]byte{0x28, 0xb5, 0x2f, 0xfd}, "zstd", Zstd, true},
	{[]byte{0xfd, '7', 'z', 'X', 'Z', 0}, "xz", None, false},
	{[]byte("BZh"), "bzip2", None, false},
}

// zstdWindow bounds the memory that a hostile frame can ask for.
const zstdWindow = 128 << 20

// Decompressor opens compressed streams. Its zero value uses Go's decoders only.
type Decompressor struct {
	// Igzip is the path of Intel's igzip, several times faster than any Go
	// decoder; "" does without.
	Igzip string
}

// FindIgzip returns a Decompressor with igzip where it is installed.
func FindIgzip() Decompressor {
	p, err := exec.LookPath("igzip")
	if err != nil {
		return Decompressor{}
	}
	return Decompressor{Igzip: p}
}

// Detect tells r's compression. The reader returned starts where r did.
func Detect(r io.Reader) (Compression, *bufio.Reader, error) {
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, 64<<10)
	}
	head, err := br.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return None, br, err
	}
	for _, m := range magics {
		if !bytes.HasPrefix(head, m.magic) {
			continue
		}
		if !m.ok {
			return None, br, fmt.Errorf("%s compression is not supported; use gzip or zstd: %w", m.name, errdefs.ErrInvalidArgument)
		}
		return m.c, br, nil
	}
	return None, br, nil
}

// Open returns r decompressed. It reads until Close; closing early is fine.
// Damage is InvalidArgument.
func (d Decompressor) Open(ctx context.Context, r io.Reader) (io.ReadCloser, Compression, error) {
	c, br, err := Detect(r)
	if err != nil {
		return nil, c, err
	}
	switch c {
	case Gzip:
		if d.Igzip != "" {
			rc, err := d.igzip(ctx, br)
			return rc, c, err
		}
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, c, damaged(err)
		}
		return damageReader{z}, c, nil
	case Zstd:
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, c, damaged(err)
		}
		return damageReader{z.IOReadCloser()}, c, nil
	}
	return io.NopCloser(br), c, nil
}

func damaged(err error) error {
	return fmt.Errorf("compressed data is damaged: %w: %w", err, errdefs.ErrInvalidArgument)
}

// damageReader gives the decoder's own errors their kind. An error of the
// source passes through unchanged, as it may be worth a retry.
type damageReader struct{ io.ReadCloser }

func (d damageReader) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && isDamage(err) {
		err = damaged(err)
	}
	return n, err
}

func isDamage(err error) bool {
	var se *SourceError
	return !errors.Is(err, io.EOF) && !errors.As(err, &se) && !errors.Is(err, context.Canceled)
}

// SourceError marks an error as the source's, not the data's.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// sourceReader marks the errors of a source.
type sourceReader struct {
	r io.Reader
	n atomic.Int64 // bytes read
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		err = &SourceError{err}
	}
	return n, err
}

// igzip runs the program with the data on its standard input. The bytes are
// hostile and the program is C: it gets no privileges, no environment and only
// its two pipes.
func (d Decompressor) igzip(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		inW.Close()
		return nil, err
	}
	grow(inW)
	grow(outR)
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, d.Igzip, "-dc")
	cmd.Stdin, cmd.Stdout, cmd.Env = inR, outW, []string{}
	cmd.Dir = "/"
	var stderr bytes.Buffer
	cmd.Stderr = &limitedBuffer{b: &stderr}
	confine(cmd)
	err = cmd.Start()
	inR.Close()
	outW.Close()
	if err != nil {
		cancel()
		inW.Close()
		outR.Close()
		return nil, fmt.Errorf("start %s: %w", d.Igzip, err)
	}
	p := &process{out: outR, cmd: cmd, cancel: cancel, stderr: &stderr}
	p.feed.Go(func() {
		_, err := io.Copy(inW, r)
		inW.Close()
		p.feedErr = err
	})
	return p, nil
}

// process is a running decompressor.
type process struct {
	out     *os.File
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	stderr  *bytes.Buffer
	feed    sync.WaitGroup
	feedErr error
	once    sync.Once
	end     error
}

func (p *process) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if err == nil || n > 0 {
		return n, nil
	}
	if e := p.finish(); e != nil {
		return 0, e
	}
	return 0, err
}

// finish waits for the program at the end of its output. An error of the
// source is told first: the program only saw its input end early.
func (p *process) finish() error {
	p.once.Do(func() {
		p.feed.Wait()
		err := p.cmd.Wait()
		p.cancel()
		var se *SourceError
		switch {
		case errors.As(p.feedErr, &se):
			p.end = p.feedErr
		case err != nil:
			p.end = damaged(fmt.Errorf("%w: %s", err, bytes.TrimSpace(p.stderr.Bytes())))
		}
	})
	return p.end
}

// abort makes a Read in another goroutine return.
func (p *process) abort() {
	p.cancel()
	p.out.Close()
}

func (p *process) Close() error {
	p.abort()
	p.once.Do(func() {
		p.feed.Wait()
		_ = p.cmd.Wait()
	})
	return nil
}

// limitedBuffer keeps the first KiB of a program's complaints.
type limitedBuffer struct{ b *bytes.Buffer }

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if room := 1024 - l.b.Len(); room > 0 {
		l.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
