package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// Options select records. Zero Since and Until are unbounded.
type Options struct {
	Stdout, Stderr bool
	Since, Until   time.Time
	Tail           int // start with the last n records; -1: with the first that is there
	Follow         bool
	// Ended, if it is not nil, is closed when the last record has been written;
	// Follow then ends after that record. Otherwise Follow ends with the context.
	Ended <-chan struct{}
}

// Read calls fn for the selected records, oldest first. It reads while the log
// is written and rotated, and passes each record once. It ends with nil after
// the last record, with fn's error, or with the context's. A log that was never
// written is empty. Errors: NotImplemented for a driver that keeps nothing.
func Read(ctx context.Context, cfg Config, o Options, fn func(Record) error) error {
	l, err := cfg.parse()
	if err != nil {
		return err
	}
	if l.codec == nil {
		return fmt.Errorf("configured logging driver does not support reading: %w", errdefs.ErrNotImplemented)
	}
	r := &reader{layout: l, o: o, fn: fn}
	err = r.run(ctx)
	if r.cur != nil {
		r.cur.close()
	}
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

var errDone = errors.New("all selected records were read")

type reader struct {
	layout
	o   Options
	fn  func(Record) error
	cur *logFile // being read
	end bool     // cur was rotated away: what is in it is final
}

func (r *reader) run(ctx context.Context) error {
	var changed <-chan struct{}
	if r.o.Follow {
		var stop func()
		var err error
		if changed, stop, err = watch(ctx, r.path); err != nil {
			return fmt.Errorf("log: %w", err)
		}
		defer stop()
	}
	var until <-chan time.Time
	if r.o.Follow && !r.o.Until.IsZero() {
		t := time.NewTimer(time.Until(r.o.Until))
		defer t.Stop()
		until = t.C
	}
	if err := r.first(); err != nil {
		return err
	}
	ended := r.o.Ended
	last := !r.o.Follow // nothing more will be written
	for {
		if err := r.drain(ctx); err != nil || last {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			last = true
		case <-until:
			last = true
		case _, ok := <-changed:
			if !ok {
				// The log's directory is gone, and with it the log.
				last = true
			}
		}
	}
}

// drain passes on all there is now, across files.
func (r *reader) drain(ctx context.Context) error {
	for {
		if r.cur == nil {
			f, err := openLog(r.layout, 0)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			r.cur, r.end = f, false
		}
		for n := 0; ; n++ {
			if n%256 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			rec, err := r.cur.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("log: %w", err)
			}
			if err := r.pass(rec); err != nil {
				return err
			}
		}
		if !r.end {
			current, err := r.cur.is(r.path)
			if err != nil {
				return err
			}
			if current {
				return nil
			}
			// It was renamed; records may have come between the last look
			// and that.
			r.end = true
			continue
		}
		next, err := r.newer()
		if err != nil || next == nil {
			return err
		}
		r.cur.close()
		r.cur, r.end = next, false
	}
}

func (r *reader) pass(rec Record) error {
	if !r.o.Until.IsZero() && rec.Time.After(r.o.Until) {
		return errDone
	}
	if rec.Time.Before(r.o.Since) || rec.Stream == Stdout && !r.o.Stdout || rec.Stream == Stderr && !r.o.Stderr {
		return nil
	}
	return r.fn(rec)
}

// newer opens the file that was started after r.cur was rotated away; nil if
// there is none yet.
func (r *reader) newer() (*logFile, error) {
	// Names move while we look. A look is valid if our file has the same name
	// after it as before.
	for {
		n, err := r.find(r.cur)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, nil
		}
		if n < 0 {
			// Our file was deleted, so all that are left are newer.
			return r.oldest()
		}
		f, i, err := r.open(n-1, 0)
		if err != nil || f == nil {
			return nil, err
		}
		if again, err := r.find(r.cur); err != nil || again == n && r.vacant(i+1, n) {
			return f, err
		}
		f.close()
	}
}

