package kit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/logs"
)

// stream is stdout or stderr on its way. Everything but spool, size and cut is
// guarded by Output.work; these three also by Output.mu for readers.
type stream struct {
	out   *Output
	index int
	src   *source  // the pipe, both ends
	spool *os.File // nil until the first byte
	fd    int      // of spool
	size  int64    // of the spool
	used  int64    // up to where it was logged: the start of a line
	holes int64    // up to where it was given back
}

func (o *Output) openStream(i int, held *os.File, recover bool) (*stream, error) {
	fd, err := openPipe(held)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	s := &stream{out: o, index: i}
	if s.src, err = o.pumps.add(o, fd); err != nil {
		return nil, err
	}
	if recover {
		if err := s.openSpool(0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			o.pumps.remove(s.src)
			return nil, err
		}
	}
	return s, nil
}

// openPipe opens both ends of a pipe, held or new, in one descriptor of ours.
func openPipe(held *os.File) (fd int, err error) {
	if held != nil {
		cerr := control(held, func(h int) error {
			fd, err = reopen(h, unix.O_NONBLOCK)
			return err
		})
		return fd, cerr
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return -1, err
	}
	defer func() { _, _ = unix.Close(ends[0]), unix.Close(ends[1]) }()
	return reopen(ends[0], unix.O_NONBLOCK)
}

func (s *stream) openSpool(flags int) error {
	path := filepath.Join(s.out.dir, streamFiles[s.index]+".spool")
	// Not through os.OpenFile: a regular file needs no poller.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	s.out.mu.Lock()
	s.spool, s.fd, s.size = os.NewFile(uintptr(fd), path), fd, st.Size
	s.out.mu.Unlock()
	return nil
}

// take moves up to spliceSize bytes from the pipe to the spool.
func (s *stream) take() (int, error) {
	if s.out.ended {
		return s.discard()
	}
	total := 0
	for total < spliceSize {
		if s.spool == nil {
			// Only when there is something: most streams stay silent.
			if n, err := unix.IoctlGetInt(s.src.fd, unix.TIOCINQ); err == nil && n == 0 {
				return total, nil
			}
			if err := s.openSpool(unix.O_CREAT); err != nil {
				return total, err
			}
		}
		off := s.size
		n, err := unix.Splice(s.src.fd, nil, s.fd, &off, spliceSize-total, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if n > 0 {
			total += int(n)
			s.out.mu.Lock()
			s.size += n
			s.out.mu.Unlock()
			continue
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), err == nil:
			return total, nil
		default:
			return total, fmt.Errorf("spool: %w", err)
		}
	}
	return total, nil
}