// open opens the first file there is in the places from one to the other, both
// included, and tells its place. A nil file: there is none.
func (r *reader) open(from, to int) (*logFile, int, error) {
	step := 1
	if from > to {
		step = -1
	}
	for n := from; n != to+step; n += step {
		f, err := openLog(r.layout, n)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, n, err
		}
	}
	return nil, 0, nil
}

// vacant tells whether there is no file in the places from to below to. Files
// move up one place at a time, so a place found empty on the way down may have
// taken the file from below it since.
func (r *reader) vacant(from, to int) bool {
	for n := from; n < to; n++ {
		if r.occupied(n) {
			return false
		}
	}
	return true
}

// find tells which place f has now, -1 if it was deleted.
func (r *reader) find(f *logFile) (int, error) {
	for range 3 { // a rename under way may hide it
		for n := range r.maxFile {
			ok, err := f.is(r.rotated(n))
			if err != nil {
				return 0, err
			}
			if !ok && n > 0 {
				ok = f.isCompressed(r.rotated(n) + ".gz")
			}
			if ok {
				return n, nil
			}
		}
	}
	return -1, nil
}

// oldest opens the oldest file, nil if there is none.
func (r *reader) oldest() (*logFile, error) {
	for {
		f, n, err := r.open(r.maxFile-1, 0)
		if err != nil || f == nil || r.vacant(n+1, r.maxFile) {
			return f, err
		}
		f.close()
	}
}

// first opens the file with the first record to pass and goes to it. No log at
// all leaves r.cur nil.
func (r *reader) first() error {
	if r.o.Tail < 0 {
		return r.firstSince()
	}
	// The current file is missing between two steps of a rotation.
	cur, _, err := r.open(0, r.maxFile-1)
	if err != nil || cur == nil {
		return err
	}
	r.cur = cur
	for left := r.o.Tail; ; {
		n, err := r.cur.tail(left)
		if err != nil {
			return err
		}
		if left -= n; left <= 0 {
			return nil
		}
		older, err := r.older()
		if err != nil || older == nil {
			return err
		}
		r.cur.close()
		r.cur, r.end = older, true
	}
}

// firstSince skips files that were last written before Since.
func (r *reader) firstSince() error {
	f, err := r.oldest()
	if err != nil || f == nil {
		return err
	}
	for {
		r.cur = f
		fi, err := f.f.Stat()
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		current, err := f.is(r.path)
		if err != nil {
			return err
		}
		if current || f.gz != nil || !fi.ModTime().Before(r.o.Since) {
			return nil
		}
		next, err := r.newer()
		if err != nil || next == nil {
			return err
		}
		f.close()
		f = next
	}
}

// older opens the file before r.cur, nil if there is none.
func (r *reader) older() (*logFile, error) {
	for {
		n, err := r.find(r.cur)
		if err != nil || n < 0 {
			return nil, err
		}
		f, _, err := r.open(n+1, r.maxFile-1)
		if err != nil {
			return nil, err
		}
		if again, err := r.find(r.cur); err != nil || again == n {
			return f, err
		}
		if f != nil {
			f.close()
		}
	}
}

// logFile is one open file of a log, at a place between two records.
type logFile struct {
	scanner
	f  *os.File
	gz *gzip.Reader // nil if it is not compressed
	at int64        // what gz has given
}

func openLog(l layout, n int) (*logFile, error) {
	f, err := openShared(l.rotated(n), os.O_RDONLY, 0)
	if err == nil {
		return &logFile{f: f, scanner: scanner{codec: l.codec, read: f.ReadAt, skipDamaged: true}}, nil
	}
	if n > 0 && errors.Is(err, fs.ErrNotExist) {
		f, err = openShared(l.rotated(n)+".gz", os.O_RDONLY, 0)
		if err == nil {
			lf := &logFile{f: f, scanner: scanner{codec: l.codec, skipDamaged: true, sequential: true}}
			lf.read = lf.inflate
			if lf.gz, err = gzip.NewReader(f); err != nil {
				_ = f.Close()
				return nil, fmt.Errorf("log %s: %w", f.Name(), err)
			}
			return lf, nil
		}
	}
	return nil, fmt.Errorf("log: %w", err)
}

// inflate reads at off, which only grows.
func (f *logFile) inflate(p []byte, off int64) (int, error) {
	if off > f.at {
		n, err := io.CopyN(io.Discard, f.gz, off-f.at)
		f.at += n
		if err != nil {
			return 0, err
		}
	}
	if off < f.at {
		if err := f.rewind(); err != nil {
			return 0, err
		}
		return f.inflate(p, off)
	}
	n, err := io.ReadFull(f.gz, p)
	f.at += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

func (f *logFile) rewind() error {
	if _, err := f.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f.at = 0
	return f.gz.Reset(f.f)
}

// tail goes to the n-th record from the end and tells how many there are, at
// most n.
func (f *logFile) tail(n int) (int, error) {
	if f.gz != nil {
		return f.tailCompressed(n)
	}
	fi, err := f.f.Stat()
	if err != nil {
		return 0, fmt.Errorf("log: %w", err)
	}
	end, err := soundEnd(f.f, fi.Size(), f.codec)
	if err != nil {
		return 0, fmt.Errorf("log: %w", err)
	}
	f.pos = end
	found := 0
	var buf []byte // what lies before f.pos
	for found < n && f.pos > 0 {
		start := f.codec.back(buf)
		if start < 0 && int64(len(buf)) < f.pos {
			if len(buf) > maxRecord {
				return found, nil // damaged: nothing before can be found from behind
			}
			size := min(f.pos, int64(max(scanBuffer, 2*len(buf))))
			buf = make([]byte, size)
			if _, err := f.f.ReadAt(buf, f.pos-size); err != nil {
				return 0, fmt.Errorf("log: %w", err)
			}
			continue
		}
		if start < 0 {
			start = 0
		}
		f.pos -= int64(len(buf) - start)
		buf = buf[:start]
		found++
	}
	return found, nil
}

// tailCompressed counts first: a compressed file is read from its start only.
func (f *logFile) tailCompressed(n int) (int, error) {
	count := func(limit int) (int, error) {
		for i := 0; ; i++ {
			if i == limit {
				return i, nil
			}
			if _, err := f.next(); errors.Is(err, io.EOF) {
				return i, nil
			} else if err != nil {
				return i, fmt.Errorf("log: %w", err)
			}
		}
	}
	total, err := count(-1)
	if err != nil || total <= n && n != 0 {
		f.pos = 0
		return min(total, n), errors.Join(err, f.rewind())
	}
	f.pos = 0
	if err := f.rewind(); err != nil {
		return 0, err
	}
	_, err = count(total - n)
	return n, err
}

// is tells whether path now names this file.
func (f *logFile) is(path string) (bool, error) {
	own, err := f.f.Stat()
	if err != nil {
		return false, fmt.Errorf("log: %w", err)
	}
	if f.gz != nil {
		path += ".gz"
	}
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("log: %w", err)
	}
	return os.SameFile(own, fi), nil
}

// isCompressed tells whether path is what this file became.
func (f *logFile) isCompressed(path string) bool {
	if f.gz != nil {
		return false
	}
	z, err := openShared(path, os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer z.Close()
	h, err := gzip.NewReader(z)
	if err != nil {
		return false
	}
	own, err := identity(f.f)
	return err == nil && h.Comment == own
}

func (f *logFile) close() { _ = f.f.Close() }

// poll is watch where the system tells nothing.
func poll(ctx context.Context) (<-chan struct{}, func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	c := make(chan struct{}, 1)
	go func() {
		defer close(c)
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				select {
				case c <- struct{}{}:
				default:
				}
			}
		}
	}()
	return c, cancel, nil
}