// discard throws away what others write after the process has ended.
func (s *stream) discard() (int, error) {
	buf := lineBuffers.Get().(*[]byte)
	defer lineBuffers.Put(buf)
	n, err := unix.Read(s.src.fd, *buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return max(n, 0), err
}

var lineBuffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// logLines writes what is new in the spools to the log, whole lines only unless
// last. o.work is held.
func (o *Output) logLines(last bool) {
	if o.logCfg == nil || o.ended {
		for _, s := range o.streams {
			if s != nil {
				s.used = s.size
			}
		}
		return
	}
	buf := lineBuffers.Get().(*[]byte)
	defer lineBuffers.Put(buf)
	for _, s := range o.streams {
		if s == nil || s.spool == nil {
			continue
		}
		for s.used < s.size {
			n, err := s.spool.ReadAt((*buf)[:min(int64(len(*buf)), s.size-s.used)], s.used)
			if err != nil && !errors.Is(err, io.EOF) || n == 0 {
				o.warn("output of %s cannot be read back: %v", err)
				return
			}
			// The time never stands still or goes back within a log, so that
			// records can be told apart by it.
			now := time.Now()
			rest := (*buf)[:n]
			for {
				line := nextLine(rest, last && s.used+int64(len(rest)) == s.size)
				if line == 0 {
					break
				}
				if !now.After(o.lastTime) {
					now = o.lastTime.Add(1)
				}
				o.lastTime = now
				s.used += int64(line)
				o.append(logs.Record{Time: now, Stream: streamNames[s.index], Line: rest[:line]})
				rest = rest[line:]
			}
			if len(rest) == n {
				break
			}
		}
	}
	o.flush()
}

// nextLine is how many bytes of b the next record takes; 0 if it is not
// complete. This and nothing else decides how bytes become records.
func nextLine(b []byte, last bool) int {
	if i := bytes.IndexByte(b[:min(len(b), logs.MaxLine)], '\n'); i >= 0 {
		return i + 1
	}
	if len(b) >= logs.MaxLine {
		return logs.MaxLine
	}
	if last {
		return len(b)
	}
	return 0
}

// append hands one record to the log, and rotates it when it is full.
func (o *Output) append(r logs.Record) {
	if o.writer == nil {
		w, err := logs.OpenWriter(*o.logCfg)
		if err != nil {
			o.warn("output of %s cannot be logged: %v", err)
			return
		}
		o.writer = w
		// The place where this process starts in the log, before its first
		// record.
		o.store(w.Mark(), r)
	}
	if !o.writer.Append(r) {
		if o.writer.Buffered() >= 1<<20 {
			o.flush()
		}
		return
	}
	o.flush()
	m, err := o.writer.Rotate()
	if err != nil {
		o.warn("log of %s: %v", err)
	}
	o.storeMark(m)
}

func (o *Output) flush() {
	if o.writer == nil {
		return
	}
	m, err := o.writer.Flush()
	if err != nil {
		o.warn("log of %s: %v", err)
	}
	o.storeMark(m)
}

func (o *Output) warn(format string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.complain(format, err)
}

// The cursor file: magic(4) crc32(4) log file(8) log offset(8) stdout(8) stderr(8).
const cursorSize = 40

var cursorMagic = [4]byte{'C', 'C', 'U', '1'}

// store writes the cursor as it was before the record r was taken.
func (o *Output) store(m logs.Mark, r logs.Record) {
	for _, s := range o.streams {
		if s != nil && streamNames[s.index] == r.Stream {
			s.used -= int64(len(r.Line))
			o.storeMark(m)
			s.used += int64(len(r.Line))
		}
	}
}

func (o *Output) storeMark(m logs.Mark) {
	if o.cursor == nil {
		f, err := os.OpenFile(filepath.Join(o.dir, "cursor"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			o.warn("output of %s cannot be made safe against a kill: %v", err)
			return
		}
		o.cursor = f
	}
	var b [cursorSize]byte
	copy(b[:], cursorMagic[:])
	binary.BigEndian.PutUint64(b[8:], m.File)
	binary.BigEndian.PutUint64(b[16:], uint64(m.Offset))
	for i, s := range o.streams {
		if s != nil {
			binary.BigEndian.PutUint64(b[24+8*i:], uint64(s.used))
		}
	}
	binary.BigEndian.PutUint32(b[4:], crc32.ChecksumIEEE(b[8:]))
	if _, err := o.cursor.WriteAt(b[:], 0); err != nil {
		o.warn("output of %s cannot be made safe against a kill: %v", err)
	}
}

// recover finds out how far a killed backend came; see Output.
func (o *Output) recover() error {
	if o.logCfg == nil {
		for _, s := range o.streams {
			if s != nil {
				s.used = s.size
			}
		}
		return nil
	}
	var b [cursorSize]byte
	f, err := os.OpenFile(filepath.Join(o.dir, "cursor"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was ever logged
	}
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	o.cursor = f
	if n, err := f.ReadAt(b[:], 0); n == 0 && errors.Is(err, io.EOF) {
		return nil // killed before the first cursor, and so before the first record
	} else if err != nil || [4]byte(b[:4]) != cursorMagic || binary.BigEndian.Uint32(b[4:]) != crc32.ChecksumIEEE(b[8:]) {
		o.warn("output of %s: its cursor cannot be read, lines may be missing: %v", errors.Join(err, fs.ErrInvalid))
		for _, s := range o.streams {
			if s != nil {
				s.used = s.size
			}
		}
		return nil
	}
	for i, s := range o.streams {
		if s == nil {
			continue
		}
		if s.used = int64(binary.BigEndian.Uint64(b[24+8*i:])); s.used > s.size || s.used < 0 {
			s.used = 0
		}
		s.holes = 0
	}
	w, err := logs.OpenWriter(*o.logCfg)
	if err != nil {
		return err
	}
	o.writer = w
	mark := logs.Mark{File: binary.BigEndian.Uint64(b[8:]), Offset: int64(binary.BigEndian.Uint64(b[16:]))}
	if err := w.Replay(mark, o.replayed); err != nil {
		return err
	}
	o.storeMark(w.Mark())
	return nil
}

// replayed moves a stream over the bytes that made a record which the cursor
// does not know of.
func (o *Output) replayed(r logs.Record) {
	if r.Time.After(o.lastTime) {
		o.lastTime = r.Time
	}
	for _, s := range o.streams {
		if s == nil || s.spool == nil || streamNames[s.index] != r.Stream {
			continue
		}
		b := make([]byte, min(logs.MaxLine, s.size-s.used))
		n, err := s.spool.ReadAt(b, s.used)
		if err != nil && !errors.Is(err, io.EOF) {
			o.warn("output of %s cannot be read back: %v", err)
		}
		// A record without a newline was the last of its stream, or a full one.
		s.used += int64(nextLine(b[:n], true))
	}
}

// trim gives back what neither the log nor a client needs. o.work is held.
func (o *Output) trim() {
	o.mu.Lock()
	defer o.mu.Unlock()
	cut := false
	for _, s := range o.streams {
		if s == nil || s.spool == nil {
			continue
		}
		low := s.used
		for r := range o.readers {
			if r.want[s.index] {
				low = min(low, r.at[s.index])
			}
		}
		switch {
		case low == s.size && s.size >= cutSize:
			if err := unix.Ftruncate(s.fd, 0); err != nil {
				o.complain("spool of %s: %v", err)
				continue
			}
			s.size, s.used, s.holes, cut = 0, 0, 0, true
			for r := range o.readers {
				r.at[s.index] = 0
			}
		case low-s.holes >= punchStep:
			// A filesystem that cannot do it keeps the bytes until all are used.
			if err := unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.holes, low-s.holes); err == nil {
				s.holes = low
			}
		}
	}
	if cut && o.writer != nil {
		m := o.writer.Mark()
		o.mu.Unlock()
		o.storeMark(m)
		o.mu.Lock()
	}
}
